"""The whole way from two tables to a score, on a simulated subject whose best possible score is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from alignvis.recipe import Recipe
from alignvis.stats import wilson
from tests.known_answer import TESTS, Recording, make_recording, make_subject

# the published treatment of responses; rate, temperature and epochs suit one linear layer
RECIPE = Recipe(rate=0.01, epochs=30, temperature=0.1, schedule="cosine", validation="concept")
CHANCE = 1 / TESTS


@pytest.fixture
def recording(tmp_path) -> Recording:
    """At most 3200 training pictures; 16 repetitions name nearly every test picture, and one names few."""
    return make_recording(tmp_path, make_subject(noise=0.4), images=3200, repetitions=16)


def test_the_ceiling_of_two_pictures_is_the_normal_integral():
    """Of two pictures at a distance d, a reading with noise s of n trials names the right one with Phi(d √n / 2 s)."""
    subject, latent = make_subject(noise=0.8), np.eye(2, 8)
    share, _ = subject.best_top1(latent, 4, draws=20_000)
    assert share == pytest.approx(ndtr(2**0.5 * 4**0.5 / 2 / 0.8), abs=0.008)


def test_the_ceiling_is_what_the_one_who_knows_reaches(recording):
    for repetitions in (1, 2, 4, 16):
        ceiling, error = recording.ceiling(repetitions)
        assert recording.best_possible(repetitions) == pytest.approx(ceiling, abs=3 * error)


@pytest.mark.parametrize("noise", [0.25, 0.4, 0.6])
def test_more_training_pictures_bring_the_decoder_to_the_ceiling_and_never_above(tmp_path, noise):
    """Without the published normalisation, whose norm moves with the noise and costs two or three points here."""
    recipe = replace(RECIPE, normalisation="none")
    recording = make_recording(tmp_path, make_subject(noise=noise), images=6400, repetitions=4)
    best, (ceiling, error) = recording.best_possible(), recording.ceiling()
    top1 = [recording.score("linear", recipe, images=images)["top1"] for images in (200, 800, 6400)]
    print(f"noise {noise}: {top1}; ceiling {ceiling:.3f} ± {error:.3f}, on these trials {best:.3f}")
    assert max(top1) <= ceiling + 3 * error
    assert top1[0] + 0.05 < top1[2] and top1[0] - 2 * error < top1[1] < top1[2] + 2 * error
    assert top1[2] == pytest.approx(ceiling, abs=0.06) and top1[2] == pytest.approx(best, abs=0.06)


def test_more_repetitions_help_as_the_ceiling_says(recording):
    top1, best = {}, {}
    for repetitions in (1, 2, 4, 16):
        top1[repetitions] = recording.score("linear", RECIPE, repetitions=repetitions)["top1"]
        best[repetitions] = recording.ceiling(repetitions)[0]
        assert top1[repetitions] == pytest.approx(recording.best_possible(repetitions), abs=0.06)
    print(f"by repetitions {top1}; ceilings {best}")
    assert top1[2] > 1.5 * top1[1] and top1[4] > 1.5 * top1[2] and top1[16] > 0.93


def test_five_seeds_agree(recording):
    """They meet the same test pictures, so they differ by less than five draws of 400 answers would."""
    scores = [recording.score("linear", RECIPE, images=800, repetitions=4, seed=seed) for seed in range(5)]
    top1 = [score["top1"] for score in scores]
    low, high = wilson(np.mean(top1), TESTS)
    print(f"five seeds {top1}; interval {low:.3f} to {high:.3f}")
    assert low < min(top1) and max(top1) < high
    assert len({score["weights_sha256"] for score in scores}) == 5


def test_shuffled_pairs_stay_at_chance(recording):
    """With chance 1/400, six right answers in 400 come once in 1700 times."""
    for seed in range(3):
        score = recording.score("linear", RECIPE, images=800, seed=seed, shuffled=True)
        print(f"shuffled: top-1 {score['top1']:.4f}, median rank {score['median_rank']}")
        assert score["top1"] < 6 * CHANCE
        assert score["median_rank"] == pytest.approx(200, abs=40)
