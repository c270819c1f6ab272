from itertools import product

import numpy as np
import pytest
import scipy.stats
from scipy.stats import rankdata

from alignvis import paired
from alignvis.errors import AlignvisError
from alignvis.paired import holm, paired_t, permutation, wilcoxon

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 40])
def test_paired_t_is_scipys(n):
    first, second = RNG.random((2, n)) + [[0.1], [0.0]]
    expected = scipy.stats.ttest_rel(first, second)
    found = paired_t(first - second)
    assert (found.t, found.df, found.p) == pytest.approx((expected.statistic, n - 1, expected.pvalue))
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx((first - second).mean())
    assert found.dz == pytest.approx(found.t / n**0.5)
    wider = paired_t(first - second, level=0.99)
    assert wider.low < found.low and paired_t(second - first).p == pytest.approx(found.p)


def test_equal_differences_tell_nothing_of_others():
    none = paired_t([0.0, 0.0, 0.0])
    assert (none.t, none.p, none.low, none.high, none.dz) == (0.0, 1.0, None, None, None)
    equal = paired_t([0.35 - 0.34, 0.21 - 0.20])  # equal, but for rounding
    assert 0.35 - 0.34 != 0.21 - 0.20
    assert equal.mean == pytest.approx(0.01)
    assert (equal.t, equal.p, equal.low, equal.high, equal.dz) == (None, None, None, None, None)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 25, 60])
def test_wilcoxon_is_scipys_exact_one_without_ties(n):
    differences = RNG.standard_normal(n) + 0.3
    expected = scipy.stats.wilcoxon(differences, method="exact")
    found = wilcoxon(differences)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert min(found.statistic, found.most - found.statistic) == expected.statistic
    assert (found.most, found.n, found.zeros) == (n * (n + 1) / 2, n, 0)
    assert found.smallest_p == 2 / 2**n


def enumerated(differences: np.ndarray) -> float:
    """Every assignment of signs, one after the other."""
    counted = differences[differences != 0]
    ranks = rankdata(np.abs(counted))
    middle, observed = ranks.sum() / 2, ranks[counted > 0].sum()
    sums = [ranks[np.array(signs, bool)].sum() for signs in product([0, 1], repeat=len(counted))]
    return float(np.mean([abs(total - middle) >= abs(observed - middle) for total in sums]))


@pytest.mark.parametrize("seed", range(12))
def test_wilcoxon_counts_every_sign_with_ties_and_zeros(seed):
    differences = np.random.default_rng(seed).integers(-3, 5, size=9) / 200
    assert wilcoxon(differences).p == pytest.approx(enumerated(differences))
    assert wilcoxon(-differences).p == wilcoxon(differences).p


def test_zeros_are_left_out_and_rounding_breaks_no_tie():
    found = wilcoxon([0.0, 0.02, -0.01, 0.03, 0.0])
    assert (found.n, found.zeros, found.most) == (3, 2, 6.0) and found.p == wilcoxon([0.02, -0.01, 0.03]).p
    assert found.smallest_p == 0.25
    rounded = [0.35 - 0.34, 0.20 - 0.21, 0.8 - 0.5]
    assert wilcoxon(rounded) == wilcoxon([0.01, -0.01, 0.3])
    nothing = wilcoxon([0.1 - 0.1, 0.3 - (0.1 + 0.2)])
    assert (nothing.p, nothing.smallest_p, nothing.n, nothing.zeros) == (1.0, 1.0, 0, 2)


def test_few_subjects_cannot_give_a_small_p():
    assert wilcoxon([0.1, 0.2, 0.3, 0.4]).p == wilcoxon([0.1, 0.2, 0.3, 0.4]).smallest_p == 0.125
    assert wilcoxon([0.3]).p == 1.0
    assert wilcoxon(np.arange(1, 11)).p == pytest.approx(0.00195, abs=1e-5)


@pytest.mark.parametrize("n", [1, 4, 9, 13])
def test_permutation_over_few_images_goes_through_all_signs(n):
    values = RNG.integers(-2, 4, size=(3, n)) / 5
    by_image = values.mean(axis=0)
    sums = [np.mean(by_image * signs) for signs in product([-1, 1], repeat=n)]
    expected = np.mean(np.abs(sums) >= abs(by_image.mean()) - 1e-12)
    found = permutation(values)
    assert found.p == pytest.approx(expected) and found.exact and found.seed is None
    assert found.mean == pytest.approx(values.mean())


def test_permutation_over_few_images_is_scipys():
    values = RNG.standard_normal(10) + 0.4
    expected = scipy.stats.permutation_test(
        (values, np.zeros(10)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples"
    )
    assert permutation(values).p == pytest.approx(expected.pvalue)
    assert permutation(np.abs(values)).p == permutation(values).smallest_p == 2 / 1024


def test_permutation_over_many_images_draws_and_never_gives_zero():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((5, 200)) + 0.4
    found = permutation(values, permutations=999)
    assert (found.p, found.smallest_p, found.permutations, found.exact, found.seed) == (0.001, 0.001, 999, False, 0)
    mild = rng.standard_normal(200) + 0.1
    assert permutation(mild, permutations=100_000).p == pytest.approx(scipy.stats.ttest_1samp(mild, 0).pvalue, abs=0.01)
    assert permutation(mild, seed=1) == permutation(mild, seed=1) != permutation(mild, seed=2)


def test_drawn_signs_agree_with_all_signs(monkeypatch):
    values = RNG.standard_normal(11) + 0.35
    everything = permutation(values)
    monkeypatch.setattr(paired, "EXACT", 0)
    drawn = permutation(values, permutations=200_000)
    assert everything.exact and not drawn.exact and drawn.p == pytest.approx(everything.p, abs=0.004)
    monkeypatch.setattr(paired, "CHUNK", 1_000)
    assert permutation(values, permutations=200_000) == drawn  # chunks change nothing


def test_permutation_takes_an_image_for_the_same_one_in_all_subjects():
    """Nine subjects who agree wholly are, of images, no more than one."""
    one = RNG.standard_normal(12)
    assert permutation(np.repeat(one[None], 9, axis=0)).p == permutation(one).p


def test_an_image_that_a_subject_did_not_see_counts_for_the_others():
    nan = np.nan
    found = permutation(np.array([[0.5, 0.1, nan, nan], [nan, 0.3, 0.2, 0.4]]))
    assert found.mean == pytest.approx((0.3 + 0.3) / 2) and found.n == 4
    assert found.p == 2 / 16
    uneven = permutation(np.array([[0.3, 0.6, 0.3, nan], [nan, nan, nan, 1.0]]))
    assert uneven.mean == pytest.approx((0.4 + 1.0) / 2)  # every subject counts alike
    apart = permutation(np.array([[1.0, nan], [nan, -1.0]]))
    assert apart.mean == 0 and apart.p == 1.0


def test_equal_images_say_nothing():
    none = permutation(np.zeros((2, 30)))
    assert (none.p, none.smallest_p, none.n, none.exact) == (1.0, 1.0, 0, True)
    few = permutation(np.array([0.0] * 50 + [0.5]))
    assert (few.p, few.n) == (1.0, 1)


def test_holm_by_hand_and_by_law():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []
    p = RNG.random(20) ** 2
    adjusted = np.array(holm(p))
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, 20 * p) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert adjusted.min() == pytest.approx(20 * p.min())


def stepped(p: np.ndarray, level: float) -> np.ndarray:
    """Holm's own words: reject the smallest at a/m, the next at a/(m-1), ... and stop at the first that is not."""
    rejected = np.zeros(len(p), bool)
    for place, test in enumerate(np.argsort(p)):
        if p[test] > level / (len(p) - place):
            break
        rejected[test] = True
    return rejected


def test_holm_rejects_what_stepping_down_rejects():
    for seed in range(200):
        p = np.random.default_rng(seed).random(8) ** 3
        assert ((np.array(holm(p)) <= 0.05) == stepped(p, 0.05)).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: paired_t([0.1]), "2 subjects at least"),
        (lambda: paired_t([0.1, np.nan]), "not finite"),
        (lambda: paired_t([[0.1, 0.2]]), "2 subjects at least"),
        (lambda: wilcoxon([]), "1 subjects at least"),
        (lambda: wilcoxon([np.inf]), "not finite"),
        (lambda: wilcoxon(np.arange(1.0, 2000)), "1999 differences are too many"),
        (lambda: permutation(np.zeros((2, 0))), r"finite \(subjects, images\)"),
        (lambda: permutation(np.array([np.inf, 1.0])), r"finite \(subjects, images\)"),
        (lambda: permutation(np.array([[np.nan, np.nan], [0.1, 0.2]])), "no difference at all"),
        (lambda: permutation(np.array([[np.nan, 0.1], [np.nan, 0.2]])), "no difference at all"),
        (lambda: permutation(np.arange(30.0), permutations=0), "0 permutations cannot be compared"),
        (lambda: holm([0.1, 1.2]), "outside of 0 to 1"),
        (lambda: holm([0.1, np.nan]), "outside of 0 to 1"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, sentence):
    with pytest.raises(AlignvisError, match=sentence):
        call()
