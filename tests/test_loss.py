import math

import pytest
import torch

from alignvis.loss import LOSSES, info_nce, soft_clip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.corrcoef(torch.cat([a, b]))[: len(a), len(a) :]


def treated(vectors: torch.Tensor, centred: bool, scaled: bool) -> torch.Tensor:
    vectors = torch.stack([v - v.sum() / len(v) for v in vectors]) if centred else vectors
    return torch.stack([v / v.square().sum().sqrt() for v in vectors]) if scaled else vectors


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over both directions, written out."""
    rows = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    columns = -(target * (logits.T - logits.T.logsumexp(1, keepdim=True))).sum(1).mean()
    return (rows + columns) / 2


def test_the_objectives_have_their_names():
    assert LOSSES == {"infonce": info_nce, "softclip": soft_clip}


def test_info_nce_written_out():
    brain, image, scale = random(4, 6), random(4, 6, seed=1), 25.0
    logits = scale * correlation(brain, image)
    rows = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(4)) / 4
    columns = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(4)) / 4
    torch.testing.assert_close(info_nce(brain, image, scale), (rows + columns) / 2)


def test_info_nce_of_two_pictures_in_numbers():
    """Similarities 1 and 0 at scale 3, both ways: the right answer has odds of e^3 to 1."""
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    wrong = math.log(1 + math.exp(3))
    assert info_nce(image, image, 3.0, "none", False).item() == pytest.approx(math.log(1 + math.exp(-3)))
    assert info_nce(image.flip(0), image, 3.0, "none", False).item() == pytest.approx(wrong)
    one_sided = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both responses name picture 0
    rows, columns = (math.log(1 + math.exp(-3)) + wrong) / 2, math.log(2)
    assert info_nce(one_sided, image, 3.0, "none", False).item() == pytest.approx((rows + columns) / 2)


def test_soft_clip_written_out():
    brain, image, scale = random(4, 6), random(4, 6, seed=1), 5.0
    target = (scale * correlation(image, image)).exp()
    target = target / target.sum(dim=1, keepdim=True)
    expected = cross_entropy(scale * correlation(brain, image), target)
    torch.testing.assert_close(soft_clip(brain, image, scale), expected)


@pytest.mark.parametrize("sides", ["both", "image", "none"])
@pytest.mark.parametrize("centred", [True, False])
def test_sides_and_centring_reach_the_logits_and_the_targets(sides, centred):
    brain, image, scale = random(5, 6) + 0.5, random(5, 6, seed=1) + 0.5, 0.7
    b, v = treated(brain, centred, sides == "both"), treated(image, centred, sides != "none")
    logits = scale * torch.stack([(one * v).sum(1) for one in b])
    torch.testing.assert_close(info_nce(brain, image, scale, sides, centred), cross_entropy(logits, torch.eye(5)))
    # a picture beside itself is treated as the queries are on one side, and as the gallery is on the other
    u = treated(image, centred, sides == "both")
    target = (scale * torch.stack([(one * v).sum(1) for one in u])).exp()
    target = target / target.sum(dim=1, keepdim=True)
    torch.testing.assert_close(soft_clip(brain, image, scale, sides, centred), cross_entropy(logits, target))


@pytest.mark.parametrize("loss", [info_nce, soft_clip])
@pytest.mark.parametrize("sides", ["both", "image", "none"])
@pytest.mark.parametrize("centred", [True, False])
def test_a_stack_has_the_losses_that_each_has_alone(loss, sides, centred):
    brain, image, scale = random(2, 3, 5, 6), random(2, 3, 5, 6, seed=1), random(2, 3, seed=2).exp()
    together = loss(brain, image, scale, sides, centred)
    assert together.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = loss(brain[i, j], image[i, j], scale[i, j].item(), sides, centred)
            torch.testing.assert_close(together[i, j], alone)
    torch.testing.assert_close(
        loss(brain, image, 2.0, sides, centred)[1, 2], loss(brain[1, 2], image[1, 2], 2.0, sides, centred)
    )


@pytest.mark.parametrize("loss", [info_nce, soft_clip])
def test_neither_side_and_no_order_is_preferred(loss):
    brain, image, order = random(6, 5), random(6, 5, seed=1), torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(loss(brain[order], image[order], 10.0), loss(brain, image, 10.0))
    torch.testing.assert_close(info_nce(image, brain, 10.0), info_nce(brain, image, 10.0))


def test_an_answer_without_information_costs_the_logarithm_of_the_batch():
    same = random(1, 5).expand(8, 5)
    assert info_nce(same, random(8, 5, seed=1), 10.0).item() >= math.log(8)
    assert info_nce(same, same, 10.0).item() == pytest.approx(math.log(8))


def test_the_right_answer_costs_less_the_surer_it_is():
    image = random(8, 50)
    losses = [info_nce(image, image, scale).item() for scale in (1.0, 5.0, 25.0)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-3
    assert info_nce(image.roll(1, 0), image, 25.0).item() > math.log(8)


def test_soft_clip_forgives_a_picture_that_is_the_same():
    image = random(4, 16)
    twice = torch.cat([image, image])
    brain = torch.cat([image, image]).roll(4, 0)
    assert soft_clip(brain, twice, 50.0).item() == pytest.approx(math.log(2), abs=1e-3)  # its own entropy: one of two
    wrong = brain.roll(1, 0)
    assert soft_clip(wrong, twice, 50.0) > 2 * math.log(8) > soft_clip(brain, twice, 50.0)


def test_soft_clip_is_info_nce_where_no_picture_is_like_another():
    image = torch.eye(6, dtype=torch.float64)
    brain = random(6, 6)
    torch.testing.assert_close(
        soft_clip(brain, 100 * image, 1.0, "none", False), info_nce(brain, 100 * image, 1.0, "none", False)
    )


def test_nothing_is_learned_through_the_targets_of_soft_clip():
    """The gradient is that of a cross-entropy whose targets are given numbers."""
    brain, image = random(4, 6).requires_grad_(), random(4, 6, seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(soft_clip(brain, image, scale), (brain, image, scale))
    with torch.no_grad():
        target = (scale * correlation(image, image)).softmax(dim=1)
    b, v = treated(brain, True, True), treated(image, True, True)
    theirs = torch.autograd.grad(cross_entropy(scale * (b @ v.T), target), (brain, image, scale))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("loss", [info_nce, soft_clip])
def test_a_learned_scale_receives_its_own_gradient(loss):
    """Against a difference quotient, for each run of a stack; soft targets stay those of the present scale."""
    brain, image = random(2, 4, 6), random(2, 4, 6, seed=1)
    scale = torch.tensor([2.0, 7.0], dtype=torch.float64, requires_grad=True)
    loss(brain, image, scale).sum().backward()
    step = 1e-5
    for run in range(2):
        logits = correlation(brain[run], image[run])
        now = scale[run].item()
        target = torch.eye(4, dtype=torch.float64)
        if loss is soft_clip:
            target = (now * correlation(image[run], image[run])).softmax(dim=1)
        up, down = (cross_entropy((now + sign * step) * logits, target) for sign in (1, -1))
        assert scale.grad[run].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4)
