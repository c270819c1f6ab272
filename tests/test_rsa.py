"""Similarity analysis on arrays: against scipy, by hand, by law, and where there is nothing to find."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import rankdata, spearmanr

from alignvis.errors import AlignvisError
from alignvis.representations import rsa
from alignvis.retrieval import similarity


def patterns(images: int = 14, features: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((images, features))


@pytest.mark.parametrize(
    ("metric", "name"), [("pearson", "correlation"), ("cosine", "cosine"), ("euclidean", "euclidean")]
)
def test_dissimilarities_are_scipys_in_its_order(metric, name):
    rows = patterns() * np.arange(1, 10) + 3
    assert np.allclose(rsa.METRICS[metric](rows), pdist(rows, name), atol=1e-5)


def test_the_dissimilarity_of_embeddings_is_one_minus_what_retrieval_ranks_by():
    import torch

    rows = torch.from_numpy(patterns())
    expected = 1 - similarity(rows, rows).numpy()[np.triu_indices(14, 1)]
    assert np.allclose(rsa.pearson_dissimilarity(rows.numpy()), expected, atol=1e-6)


def test_a_pattern_that_does_not_vary_is_like_nothing():
    rows = patterns(4)
    rows[2] = 0.1 + 0.2  # what rounding leaves of this, minus its mean, is not exactly zero
    found = rsa.pearson_dissimilarity(rows)
    assert np.array_equal(found[[1, 3, 5]], np.ones(3))  # pairs with image 2
    assert (np.abs(found[[0, 2, 4]] - 1) > 1e-3).all()
    assert np.array_equal(rsa.cosine_dissimilarity(np.zeros((3, 4))), np.ones(3))


def test_a_shift_of_all_does_not_cost_the_distances_their_digits():
    rows = patterns()
    assert np.allclose(rsa.euclidean_dissimilarity(rows + 1e6), pdist(rows), rtol=1e-3)


def test_brains_are_compared_over_channels_at_each_time():
    responses = np.random.default_rng(0).standard_normal((12, 5, 3))
    found = rsa.brain_dissimilarity(responses)
    assert found.shape == (3, 66)
    for time in range(3):
        assert np.allclose(found[time], pdist(responses[:, :, time], "correlation"), atol=1e-6)


def test_too_few_images_or_channels_are_refused():
    with pytest.raises(AlignvisError, match="there are 9 test images, and this analysis needs 10"):
        rsa.brain_dissimilarity(np.zeros((9, 5, 1)))
    with pytest.raises(AlignvisError, match="needs 3 or more channels and there are 2"):
        rsa.brain_dissimilarity(np.zeros((10, 2, 1)))
    rsa.brain_dissimilarity(patterns(10, 1)[:, :, None], "euclidean")
    rsa.brain_dissimilarity(patterns(10, 3)[:, :, None])


def test_spearman_is_scipys_with_and_without_ties():
    rng = np.random.default_rng(0)
    brains, model = rng.standard_normal((4, 66)), rng.integers(0, 5, 66)  # many ties
    brains[1] = rng.integers(0, 3, 66)
    found = rsa.spearman(rsa.unit_ranks(brains), rsa.unit_ranks(model))
    assert np.allclose(found, [spearmanr(row, model).statistic for row in brains], atol=1e-6)


def test_unit_ranks_share_the_mean_rank_and_have_length_one():
    found = rsa.unit_ranks(np.array([[3.0, 1.0, 3.0, 7.0]]))
    ranks = rankdata([3, 1, 3, 7]) - 2.5
    assert np.allclose(found[0], ranks / np.linalg.norm(ranks))


def test_what_is_equal_everywhere_has_no_ranks():
    assert np.isnan(rsa.unit_ranks(np.ones((2, 6)))).all()
    assert np.isnan(rsa.unit_ranks(np.array([1.0, np.nan, 2.0]))).all()


def ranked_subjects(subjects: int, noise: float, images: int = 12, times: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((times, images * (images - 1) // 2))
    return rsa.unit_ranks(true + noise * rng.standard_normal((subjects, *true.shape)))


def test_no_model_passes_the_upper_bound_and_the_mean_of_ranks_reaches_it():
    brains = ranked_subjects(5, 1.0)
    lower, upper = rsa.subjects_ceiling(brains)
    rng = np.random.default_rng(1)
    for _ in range(200):  # models near the best one, which are the ones that could pass it
        guess = brains[:, 1].mean(axis=0) + 0.02 * rng.standard_normal(66)
        assert rsa.spearman(brains[:, 1], rsa.unit_ranks(guess)).mean() <= upper[1] + 1e-6
    best = brains[:, 1].mean(axis=0)
    assert np.isclose((brains[:, 1] @ best / np.linalg.norm(best)).mean(), upper[1], atol=1e-6)
    assert (lower < upper).all()


def test_the_lower_bound_leaves_out_the_subject_itself():
    brains = ranked_subjects(4, 1.0)
    expected = []
    for own in range(4):
        others = np.delete(brains[:, 2], own, axis=0).mean(axis=0)
        expected.append(np.corrcoef(others, brains[own, 2])[0, 1])
    assert np.isclose(rsa.subjects_ceiling(brains)[0][2], np.mean(expected), atol=1e-6)


def test_the_ceiling_of_two_subjects_is_known_in_closed_form():
    brains = ranked_subjects(2, 1.0)
    r = np.einsum("tp,tp->t", *brains)
    lower, upper = rsa.subjects_ceiling(brains)
    assert np.allclose(lower, r, atol=1e-6) and np.allclose(upper, np.sqrt((1 + r) / 2), atol=1e-6)


def test_subjects_without_anything_in_common_have_the_known_bounds():
    lower, upper = rsa.subjects_ceiling(ranked_subjects(9, 1e6, images=100))
    assert np.allclose(lower, 0, atol=0.02) and np.allclose(upper, 1 / 3, atol=0.02)


def planted(n: int = 20, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A brain of three times of which the middle one answers to the embedding: unit ranks of both."""
    rng = np.random.default_rng(seed)
    model = rng.standard_normal((n, 6))
    brain = rng.standard_normal((n, 8, 3))
    brain[:, :, 1] = model @ rng.standard_normal((6, 8)) + noise * brain[:, :, 1]
    return rsa.unit_ranks(rsa.brain_dissimilarity(brain)), rsa.unit_ranks(rsa.pearson_dissimilarity(model))


def test_permutations_name_images_anew():
    brain, model = planted()
    found = rsa.shuffled(brain, model[None], 20, 30, seed=3)
    rng = np.random.default_rng(3)
    square = np.zeros((20, 20))
    square[np.triu_indices(20, 1)] = model
    square += square.T
    for permutation in range(30):
        order = rng.permutation(20)
        again = square[np.ix_(order, order)][np.triu_indices(20, 1)]
        assert np.allclose(found[0, permutation], brain @ again, atol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    brain, model = planted()
    whole = rsa.shuffled(brain, model[None], 20, 30), rsa.bootstrap(brain[None], model[None], 20, 30, over=("images",))
    monkeypatch.setattr(rsa, "BLOCK", 7 * 190)
    again = rsa.shuffled(brain, model[None], 20, 30), rsa.bootstrap(brain[None], model[None], 20, 30, over=("images",))
    for one, other in zip(whole, again, strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_only_what_was_planted_is_significant():
    brain, model = planted()
    r = rsa.spearman(brain, model)
    p = rsa.family_wise(r, rsa.shuffled(brain, model[None], 20, 200)[0])
    assert p[1] == 1 / 201 and p[0] > 0.05 and p[2] > 0.05


def test_family_wise_by_hand():
    null = np.array([[0.1, 0.5], [0.3, 0.2], [0.0, 0.1], [-0.2, -0.5]])  # highest: 0.5, 0.3, 0.1, -0.2
    assert np.allclose(rsa.family_wise(np.array([0.3, 0.6]), null), [3 / 5, 1 / 5])
    assert np.allclose(rsa.family_wise(np.array([-0.9, np.nan]), null), [1, np.nan], equal_nan=True)
    assert np.isnan(rsa.family_wise(np.array([np.nan]), null[:, :1])).all()


def test_under_the_null_five_per_cent_reject_over_all_times_together():
    rng, rejected, studies = np.random.default_rng(0), 0, 300
    for _ in range(studies):
        brain = rsa.unit_ranks(rng.standard_normal((20, 66)))
        model = rsa.unit_ranks(rsa.pearson_dissimilarity(rng.standard_normal((12, 5))))
        null = rsa.shuffled(brain, model[None], 12, 99, seed=int(rng.integers(2**31)))[0]
        rejected += rsa.family_wise(rsa.spearman(brain, model), null).min() <= 0.05
    assert 0.02 < rejected / studies < 0.09  # 5 % +- 3 standard errors


def test_the_bootstrap_leaves_out_pairs_of_an_image_with_itself():
    brain, model = planted()
    found = rsa.bootstrap(brain[None], model[None], 20, 25, seed=5, over=("images",))[0]
    counts = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), 25)
    squares = [np.zeros((20, 20)) for _ in range(4)]
    for square, row in zip(squares, [*brain, model], strict=True):
        square[np.triu_indices(20, 1)] = row
        square += square.T
    for draw, count in enumerate(counts):
        drawn = np.repeat(np.arange(20), count)
        one, other = np.triu_indices(20, 1)
        different = drawn[one] != drawn[other]
        pairs = drawn[one[different]], drawn[other[different]]
        for time in range(3):
            expected = np.corrcoef(squares[time][pairs], squares[3][pairs])[0, 1]
            assert np.isclose(found[draw, time], expected, atol=1e-4)


def test_the_bootstrap_over_subjects_averages_those_drawn():
    brains, model = ranked_subjects(3, 1.0), rsa.unit_ranks(np.random.default_rng(9).standard_normal(66))
    found = rsa.bootstrap(brains, model[None], 12, 40, seed=2, over=("subjects",))[0]
    each = rsa.spearman(brains, model)
    counts = np.random.default_rng(2).multinomial(3, np.full(3, 1 / 3), 40)
    assert np.allclose(found, counts @ each / 3, atol=1e-5)


def test_a_time_without_values_stays_unknown_and_alone():
    brain, model = planted()
    brain[0] = np.nan
    assert np.isnan(rsa.subjects_ceiling(np.stack([brain, brain]))[0]).tolist() == [True, False, False]
    drawn = rsa.bootstrap(brain[None], model[None], 20, 50, over=("images",))[0]
    low, high = rsa.interval(drawn)
    assert np.isnan(low).tolist() == [True, False, False] and (low[1:] < high[1:]).all()
    band = rsa.simultaneous(rsa.spearman(brain, model), drawn)
    assert np.isnan(band[0]).tolist() == [True, False, False]


def test_the_interval_is_that_of_quantiles():
    low, high = rsa.interval(np.arange(101.0)[:, None])
    assert np.allclose([low[0], high[0]], [2.5, 97.5])


def test_the_simultaneous_band_holds_all_times_at_once_as_often_as_it_says():
    rng, held, pointwise, studies = np.random.default_rng(0), 0, 0, 250
    for _ in range(studies):
        data = rng.standard_normal((60, 10)) * np.arange(1, 11)
        again = np.stack([data[rng.integers(0, 60, 60)].mean(axis=0) for _ in range(150)])
        low, high = rsa.simultaneous(data.mean(axis=0), again)
        held += bool(((low < 0) & (high > 0)).all())
        low, high = rsa.interval(again)
        pointwise += bool(((low < 0) & (high > 0)).all())
    assert 0.88 < held / studies < 0.985 and pointwise / studies < 0.75
