from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, pearsonr, rankdata

from alignvis.errors import AlignvisError
from alignvis.retrieval import (
    MEASURES,
    chances,
    each,
    measures,
    n_way,
    named_first,
    of_places,
    ranks,
    similarity,
    subset_galleries,
    ties,
    top_k,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_correlation_of_the_two_vectors():
    queries, gallery = random(5, 9).double(), random(7, 9, seed=1).double()
    expected = [[pearsonr(q, g).statistic for g in gallery.numpy()] for q in queries.numpy()]
    torch.testing.assert_close(similarity(queries, gallery), torch.tensor(expected, dtype=torch.float64))


def test_scale_and_offset_of_a_vector_do_not_matter():
    vectors = random(4, 6)
    gallery = random(5, 6, seed=1)
    torch.testing.assert_close(similarity(3 * vectors + 2, 7 * gallery - 1), similarity(vectors, gallery))
    assert similarity(vectors, vectors).diagonal().tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("centred", [False, True])
def test_sides_and_centring_by_hand(centred):
    queries, gallery = random(3, 6), random(4, 6, seed=1)
    q, g = ((v - v.mean(dim=1, keepdim=True)) if centred else v for v in (queries, gallery))
    products = q @ g.T
    assert torch.allclose(similarity(queries, gallery, "none", centred), products)
    assert torch.allclose(similarity(queries, gallery, "image", centred), products / g.norm(dim=1), atol=1e-6)
    both = products / g.norm(dim=1) / q.norm(dim=1)[:, None]
    assert torch.allclose(similarity(queries, gallery, "both", centred), both, atol=1e-6)


def test_leading_axes_are_problems_of_their_own():
    queries, gallery = random(2, 3, 5, 6), random(2, 3, 4, 6, seed=1)
    together = similarity(queries, gallery)
    for i, j in ((0, 0), (1, 2)):
        torch.testing.assert_close(together[i, j], similarity(queries[i, j], gallery[i, j]))


def test_named_first_is_top_1_and_names_nothing_where_numbers_end():
    similarities = random(2, 9, 9) + torch.eye(9)
    similarities[0, 3] = similarities[0, 3, 3]  # a tie with everything
    for one, share in zip(similarities, named_first(similarities), strict=True):
        assert share.item() == top_k(ranks(one, torch.arange(9)), 1)
    assert named_first(torch.full((4, 4), torch.nan)).item() == 0


def test_ranks_by_hand():
    similarities = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.3]])
    assert ranks(similarities, torch.tensor([0, 1, 1])).tolist() == [1, 3, 2]
    assert ties(similarities, torch.tensor([0, 1, 1])) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6), st.data())
def test_ranks_are_scipys_with_ties_at_the_worst_place(rows, data):
    targets = [data.draw(st.integers(0, 3)) for _ in rows]
    expected = [
        int(rankdata([-x for x in row], method="max")[target]) for row, target in zip(rows, targets, strict=True)
    ]
    assert ranks(torch.tensor(rows, dtype=torch.float32), torch.tensor(targets)).tolist() == expected


def test_a_perfect_answer_is_first_and_the_order_of_the_gallery_does_not_matter():
    gallery, order = random(50, 8), torch.randperm(50, generator=torch.Generator().manual_seed(3))
    queries = gallery + 0.5 * random(50, 8, seed=1)
    assert ranks(similarity(gallery, gallery), torch.arange(50)).tolist() == [1] * 50
    straight = ranks(similarity(queries, gallery), torch.arange(50))
    shuffled = ranks(similarity(queries, gallery[order]), order.argsort())
    assert torch.equal(straight, shuffled) and 1 < straight.float().mean() < 25


def test_a_constant_answer_earns_nothing():
    gallery = random(20, 8)
    queries = gallery[:1].expand(20, 8)
    assert top_k(ranks(similarity(queries, gallery), torch.arange(20)), 1) == 1 / 20
    flat = random(1, 8).expand(20, 8)
    assert top_k(ranks(similarity(flat, flat), torch.arange(20)), 19) == 0.0


def test_top_k_counts_places_up_to_k():
    assert [top_k(torch.tensor([1, 2, 3, 6]), k) for k in (1, 2, 5, 6)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_ranked(value):
    with pytest.raises(AlignvisError, match="not finite"):
        ranks(torch.tensor([[value, 1.0]]), torch.tensor([1]))


def test_measures_by_hand():
    similarities = torch.tensor([[0.9, 0.1, 0.5, 0.0], [0.9, 0.1, 0.5, 0.0], [0.2, 0.3, 0.3, 0.0]])
    found = measures(similarities, torch.tensor([0, 1, 1]))  # ranks 1, 3, 2 of 4
    expected = {"top1": 1 / 3, "top3": 1, "top5": 1, "top10": 1, "median_rank": 2}
    assert found == pytest.approx(expected | {"mrr": (1 + 1 / 3 + 1 / 2) / 3, "pairwise": (3 + 1 + 2) / 9})


def test_the_median_of_an_even_number_of_ranks_lies_between_the_two_in_the_middle():
    assert of_places(torch.tensor([9, 1, 2, 5]), 10)["median_rank"] == 3.5 == np.median([9, 1, 2, 5])
    every = of_places(torch.arange(1, 201), 200)
    assert {key: every[key] for key in chances(200)} == pytest.approx(chances(200))  # one of each rank is chance


def test_what_each_query_is_worth_adds_up_to_the_measures():
    places = ranks(random(30, 30), torch.arange(30))
    found = of_places(places, 30)
    for name in MEASURES:
        worth = each(places, 30, name)
        assert worth.shape == (30,) and worth.dtype == torch.float64
        assert found[name] == (np.median(worth) if name == "median_rank" else worth.mean().item())
    assert each(places, 30, "10-way").mean().item() == n_way(places, 30, 10) != n_way(places, 30, 2)
    assert each(torch.tensor([1, 3, 4]), 5, "top3").tolist() == [1, 1, 0]
    assert each(torch.tensor([1, 4]), 5, "mrr").tolist() == [1, 0.25]
    assert each(torch.tensor([1, 2, 5]), 5, "pairwise").tolist() == pytest.approx([1, 0.75, 0])
    assert each(torch.tensor([1]), 1, "pairwise").tolist() == [1]
    for wrong in ("top", "top-1", "way", "two-way", "1-way", "31-way", "median", ""):
        with pytest.raises(AlignvisError, match="is no measure; choose|cannot be asked for"):
            each(places, 30, wrong)


def test_pairwise_counts_the_wins_over_every_other_picture_and_a_tie_is_none():
    similarities = random(30, 30).round(decimals=1)  # with ties
    won = [(similarities[i, i] > similarities[i, j]).item() for i in range(30) for j in range(30) if i != j]
    assert measures(similarities, torch.arange(30))["pairwise"] == pytest.approx(sum(won) / len(won))


def test_a_constant_answer_and_a_gallery_of_one():
    found = measures(torch.zeros(20, 20), torch.arange(20))
    assert found == {"top1": 0, "top3": 0, "top5": 0, "top10": 0, "median_rank": 20, "mrr": 0.05, "pairwise": 0}
    assert measures(torch.ones(1, 1), torch.tensor([0]))["pairwise"] == chances(1)["pairwise"] == 1


def test_chances_are_the_means_over_all_places():
    every = torch.arange(1, 13)
    found = chances(12)
    for k in (1, 3, 5, 10):
        assert found[f"top{k}"] == pytest.approx(top_k(every, k))
    assert found["mrr"] == pytest.approx((1 / every).mean().item())
    assert found["median_rank"] == 6.5 and found["pairwise"] == pytest.approx(n_way(every, 12, 2))
    assert [chances(4)[f"top{k}"] for k in (1, 3, 5, 10)] == [0.25, 0.75, 1, 1]


@pytest.mark.parametrize("n", [2, 3, 5, 7])
@pytest.mark.parametrize("k", [1, 2])
def test_n_way_is_the_mean_over_every_subset_of_distractors(n, k):
    """Each of the ways to choose n - 1 distractors, one by one; similarities with ties."""
    similarities, targets = random(6, 7).round(decimals=1), torch.tensor([0, 1, 2, 3, 6, 5])
    hits = 0
    for query, right in enumerate(targets.tolist()):
        others = [j for j in range(7) if j != right]
        for drawn in combinations(others, n - 1):
            better = sum(bool(similarities[query, j] >= similarities[query, right]) for j in drawn)
            hits += better < k
    expected = hits / (6 * comb(6, n - 1))
    assert n_way(ranks(similarities, targets), 7, n, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (10, 1), (50, 1), (100, 5), (200, 3)])
def test_n_way_is_scipys_hypergeometric_and_what_draws_give(n, k):
    places = ranks(random(200, 200) + 2 * torch.eye(200), torch.arange(200))
    exact = n_way(places, 200, n, k)
    assert exact == pytest.approx(hypergeom.cdf(k - 1, 199, places.numpy() - 1, n - 1).mean(), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        ((torch.rand(200, 199, generator=generator).argsort(1)[:, : n - 1] < places[:, None] - 1).sum(1) < k)
        .double().mean() for _ in range(100)
    ]  # fmt: skip
    assert exact == pytest.approx(torch.stack(drawn).mean().item(), abs=0.01)


def test_n_way_among_all_is_top_k_and_among_more_is_refused():
    places = ranks(random(40, 40) + torch.eye(40), torch.arange(40))
    for k in (1, 3):
        assert n_way(places, 40, 40, k) == pytest.approx(top_k(places, k), abs=1e-9)
    assert n_way(torch.tensor([1, 1_000_000]), 1_000_000, 2) == pytest.approx(0.5)  # far beyond factorials
    assert n_way(torch.arange(1, 41), 40, 10) == pytest.approx(0.1)  # chance
    for n, k in ((41, 1), (1, 1), (5, 6), (5, 0)):
        with pytest.raises(AlignvisError, match="cannot be asked for in a gallery of 40"):
            n_way(places, 40, n, k)


def test_small_galleries_are_easier_and_agree_with_the_exact_expectation():
    similarities = random(400, 400) + 2.5 * torch.eye(400)
    found = subset_galleries(similarities, 100, draws=200)
    for way, matrix in (("brain_to_image", similarities), ("image_to_brain", similarities.T)):
        places = ranks(matrix, torch.arange(400))
        assert found[way]["top1"] == pytest.approx(n_way(places, 400, 100), abs=0.01)
        assert found[way]["top1"] > top_k(places, 1) and 0 < found[way]["top1_sd"] < 0.06
    assert (found["size"], found["draws"], found["chance"]) == (100, 200, 0.01)
    assert subset_galleries(similarities, 100, draws=3) == subset_galleries(similarities, 100, draws=3)
    assert subset_galleries(similarities, 100, 3, seed=1) != subset_galleries(similarities, 100, 3)


def test_a_gallery_of_all_is_no_draw_and_the_two_directions_are_told_apart():
    similarities = random(50, 50) + torch.eye(50)
    similarities[:, 7] += 100  # a picture that every response is nearest to, but which finds its own response
    similarities[7, 7] += 1
    found = subset_galleries(similarities, 50, draws=5)
    assert found["brain_to_image"] == pytest.approx({"top1": 1 / 50, "top1_sd": 0.0})
    assert found["image_to_brain"]["top1"] == top_k(ranks(similarities.T, torch.arange(50)), 1) > 0.1
    with pytest.raises(AlignvisError, match="can be drawn of 50 pictures"):
        subset_galleries(similarities, 51)
