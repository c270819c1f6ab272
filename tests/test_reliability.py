"""Reliability of what is simulated from known variances is known."""

import numpy as np
import pytest

from alignvis.reliability import Correlations, halves, noise_ceiling, of_halves, split_half, stepped_up


def simulated(signal: float, noise: float, repetitions: int, images: int = 400, seed: int = 0) -> np.ndarray:
    """(images, repetitions, 3, 5): variance ``signal`` between images, ``noise`` between repetitions."""
    rng = np.random.default_rng(seed)
    means = signal**0.5 * rng.standard_normal((images, 1, 3, 5)) + 7.0
    return means + noise**0.5 * rng.standard_normal((images, repetitions, 3, 5))


@pytest.mark.parametrize("repetitions", [2, 3, 4, 5, 12])
def test_known_variances_give_the_known_reliability(repetitions):
    """The mean of n repetitions has reliability signal / (signal + noise / n), and so says Spearman-Brown."""
    truth = 1 / (1 + 3 / repetitions)
    assert split_half(simulated(1, 3, repetitions), draws=20) == pytest.approx(truth, abs=0.03)


def test_noise_alone_has_none_and_signal_alone_has_all():
    assert split_half(simulated(0, 1, 6)) == pytest.approx(0, abs=0.05)
    assert split_half(simulated(1, 0, 6)) == pytest.approx(1)
    assert split_half(simulated(1, 1, 1)) is None and split_half(simulated(1, 1, 4, images=1)) is None
    assert split_half(np.ones((10, 4, 3))) is None


def test_the_ceiling_is_what_the_true_signal_correlates_with():
    """Nobody can do better than the truth, and the truth correlates by the root of the reliability."""
    responses = simulated(1, 3, 4, images=4000)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((4000, 1, 3, 5)) + 7.0  # as `simulated` draws it
    reached = np.corrcoef(truth[:, 0, 0, 0], responses[:, :, 0, 0].mean(axis=1))[0, 1]
    assert noise_ceiling(split_half(responses)) == pytest.approx(reached, abs=0.02)
    assert noise_ceiling(-0.2) == 0 and noise_ceiling(0.25) == 0.5


def test_spearman_brown_by_hand():
    assert stepped_up(0.5, 2) == pytest.approx(2 / 3) and stepped_up(0.5, 1) == 0.5
    assert stepped_up(stepped_up(0.4, 7), 1 / 7) == pytest.approx(0.4)  # up, and down again
    assert stepped_up(1.0, 40) == 1.0 and stepped_up(0.0, 9) == 0.0 and stepped_up(-1.0, 2) is None


@pytest.mark.parametrize("repetitions", [2, 5, 80])
def test_halves_share_no_repetition_and_differ_from_image_to_image(repetitions):
    first, second = halves(50, repetitions, np.random.default_rng(0))
    assert not (first & second).any()
    assert (first.sum(axis=1) == repetitions // 2).all() and (second.sum(axis=1) == repetitions // 2).all()
    assert len(np.unique(first, axis=0)) > 1
    assert abs(first.mean(axis=0) - repetitions // 2 / repetitions).max() < 0.3  # no repetition is preferred


def test_correlations_in_parts_are_numpys_however_far_from_zero():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 90, 4))
    y += x * [0, 0.5, 2, 0]
    x[:, 3] = 1.0  # a measure that does not vary
    for offset, scale in ((0, 1), (1e6, 1), (0, 1e-9)):
        both = Correlations(4)
        for part in (slice(0, 1), slice(1, 50), slice(50, 90)):
            both.add(scale * x[part] + offset, scale * y[part] + offset)
        expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
        assert both.values()[:3] == pytest.approx(expected, abs=1e-6) and np.isnan(both.values()[3])


def test_the_reliability_of_one_repetition_and_of_all():
    rng = np.random.default_rng(0)
    one = Correlations(1)
    truth = rng.standard_normal((20_000, 1))
    one.add(*(truth + rng.standard_normal((2, 20_000, 1)) * 0.5**0.5))  # halves of two: noise 1 a repetition
    everything, single = of_halves([one], 4)
    assert everything == pytest.approx(1 / (1 + 1 / 4), abs=0.01) and single == pytest.approx(1 / 2, abs=0.01)
    assert of_halves([one], 5)[0] == pytest.approx(1 / (1 + 1 / 5), abs=0.01)
    assert of_halves([one], 1) is None and of_halves([], 4) is None
