import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata

from alignvis.errors import AlignvisError
from alignvis.retrieval import named_first, ranks, similarity, ties, top_k


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
