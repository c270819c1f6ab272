"""Under the null, 5 % of simulated studies reject; of 95 % intervals, as many hold the truth as is said of them.

Studies as they are: every answer is right or wrong, pictures are easy or hard for all subjects alike, subjects differ,
and hits are averaged over seeds. The bounds are so wide that a right test would leave them once in a thousand times if
its seed not fixed, and so narrow that a one-sided p, or images taken for others with each subject, do leave them.
"""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from alignvis.paired import holm, paired_t, permutation, wilcoxon
from alignvis.stats import crossed_means, nested_means, student, wilson

STUDIES = 2_000


def near(share: float, level: float = 0.05, studies: int = STUDIES) -> bool:
    """Whether a share of the studies is what the level lets one expect, by chance 0.1 % off."""
    low, high = binom.ppf([0.0005, 0.9995], studies, level) / studies
    return low <= share <= high


def hits(
    rng: np.random.Generator,
    subjects: int,
    images: int,
    *,
    seeds: int = 1,
    studies: int = STUDIES,
    differ: float = 0.5,
    effect: np.ndarray | float = 0.0,
) -> np.ndarray:
    """(2, studies, subjects, images): hits of two encoders, averaged over seeds.

    Args:
        differ: standard deviation of the subjects' ease, logits; that of pictures is 1.5.
        effect: first minus second encoder, logits.
    """
    ease = -1 + differ * rng.standard_normal((studies, subjects, 1)) + 1.5 * rng.standard_normal((studies, 1, images))
    return np.stack([rng.binomial(seeds, expit(ease + sign * effect / 2)) / seeds for sign in (1, -1)])


def differences(*arguments, **options) -> np.ndarray:
    first, second = hits(*arguments, **options)
    return first - second


@pytest.fixture(scope="module")
def over_subjects() -> np.ndarray:
    """(studies, subjects): one encoder suits some subjects better and the other one others; none does on average."""
    rng = np.random.default_rng(0)
    suits = 0.4 * rng.standard_normal((STUDIES, 12, 1))
    return differences(rng, 12, 60, seeds=2, effect=suits).mean(axis=2)


@pytest.fixture(scope="module")
def over_images() -> np.ndarray:
    """(studies, subjects, images): one encoder suits some pictures better, in all subjects alike; none on average."""
    rng = np.random.default_rng(1)
    suits = rng.standard_normal((STUDIES, 1, 60))
    return differences(rng, 5, 60, seeds=2, effect=suits)


def test_paired_t_rejects_5_percent(over_subjects):
    p = np.array([paired_t(study).p for study in over_subjects])
    assert near((p <= 0.05).mean()) and near((p <= 0.2).mean(), 0.2)
    assert not near((p / 2 <= 0.05).mean())  # one side of it


def test_wilcoxon_rejects_at_most_5_percent_and_nearly_as_many(over_subjects):
    """Its p takes few values: with twelve subjects the nearest to 0.05 from below is 0.042."""
    p = np.array([wilcoxon(study).p for study in over_subjects])
    assert near((p <= 0.05).mean(), 0.0425) and near((p <= 0.2).mean(), 0.1973)
    assert not near((p / 2 <= 0.05).mean(), 0.0425)


def test_permutation_over_images_rejects_5_percent(over_images):
    p = np.array([permutation(study, permutations=399).p for study in over_images])
    assert near((p <= 0.05).mean()) and near((p <= 0.2).mean(), 0.2)
    assert not near((p / 2 <= 0.05).mean())


def test_images_taken_for_others_with_each_subject_reject_too_often(over_images):
    p = np.array([permutation(study.ravel(), permutations=199).p for study in over_images])
    assert (p <= 0.05).mean() > 0.09


def test_a_true_difference_is_found():
    rng = np.random.default_rng(2)
    studies = differences(rng, 10, 100, studies=100, effect=0.5)
    assert np.mean([paired_t(study.mean(axis=1)).p <= 0.05 for study in studies]) > 0.9
    assert np.mean([wilcoxon(study.mean(axis=1)).p <= 0.05 for study in studies]) > 0.9
    assert np.mean([permutation(study, permutations=399).p <= 0.05 for study in studies]) > 0.9


def test_holm_keeps_a_family_at_5_percent():
    """Five encoders, each against its twin, none better: in how many studies is any one said to be?"""
    rng = np.random.default_rng(3)
    family = np.stack([differences(rng, 8, 40, effect=0.4 * rng.standard_normal((STUDIES, 8, 1))) for _ in range(5)])
    p = np.array([[paired_t(one).p for one in encoder.mean(axis=2)] for encoder in family]).T
    assert near(np.mean([min(holm(study)) <= 0.05 for study in p]), 1 - 0.99**5)
    assert (p.min(axis=1) <= 0.05).mean() > 0.2  # unadjusted
    true = 1e-6 * rng.random((STUDIES, 2))  # two more that do differ, and are found: five are left to be wrong about
    found = np.array([holm(study) for study in np.hstack([true, p])])
    assert (found[:, :2] <= 0.05).all() and near((found[:, 2:].min(axis=1) <= 0.05).mean(), 1 - 0.99**5)


# --- intervals -------------------------------------------------------------------------------------------------------


def truth(differ: float, effect: float = 0.0, varies: float = 0.0) -> float:
    """Mean over all subjects and pictures there could be, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    spread = np.sqrt(differ**2 + 1.5**2 + varies**2 / 4)
    return float(expit(-1 + effect / 2 + spread * points) @ weights / weights.sum())


def held(intervals: tuple[np.ndarray, np.ndarray], value: float | np.ndarray) -> float:
    return float(((intervals[0] <= value) & (value <= intervals[1])).mean())


def bootstrapped(studies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of many studies; `bootstrap` takes the same percentiles of one."""
    parts = [crossed_means(part, resamples=500, seed=0) for part in np.array_split(studies, 8)]
    return tuple(np.quantile(np.concatenate(parts, axis=1), [0.025, 0.975], axis=0))


@pytest.mark.parametrize(
    ("subjects", "seeds", "differ", "measured"),
    [
        (1, 1, 0.5, 0.55),
        (3, 1, 0.5, 0.88),
        (4, 1, 0.5, 0.91),
        (10, 1, 0.5, 0.94),
        (3, 5, 0.5, 0.83),
        (4, 5, 0.5, 0.88),
        (10, 5, 0.5, 0.93),
        (3, 5, 1.0, 0.77),
        (4, 5, 1.0, 0.83),
        (10, 5, 1.0, 0.91),
    ],
)
def test_the_bootstrap_holds_the_truth_as_often_as_its_docstring_says(subjects, seeds, differ, measured):
    studies = hits(np.random.default_rng(subjects), subjects, 200, seeds=seeds, differ=differ, studies=1_000)[0]
    assert held(bootstrapped(studies), truth(differ)) == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize(
    ("subjects", "varies", "measured"),
    [(3, 0.2, 0.98), (4, 0.2, 0.98), (10, 0.2, 0.99), (3, 0.6, 0.88), (4, 0.6, 0.91), (10, 0.6, 0.95)],
)
def test_the_bootstrap_of_differences_too(subjects, varies, measured):
    rng = np.random.default_rng(subjects)
    effect = 0.4 + varies * rng.standard_normal((1_000, subjects, 1)) + 0.5 * rng.standard_normal((1_000, 1, 200))
    studies = differences(rng, subjects, 200, studies=1_000, effect=effect)
    both = np.sqrt(varies**2 + 0.5**2)
    difference = truth(0.5, 0.4, both) - truth(0.5, -0.4, both)
    assert held(bootstrapped(studies), difference) == pytest.approx(measured, abs=0.025)


def test_images_drawn_anew_for_each_subject_would_hold_it_too_rarely():
    studies = hits(np.random.default_rng(10), 10, 200, seeds=5, differ=0.2, studies=100)[0]
    nested = [np.quantile(nested_means(list(study), resamples=100, seed=0), [0.025, 0.975]) for study in studies]
    assert held(tuple(np.array(nested).T), truth(0.2)) < 0.8 < 0.85 < held(bootstrapped(studies), truth(0.2))


def test_wilson_holds_the_truth_of_one_subject_and_is_too_long_for_a_mean_over_seeds():
    rng = np.random.default_rng(5)
    for seeds, low, high in ((1, 0.93, 0.97), (5, 0.97, 1.0)):
        studies = hits(rng, 1, 200, seeds=seeds, differ=0.0)[0][:, 0]
        intervals = np.array([wilson(float(study.mean()), 200) for study in studies])
        assert low <= held(tuple(intervals.T), truth(0.0)) <= high


@pytest.mark.parametrize("subjects", [3, 4, 10])
def test_student_holds_the_truth_of_other_subjects_who_see_the_same_pictures(subjects):
    """Of these pictures, 95 %; it knows nothing of others, which vary too."""
    rng = np.random.default_rng(subjects)
    pictures = 1.5 * rng.standard_normal((STUDIES, 1, 200))
    ease = -1 + 0.5 * rng.standard_normal((STUDIES, subjects, 1)) + pictures
    shares = (rng.random(ease.shape) < expit(ease)).mean(axis=2)
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    of_these = sum(w * expit(-1 + 0.5 * x + pictures[:, 0]).mean(axis=1) for x, w in zip(points, weights, strict=True))
    intervals = tuple(np.array([student(study) for study in shares]).T)
    assert near(1 - held(intervals, of_these))
