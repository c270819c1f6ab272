"""Intervals of all measures: against scipy, the bootstrap, and in the tables that show them."""

import numpy as np
import pytest
from scipy.stats import quantile_test

from alignvis.intervals import interval, measure_interval, within
from alignvis.retrieval import MEASURES, each
from alignvis.stats import bootstrap, bootstrap_of_medians, mean_interval, wilson
from alignvis.table import scores_table
from tests.test_table import score

GALLERY = 200


def some_ranks(subjects: int, seeds: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 1 + rng.poisson(rng.gamma(1, 8, (subjects, 1, GALLERY)), (subjects, seeds, GALLERY))


def scored(places: np.ndarray, **changes) -> list[list[dict]]:
    return [
        [score(subject=subject, seed=seed, ranks=row.tolist(), **changes) for seed, row in enumerate(seeds)]
        for subject, seeds in enumerate(places)
    ]


def values(places: np.ndarray, measure: str) -> np.ndarray:
    import torch

    return np.stack([each(torch.from_numpy(row), GALLERY, measure).numpy() for row in places])


@pytest.mark.parametrize("measure", ["mrr", "pairwise", "10-way"])
def test_of_one_subject_a_mean_has_the_interval_of_its_variance(measure):
    (places,) = some_ranks(1, 3)
    expected = mean_interval(values(places, measure).mean(axis=0))  # seeds are no pictures
    assert measure_interval(places.tolist(), GALLERY, measure) == expected
    assert interval(scored([places]), measure) == measure_interval(places.tolist(), GALLERY, measure)


def test_of_one_subject_a_share_has_wilsons_and_a_median_that_of_order_statistics():
    (places,) = some_ranks(1, 2)
    assert measure_interval(places.tolist(), GALLERY, "top5") == wilson((places <= 5).mean(), GALLERY)
    ends = [quantile_test(row, q=5, p=0.5).confidence_interval() for row in places]
    expected = np.mean([end.low for end in ends]), np.mean([end.high for end in ends])
    assert measure_interval(places.tolist(), GALLERY, "median_rank") == pytest.approx(expected)


@pytest.mark.parametrize("same", [True, False])
def test_of_several_subjects_all_are_by_bootstrap_over_subjects_and_pictures(same):
    places = some_ranks(3, 2)
    grid = scored(places)
    if not same:
        grid = [[one | {"images_sha256": str(one["subject"])} for one in seeds] for seeds in grid]
    for measure in ("top5", "mrr", "pairwise", "10-way"):
        means = np.stack([values(seeds, measure).mean(axis=0) for seeds in places])
        assert interval(grid, measure) == bootstrap(means if same else list(means))
    assert interval(grid, "median_rank") == bootstrap_of_medians(list(places), shared=same)


def test_the_order_of_subjects_and_seeds_changes_nothing():
    grid = scored(some_ranks(3, 2))
    for measure in MEASURES:
        assert interval(grid, measure) == interval([seeds[::-1] for seeds in grid[::-1]], measure)


def test_seeds_that_were_asked_about_other_pictures_are_not_averaged_picture_by_picture():
    ((one, other),) = scored(some_ranks(1, 2))
    assert interval([[one, other]]) and interval([[one, other | {"images_sha256": "another"}]]) is None


def test_what_tells_nothing_of_others_has_no_interval():
    right = [[1] * 40]
    assert measure_interval(right, 40, "mrr") is None and measure_interval(right, 40, "pairwise") is None
    assert measure_interval(right, 40, "top1") == wilson(1.0, 40)  # of yes and no even that tells something
    assert measure_interval([[1, 2, 3, 4, 5]], 40, "median_rank") is None and measure_interval([[3]], 40, "mrr") is None
    assert within([1] * 40, 40, ["mrr", "median_rank"]) == [None, [1.0, 1.0]]
    alike = scored(np.full((2, 1, GALLERY), 3))
    assert [interval(alike, measure) for measure in (*MEASURES, "10-way")] == [None] * 8


def test_in_full_every_number_has_its_interval_below_it():
    places = some_ranks(2, 1)
    back = np.flip(places)  # another table of ranks
    grid = [
        one | {"image_to_brain": one["image_to_brain"] | {"ranks": back[subject, 0].tolist()}}
        for subject, (one,) in enumerate(scored(places))
    ]
    text = scores_table(grid, full=True)
    said = " ".join(text.split())
    blocks = dict(zip(("every", "ways", "back"), text.split("\n\n")[3::2], strict=False))
    assert "each with its interval" in said and "order statistics" in said and "by their variance" in said
    for name, table, measures in (
        ("every", places, MEASURES),
        ("ways", places, ["10-way"]),
        ("back", back, MEASURES),
    ):
        lines = blocks[name].splitlines()
        below = [lines[3].split(), lines[5].split(), lines[7].split()]
        of = scored(table)
        for place, subjects in enumerate(([of[0]], [of[1]], of)):
            shown = [_shown(interval(subjects, measure), measure) for measure in _ordered(measures)]
            assert below[place] == shown
    assert "–" not in scores_table(grid)  # and in brief the table stays narrow


def _ordered(measures) -> list[str]:
    """As the columns stand."""
    return ["top1", "top3", "top5", "top10", "median_rank", "mrr", "pairwise"] if len(measures) > 1 else list(measures)


def _shown(ends: tuple[float, float], measure: str) -> str:
    forms = {"median_rank": "{:.3g}", "mrr": "{:.3f}"}
    return "–".join(forms.get(measure, "{:.1f}").format(end * (1 if measure in forms else 100)) for end in ends)
