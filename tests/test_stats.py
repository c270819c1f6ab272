import numpy as np
import pytest
from scipy.stats import binom, binomtest, quantile_test, t

from alignvis import stats
from alignvis.errors import AlignvisError
from alignvis.stats import (
    bootstrap,
    bootstrap_of_medians,
    crossed_means,
    mean_interval,
    median_interval,
    nested_means,
    student,
    wilson,
)


def some_hits(subjects: int = 6, images: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ease = rng.standard_normal((subjects, 1)) + 2 * rng.standard_normal(images)
    return (ease + rng.logistic(size=ease.shape) > 0).astype(float)


@pytest.mark.parametrize(("hits", "n"), [(0, 200), (1, 200), (37, 200), (100, 200), (200, 200), (1, 2)])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_wilson_is_scipys(hits, n, level):
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson(hits / n, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("truth", [0.005, 0.1, 0.5, 0.9])
def test_about_95_percent_of_intervals_hold_the_truth(truth):
    held = sum(
        binom.pmf(k, 200, truth) for k in range(201) if wilson(k / 200, 200)[0] <= truth <= wilson(k / 200, 200)[1]
    )
    assert 0.91 < held < 0.99


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_student_is_scipys(level):
    shares = [0.2, 0.35, 0.4, 0.31]
    expected = t.interval(level, 3, np.mean(shares), np.std(shares, ddof=1) / 2)
    assert student(shares, level) == pytest.approx(expected)
    assert student([0.0, 0.9]) == (0.0, 1.0)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_ends_of_a_means_interval_are_as_far_from_it_as_their_own_variance_says(level):
    """Wilson's: the variance at each end, not at the mean; scaled by how much less than a yes or no the values vary."""
    values = 1 / np.random.default_rng(0).integers(1, 40, 60)
    mean, quantile = values.mean(), t.ppf(0.5 + level / 2, 59)
    scale = values.var(ddof=1) / (mean * (1 - mean))
    for end in mean_interval(values, level):
        assert abs(end - mean) == pytest.approx(quantile * np.sqrt(scale * end * (1 - end) / 60))
    hits = np.arange(1000) < 300
    assert mean_interval(hits) == pytest.approx(wilson(0.3, 1000), abs=1e-4)
    assert mean_interval([0.5]) is None and mean_interval([0.25, 0.25]) is None
    assert wilson(0.0, 7)[0] == 0.0 and wilson(1.0, 7)[1] == 1.0  # and no rounding of them


def test_a_means_interval_misses_on_both_sides_where_students_misses_on_one():
    rng = np.random.default_rng(0)
    few = 1 - rng.random((2000, 50)) ** 6  # nearly all large, as two-way accuracies of a good decoder are
    low, high = np.array([mean_interval(row) for row in few]).T
    students = np.array([student(row) for row in few]).T
    truth = 1 - 1 / 7
    assert np.mean((low <= truth) & (truth <= high)) > 0.93
    assert np.mean(high < truth) > 0.012 and np.mean(low > truth) > 0.012
    assert np.mean(students[0] > truth) > 3 * np.mean(students[1] < truth)
    reciprocal = 1 / rng.integers(1, 201, (2000, 200))  # chance, of which the docstring says what it is
    low, high = np.array([mean_interval(row) for row in reciprocal]).T
    chance = np.mean(1 / np.arange(1, 201))
    assert 0.86 < np.mean((low <= chance) & (chance <= high)) < 0.91


@pytest.mark.parametrize("n", [6, 7, 40, 200, 201])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_a_median_is_scipys(n, level):
    values = np.random.default_rng(n).integers(1, 60, n)
    expected = quantile_test(values, q=values[0], p=0.5).confidence_interval(level)
    assert median_interval(values, level) == (expected.low, expected.high)


def test_too_few_values_have_no_interval_of_their_median():
    """Five tosses of a coin fall alike in 1 of 16 cases, six in 1 of 32."""
    assert median_interval(range(5)) is None and median_interval([]) is None and median_interval([3]) is None
    assert median_interval(range(6)) == (0, 5) and median_interval(range(4), 0.8) == (0, 3)


@pytest.mark.parametrize("n", [11, 50])
def test_the_interval_of_a_median_holds_it_as_often_as_the_binomial_says(n):
    values = np.random.default_rng(0).exponential(size=(4000, n))
    ends = np.array([median_interval(row) for row in values])
    first = int(np.searchsorted(np.sort(values[0]), ends[0, 0]))
    held = np.mean((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1]))
    assert held == pytest.approx(1 - 2 * binom.cdf(first, n, 0.5), abs=0.01) and held > 0.945


def slow_medians(values: list[np.ndarray], shared: bool, resamples: int, seed: int) -> np.ndarray:
    """The definition, one resample after the other: (seeds, images) of each subject."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(values[0].shape[1], size=values[0].shape[1])
        each = []
        for one in rng.integers(len(values), size=len(values)) if len(values) > 1 else [0]:
            mine = drawn if shared else rng.integers(values[one].shape[1], size=values[one].shape[1])
            each.append(np.median(values[one][:, mine], axis=1).mean())
        found.append(np.mean(each))
    return np.array(found)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("images", [31, 40])
def test_the_bootstrap_of_medians_is_its_slow_twin(shared, images):
    rng = np.random.default_rng(1)
    ease = rng.gamma(2, 4, images)  # a picture that is easy is easy for all
    sizes = [2, 2, 3] if shared else [2, 1, 3]
    values = [1 + rng.poisson(ease * level, (seeds, images)) for seeds, level in zip(sizes, (1, 1.1, 1.2), strict=True)]
    low, high = bootstrap_of_medians(values, shared=shared, resamples=20_000)
    slow = np.quantile(slow_medians(values, shared, 6_000, 3), [0.025, 0.975])
    assert (low, high) == pytest.approx(slow, rel=0.05)
    other = bootstrap_of_medians(values, shared=not shared, resamples=20_000)
    assert abs(other[1] - other[0] - high + low) > 0.5  # drawing them the other way would be seen


def test_the_bootstrap_of_medians_does_not_depend_on_how_much_is_done_at_a_time(monkeypatch):
    values = [np.arange(20.0)[None] ** 1.5, 3 * np.arange(20.0)[None]]
    found = [bootstrap_of_medians(values, shared=shared, resamples=300) for shared in (True, False)]
    assert found == [bootstrap_of_medians(values, shared=shared, resamples=300) for shared in (True, False)]
    monkeypatch.setattr(stats, "CHUNK", 300)
    assert found == [bootstrap_of_medians(values, shared=shared, resamples=300) for shared in (True, False)]
    assert bootstrap_of_medians(values[:1], shared=True, resamples=300) == bootstrap_of_medians(
        values[:1], shared=False, resamples=300
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([np.ones(3)], "(seeds, images)"),
        ([], "one subject"),
        ([np.ones((1, 0))], "one image"),
        ([np.array([[1.0, np.nan]])], "not finite"),
    ],
)
def test_medians_of_nothing_are_refused(values, said):
    with pytest.raises(AlignvisError) as error:
        bootstrap_of_medians(values, shared=True)
    assert said in str(error.value)


def slow_crossed(hits: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The definition, one resample after the other: a subject's row and a picture's column as often as drawn."""
    rng = np.random.default_rng(seed)
    subjects, images = hits.shape
    return np.array(
        [
            hits[np.ix_(rng.integers(subjects, size=subjects), rng.integers(images, size=images))].mean()
            for _ in range(resamples)
        ]
    )


def slow_nested(hits: list[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array(
        [
            np.mean([rng.choice(hits[s], len(hits[s])).mean() for s in rng.integers(len(hits), size=len(hits))])
            for _ in range(resamples)
        ]
    )


def test_a_crossed_bootstrap_is_its_slow_twin():
    hits = some_hits()
    fast, slow = crossed_means(hits, resamples=20_000, seed=0), slow_crossed(hits, 20_000, 1)
    assert fast.mean() == pytest.approx(hits.mean(), abs=0.002) and slow.mean() == pytest.approx(hits.mean(), abs=0.002)
    assert fast.std() == pytest.approx(slow.std(), rel=0.03)
    assert bootstrap(hits) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.01)


def test_its_variance_is_the_closed_form():
    """Of independent draws of rows and columns: variance of the sum of row, column and cell parts (Owen 2007)."""
    hits = some_hits(5, 12)
    rows, columns = hits.mean(axis=1), hits.mean(axis=0)
    cells = hits - rows[:, None] - columns + hits.mean()
    expected = rows.var() / 5 + columns.var() / 12 + (cells**2).mean() / (5 * 12)
    assert crossed_means(hits, resamples=200_000, seed=0).var() == pytest.approx(expected, rel=0.02)


def test_a_nested_bootstrap_is_its_slow_twin():
    hits = [some_hits(1, n, seed=n)[0] for n in (5, 20, 60, 11)]
    fast, slow = nested_means(hits, resamples=20_000, seed=0), slow_nested(hits, 10_000, 1)
    assert fast.mean() == pytest.approx(np.mean([one.mean() for one in hits]), abs=0.003)
    assert fast.std() == pytest.approx(slow.std(), rel=0.03)
    assert bootstrap(hits) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.015)


def test_images_that_all_subjects_share_do_not_average_out():
    """The same hits for every subject: more subjects are no more pictures."""
    one = some_hits(1, 50)
    width = np.ptp(bootstrap(one))
    assert np.ptp(bootstrap(np.repeat(one, 20, axis=0))) == pytest.approx(width, rel=0.03)
    assert np.ptp(bootstrap(list(np.repeat(one, 20, axis=0)))) < width / 3  # as if each had seen pictures of its own


def test_of_one_subject_only_images_are_resampled():
    hits = some_hits(1, 200)
    share = hits.mean()
    expected = binom(200, share).ppf([0.025, 0.975]) / 200
    assert bootstrap(hits) == pytest.approx(tuple(expected), abs=0.006)
    assert bootstrap([hits[0]]) == pytest.approx(tuple(expected), abs=0.006)


def test_equal_images_leave_the_subjects_and_equal_values_nothing():
    subjects = np.array([0.1, 0.2, 0.4, 0.7])
    crossed = crossed_means(np.repeat(subjects[:, None], 9, axis=1), resamples=50_000, seed=0)
    assert crossed.var() == pytest.approx(subjects.var() / 4, rel=0.03)
    assert bootstrap(np.full((4, 9), 0.25)) == (0.25, 0.25)


def test_a_seed_gives_the_same_interval_and_a_level_its_own():
    hits = some_hits()
    assert bootstrap(hits) == bootstrap(hits) != bootstrap(hits, seed=1)
    (a, d), (b, c) = bootstrap(hits), bootstrap(hits, level=0.5)
    assert a < b < c < d
    means = crossed_means(hits, resamples=10_000, seed=0)
    assert (means < b).mean() == pytest.approx(0.25, abs=0.02)


def test_neither_chunks_nor_other_studies_change_anything(monkeypatch):
    studies = np.stack([some_hits(seed=seed) for seed in range(7)])
    whole, nested = crossed_means(studies, resamples=300, seed=4), nested_means(list(studies[0]), resamples=300, seed=4)
    assert whole.shape == (300, 7)
    monkeypatch.setattr(stats, "CHUNK", 2_000)
    assert np.allclose(crossed_means(studies, resamples=300, seed=4), whole, atol=1e-14)
    assert np.allclose(crossed_means(studies[3], resamples=300, seed=4), whole[:, 3], atol=1e-14)
    assert np.allclose(nested_means(list(studies[0]), resamples=300, seed=4), nested, atol=1e-14)


@pytest.mark.parametrize(
    ("hits", "sentence"),
    [
        (np.zeros(5), r"takes \(subjects, images\), and was given the shape \(5,\)"),
        (np.zeros((0, 5)), "one subject, one image"),
        (np.zeros((2, 0)), "one subject, one image"),
        ([], "one subject, one image"),
        ([np.zeros(3), np.zeros(0)], "one subject, one image"),
        ([np.zeros((2, 3))], "one list of values a subject"),
        (np.array([[0.0, np.nan]]), "not finite"),
        ([np.array([0.0, np.inf])], "not finite"),
        ([np.zeros(3), np.array([0.0, np.nan])], "not finite"),
    ],
)
def test_what_cannot_be_resampled_is_refused(hits, sentence):
    with pytest.raises(AlignvisError, match=sentence):
        bootstrap(hits)
    with pytest.raises(AlignvisError, match="one resample at least"):
        bootstrap(np.zeros((2, 3)), resamples=0)
