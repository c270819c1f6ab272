"""What looks at the whole test batch: against slow twins, and against what must not help."""

from itertools import permutations

import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.retrieval import ranks, top_k
from alignvis.transductive import csls, one_to_one, transductive


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "k"), [((6, 9), 3), ((9, 6), 10), ((4, 4), 1)])
def test_csls_is_its_formula_entry_by_entry(shape, k):
    s = random(*shape).double()
    found = csls(s, k)
    for q in range(shape[0]):
        for p in range(shape[1]):
            near = sorted(s[q].tolist())[-k:]
            hub = sorted(s[:, p].tolist())[-k:]
            assert found[q, p].item() == pytest.approx(2 * s[q, p] - sum(near) / len(near) - sum(hub) / len(hub))


def test_csls_takes_hubs_away_and_leaves_what_has_none():
    targets = torch.arange(60)
    clean = random(60, 60) + 3 * torch.eye(60)
    hubs = clean + 4 * (torch.arange(60) < 6)  # six pictures that everybody is near to
    assert top_k(ranks(hubs, targets), 1) < 0.2 < top_k(ranks(csls(hubs), targets), 1)
    assert top_k(ranks(csls(torch.zeros(60, 60)), targets), 1) == 0  # a constant answer earns nothing


def test_matching_is_the_best_of_all_permutations():
    for seed in range(5):
        s = random(6, 6, seed=seed)
        best = max(permutations(range(6)), key=lambda order: sum(s[i, j].double().item() for i, j in enumerate(order)))
        assert one_to_one(s, torch.arange(6)) == sum(i == j for i, j in enumerate(best)) / 6


def test_matching_where_pictures_are_more_than_queries_and_in_another_order():
    s = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.7]])  # both are nearest to picture 1
    assert one_to_one(s, torch.tensor([1, 2])) == 1.0 and one_to_one(s, torch.tensor([2, 0])) == 0.0
    with pytest.raises(AlignvisError, match="cannot be matched"):
        one_to_one(s.T, torch.tensor([0, 1, 0]))
    with pytest.raises(AlignvisError, match="cannot be matched"):
        one_to_one(s * torch.nan, torch.tensor([0, 1]))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_a_constant_answer_is_matched_with_no_picture(value):
    assert one_to_one(torch.full((20, 20), value), torch.arange(20)) == 0.0
    similarities = torch.eye(8)
    similarities[:2, :2] = 0.5  # two pictures that nobody can tell apart count as not told apart
    assert one_to_one(similarities, torch.arange(8)) == 6 / 8


def test_both_scores_and_what_is_too_large():
    s = random(40, 40) + 2 * torch.eye(40)
    found = transductive(s, torch.arange(40))
    places = ranks(csls(s.double()), torch.arange(40))
    assert found["csls"] == {"top1": top_k(places, 1), "top5": top_k(places, 5)}
    assert found["one_to_one"]["top1"] == one_to_one(s, torch.arange(40)) > found["csls"]["top1"] - 0.05
    assert transductive(torch.eye(5, 5001), torch.arange(5))["one_to_one"] is None
