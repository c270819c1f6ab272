import math

import pytest
import torch

from alignvis.loss import info_nce, soft_clip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.corrcoef(torch.cat([a, b]))[: len(a), len(a) :]


def test_info_nce_written_out():
    brain, image, scale = random(4, 6), random(4, 6, seed=1), 25.0
    logits = scale * correlation(brain, image)
    rows = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(4)) / 4
    columns = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(4)) / 4
    torch.testing.assert_close(info_nce(brain, image, scale), (rows + columns) / 2)


def test_soft_clip_written_out():
    brain, image, scale = random(4, 6), random(4, 6, seed=1), 5.0
    logits, target = scale * correlation(brain, image), (scale * correlation(image, image)).exp()
    target = target / target.sum(dim=1, keepdim=True)
    rows = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    columns = -(target * (logits.T - logits.T.logsumexp(1, keepdim=True))).sum(1).mean()
    torch.testing.assert_close(soft_clip(brain, image, scale), (rows + columns) / 2)


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
