"""Human likeness: the figures known for real files, slow twins of what is fast, and laws."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from alignvis import alignment
from alignvis.alignment import (
    accuracy,
    agreement,
    choice_similarity,
    correlation,
    cosine,
    dot,
    odd_one_out,
    same_odd_one,
    standardised,
)
from alignvis.human import Human, concept_of, read_human

FIRST_TWO = np.array([[0, 1, 2]])


def embedding(n: int, dim: int = 5, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, dim))


def matrix(n: int, seed: int = 0) -> NDArray[np.float32]:
    return dot(embedding(n, seed=seed))


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(shared_data) -> Human:
    return read_human(shared_data / "things")


@pytest.fixture(scope="module")
def clip(shared_data) -> NDArray[np.float32]:
    """Real features of 200 test pictures; 19.238 is the length they had before they were stored with length 1."""
    return np.load(shared_data / "clip-features" / "clip_feature_maps_test.npy")[:, 0].astype(np.float32) * 19.238


@pytest.fixture(scope="module")
def shown(shared_data, people) -> list[int]:
    stems = (shared_data / "clip-features" / "things_eeg2_test200_image_stems.txt").read_text().split()
    return [people.concepts.index(concept_of(f"{stem}.jpg")) for stem in stems]


def glocal(shared_data: Path, model: str, features: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.load(shared_data / "glocal" / model / "transform.npz") as file:
        return (features - file["mean"]) / file["std"] @ file["weights"] + (file["bias"] if "bias" in file else 0)


def test_spose_answers_real_triplets_as_it_is_known_to(people):
    right = odd_one_out(dot(people.spose), people.triplets, strict=True)
    found = accuracy(right)
    assert right.sum() == 1423 and found["n"] == 2171
    assert found["value"] == pytest.approx(1423 / 2171) and found["interval"] == pytest.approx(
        [0.6352, 0.6752], abs=1e-4
    )
    assert found["normalised"] == pytest.approx((1423 / 2171 - 1 / 3) / (0.6767 - 1 / 3))
    assert odd_one_out(cosine(people.spose), people.triplets, strict=False).mean() == pytest.approx(0.6499, abs=5e-5)


def test_random_features_answer_a_third(people):
    """With 2,171 choices a standard error is one percent; four of them are allowed."""
    for seed in range(3):
        right = odd_one_out(cosine(embedding(1854, 64, seed)), people.triplets, strict=False)
        assert abs(right.mean() - 1 / 3) < 0.04


def test_spose_and_people_agree_on_48_objects(people):
    similar, spose = 1 - people.dissimilarities, people.spose[people.objects]
    pearson = correlation(choice_similarity(dot(spose)), similar, ranked=False)
    spearman = correlation(cosine(spose), similar, ranked=True)
    assert pearson["value"] == pytest.approx(0.9060, abs=5e-5) and spearman["value"] == pytest.approx(0.8651, abs=5e-5)
    for found in (pearson, spearman):
        assert found["concepts"] == 48 and found["pairs"] == 1128
        assert 0.02 < found["value"] - found["interval"][0] < 0.06


def test_real_features_become_more_human(shared_data, people, clip, shown):
    spose = people.spose[shown]
    aligned = glocal(shared_data, "clip_ViT-L/14/visual", clip)
    for features, expected in ((clip, (0.39047, 0.40753, 0.56158)), (aligned, (0.85275, 0.85696, 0.81881))):
        same = agreement(cosine(features), dot(spose))
        found = (
            correlation(cosine(features), cosine(spose), ranked=True)["value"],
            correlation(cosine(features), dot(spose), ranked=True)["value"],
            same["value"],
        )
        assert found == pytest.approx(expected, abs=6e-6)
        assert same["n"] == 1_313_400 and same["concepts"] == 200


@pytest.mark.parametrize("model", ["OpenCLIP_ViT-L-14_laion2b_s32b_b82k/visual", "dino-vit-base-p16/norm"])
def test_the_map_of_another_model_gains_nothing(shared_data, people, clip, shown, model):
    wrong, spose = glocal(shared_data, model, clip), people.spose[shown]
    assert correlation(cosine(wrong), cosine(spose), ranked=True)["value"] < 0.42
    assert agreement(cosine(wrong), dot(spose))["value"] < 0.58


# --- similarities ----------------------------------------------------------------------------------------------------


def test_similarities_by_hand():
    rows = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [6.0, 8.0]])
    expected = [[1, 0.96, 0, 1], [0.96, 1, 0, 0.96], [0, 0, 0, 0], [1, 0.96, 0, 1]]
    np.testing.assert_allclose(cosine(rows), expected, rtol=1e-7)
    np.testing.assert_allclose(dot(rows), rows @ rows.T, rtol=1e-7)


@pytest.mark.parametrize("similarity", [cosine, dot])
def test_similarities_are_symmetric_to_the_last_bit(similarity):
    found = similarity(embedding(301, 77).astype(np.float32))
    assert found.dtype == np.float32 and np.array_equal(found, found.T)


def test_equal_embeddings_are_equally_similar():
    """In double precision the last bits would decide."""
    rows = np.tile(embedding(1, 300), (50, 1)) * np.random.default_rng(1).uniform(1, 2, (50, 1))
    assert len(np.unique(cosine(rows))) == 1
    assert same_odd_one(cosine(rows), cosine(rows)).sum() == 0


def test_one_mean_and_one_deviation_of_all_numbers():
    found = standardised([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_allclose(found, (np.array([[1, 2], [3, 6]]) - 3) / np.sqrt(3.5))
    assert not standardised(np.full((3, 2), 7.0)).any()


# --- odd one out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paired", "left", "right", "strict", "zero_shot"),
    [
        (3, 1, 2, True, True),
        (2, 3, 1, False, False),
        (2, 1, 3, False, False),
        (2, 2, 1, False, True),  # a tie that takes in people's pair: the published code takes the first pair
        (2, 1, 2, False, True),
        (1, 2, 2, False, False),
        (2, 2, 2, False, False),
    ],
)
def test_ties_are_as_published(paired, left, right, strict, zero_shot):
    similarities = np.array([[9, paired, left], [paired, 9, right], [left, right, 9]], dtype=np.float32)
    assert odd_one_out(similarities, FIRST_TWO, strict=True).tolist() == [strict]
    assert odd_one_out(similarities, FIRST_TWO, strict=False).tolist() == [zero_shot]


def test_a_choice_does_not_hang_on_the_order_of_the_pair_or_of_the_concepts():
    similarities, rng = matrix(20), np.random.default_rng(2)
    triplets = np.array([rng.permutation(20)[:3] for _ in range(200)])
    order = rng.permutation(20)
    expected = odd_one_out(similarities, triplets, strict=True)
    assert 0 < expected.sum() < 200
    assert np.array_equal(odd_one_out(similarities, triplets[:, [1, 0, 2]], strict=True), expected)
    moved = np.argsort(order)[triplets]
    assert np.array_equal(odd_one_out(similarities[np.ix_(order, order)], moved, strict=True), expected)


@pytest.mark.parametrize(("hits", "normalised"), [(0, 0.0), (100, 0.0), (203, 0.99990), (300, 1.94156)])
def test_the_score_is_zero_at_chance_and_one_at_the_ceiling(hits, normalised):
    found = accuracy(np.arange(300) < hits)
    assert found["normalised"] == pytest.approx(normalised, abs=1e-5) and found["ceiling"] == 0.6767


# --- choice probabilities --------------------------------------------------------------------------------------------


def test_choice_similarity_is_the_mean_of_softmaxes():
    dots = matrix(9, seed=3).astype(np.float64)
    expected = np.eye(9)
    for i, j in combinations(range(9), 2):
        shares = [
            np.exp(dots[i, j]) / (np.exp(dots[i, j]) + np.exp(dots[i, k]) + np.exp(dots[j, k]))
            for k in range(9)
            if k not in (i, j)
        ]
        expected[i, j] = expected[j, i] = np.mean(shares)
    np.testing.assert_allclose(choice_similarity(dots), expected, rtol=1e-12)


def test_choices_of_a_triplet_sum_to_one_and_large_products_do_no_harm():
    found = choice_similarity(matrix(3))
    assert found[0, 1] + found[0, 2] + found[1, 2] == pytest.approx(1)
    found = choice_similarity(1e5 * matrix(12))
    assert np.isfinite(found).all() and 0 <= found.min() and found.max() <= 1
    assert choice_similarity(matrix(12) + 1e4)[0, 1] == pytest.approx(choice_similarity(matrix(12))[0, 1], abs=1e-2)


# --- correlations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranked", "reference"), [(False, pearsonr), (True, spearmanr)])
def test_correlations_are_scipys(ranked, reference):
    a, b = np.round(matrix(30), 1), matrix(30, seed=1) + 0.5 * matrix(30)  # with ties
    upper = np.triu_indices(30, 1)
    found = correlation(a, b, ranked)
    assert found["value"] == pytest.approx(reference(a[upper], b[upper])[0], abs=1e-9)
    assert found["pairs"] == 435


@pytest.mark.parametrize("ranked", [False, True])
def test_the_bootstrap_equals_cutting_matrices(ranked):
    """Each draw again, by listing its pairs of different concepts one by one."""
    from scipy.stats import rankdata

    n, draws = 14, 40
    a, b = matrix(n), matrix(n, seed=1) + matrix(n)
    upper = np.triu_indices(n, 1)
    full = []
    for each in (a, b):
        values = np.zeros((n, n))
        values[upper] = rankdata(each[upper]) if ranked else each[upper]
        full.append(values + values.T)
    counts = np.random.default_rng(5).multinomial(n, np.full(n, 1 / n), draws)
    slow = []
    for count in counts:
        drawn = np.repeat(np.arange(n), count)
        pairs = [(i, j) for i, j in combinations(drawn, 2) if i != j]
        slow.append(pearsonr(*(np.array([values[pair] for pair in pairs]) for values in full))[0])
    found = correlation(a, b, ranked, draws=draws, seed=5)
    np.testing.assert_allclose(found["interval"], np.percentile(slow, [2.5, 97.5]), atol=1e-9)


def test_most_bootstrap_intervals_hold_the_truth():
    """Two noisy views of one embedding; the truth is that of very many concepts."""

    def views(n: int, seed: int) -> list[NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((n, 6))
        return [cosine(rows + rng.standard_normal((n, 6))) for _ in range(2)]

    truth = correlation(*views(1500, 10_000), ranked=False, draws=2)["value"]
    held = 0
    for seed in range(100):
        low, high = correlation(*views(60, seed), ranked=False, draws=200, seed=seed)["interval"]
        held += low <= truth <= high
    assert held >= 85


def test_a_correlation_that_means_nothing_is_none():
    flat = np.ones((20, 20), dtype=np.float32)
    for a, b in ((flat, matrix(20)), (matrix(20), flat), (matrix(2), matrix(2))):
        found = correlation(a, b, ranked=True)
        assert found["value"] is None and found["interval"] is None
    few = correlation(matrix(9), matrix(9, seed=1), ranked=True)
    assert few["value"] is not None and few["interval"] is None
    assert correlation(matrix(10), matrix(10, seed=1), ranked=True)["interval"] is not None


def test_a_table_is_as_human_as_itself_and_the_diagonal_is_not_looked_at():
    a = matrix(20)
    b = a + np.diag(np.random.default_rng(0).standard_normal(20)).astype(np.float32)
    for ranked in (False, True):
        assert correlation(a, b, ranked)["value"] == pytest.approx(1)
        assert correlation(a, -a, ranked)["value"] == pytest.approx(-1)
    assert agreement(a, b)["value"] == 1.0


# --- agreement -------------------------------------------------------------------------------------------------------


def slow_counts(a: NDArray, b: NDArray) -> NDArray[np.int64]:
    counts = np.zeros(len(a), dtype=np.int64)
    for triplet in combinations(range(len(a)), 3):
        pairs = list(combinations(triplet, 2))
        closest = []
        for similarities in (a, b):
            values = [similarities[pair] for pair in pairs]
            closest.append(int(np.argmax(values)) if sorted(values)[2] > sorted(values)[1] else None)
        if closest[0] == closest[1] is not None:
            counts[list(triplet)] += 1
    return counts


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 10, 17])
@pytest.mark.parametrize("decimals", [6, 0])
def test_all_triplets_are_looked_at_once(monkeypatch, n, decimals):
    """At every edge of a block of four rows, without ties and with many."""
    monkeypatch.setattr(alignment, "BLOCK", 4)
    a, b = np.round(matrix(n), decimals), np.round(matrix(n, seed=1) + matrix(n), decimals)
    assert same_odd_one(a, b).tolist() == slow_counts(a, b).tolist()


def test_blocks_change_nothing(monkeypatch):
    assert alignment.BLOCK <= 255  # rows are counted in a byte
    a, b = matrix(150), matrix(150, seed=1)
    whole = same_odd_one(a, b)
    for block in (1, 63, 255):
        monkeypatch.setattr(alignment, "BLOCK", block)
        assert np.array_equal(same_odd_one(a, b), whole)


def test_more_agreements_than_a_byte_can_count():
    """Of a matrix with itself, where no two similarities are equal."""
    similarities = np.zeros((300, 300), dtype=np.float32)
    similarities[np.triu_indices(300, 1)] = np.random.default_rng(0).permutation(300 * 299 // 2)
    similarities += similarities.T
    assert same_odd_one(similarities, similarities).tolist() == [299 * 298 // 2] * 300


def test_the_share_and_its_interval_by_hand():
    a, b = matrix(12), matrix(12, seed=1) + matrix(12)
    counts = slow_counts(a, b)
    found = agreement(a, b)
    assert found["n"] == 220 and found["value"] == pytest.approx(counts.sum() / 3 / 220)
    half = 1.959964 * 3 * np.std(counts / 55, ddof=1) / np.sqrt(12)
    expected = [max(0, found["value"] - half), min(1, found["value"] + half)]
    assert found["interval"] == pytest.approx(expected, abs=1e-6)
    assert agreement(matrix(9), matrix(9, seed=1))["interval"] is None
    assert agreement(matrix(10), matrix(10, seed=1))["interval"] is not None


def noisy_pair(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows = rng.standard_normal((n, 4))
    return cosine(rows), cosine(rows + 0.7 * rng.standard_normal((n, 4)))


def standard_error(found: dict) -> float:
    return (found["interval"][1] - found["interval"][0]) / 2 / 1.959964


def test_the_standard_error_is_that_of_drawing_concepts_anew():
    """Against the spread of the share itself over many samples of 40 concepts, which needs no theory."""
    rng = np.random.default_rng(0)
    found = [agreement(*noisy_pair(40, rng)) for _ in range(400)]
    spread = np.std([each["value"] for each in found])
    assert np.mean([standard_error(each) for each in found]) == pytest.approx(spread, rel=0.12)


def test_the_standard_error_is_that_of_a_bootstrap():
    """Concepts drawn with replacement, and the share among the triplets of three different ones listed anew."""
    n, rng = 40, np.random.default_rng(1)
    a, b = noisy_pair(n, rng)
    i, j, k = (np.array(side) for side in zip(*combinations(range(n), 3), strict=True))
    same = np.argmax([a[i, j], a[i, k], a[j, k]], axis=0) == np.argmax([b[i, j], b[i, k], b[j, k]], axis=0)
    drawn = []
    for count in rng.multinomial(n, np.full(n, 1 / n), 1000):
        weight = count[i] * count[j] * count[k]
        drawn.append((weight * same).sum() / weight.sum())
    assert standard_error(agreement(a, b)) == pytest.approx(np.std(drawn), rel=0.15)


def test_progress_ends_at_the_whole():
    told: list[tuple[int, int]] = []
    same_odd_one(matrix(7), matrix(7), lambda done, total, text, note="": told.append((done, total)))
    assert [done for done, _ in told] == [6, 11, 15, 18, 20, 21] and {total for _, total in told} == {21}
