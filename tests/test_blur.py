import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from alignvis.images.blur import blur, blur_matrix


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 9.0, 40.0])
@pytest.mark.parametrize("side", [32, 96])
def test_equals_the_gaussian_filter_of_scipy(sigma, side):
    sharp = pictures(side)
    expected = gaussian_filter(sharp.double().numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(blur(sharp, blur_matrix(side, sigma)), expected, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 30.0])
def test_plain_pictures_stay_and_means_too(sigma):
    matrix = blur_matrix(64, sigma)
    assert torch.allclose(blur(torch.full((1, 3, 64, 64), 0.25), matrix), torch.tensor(0.25), atol=1e-6)
    sharp = pictures(64)
    assert torch.allclose(blur(sharp, matrix).mean((2, 3)), sharp.mean((2, 3)), atol=1e-5)


def test_a_point_becomes_a_bell_of_that_width_down_and_across():
    point = torch.zeros(1, 1, 101, 101)
    point[0, 0, 50, 50] = 1
    bell = blur(point, blur_matrix(101, 4.0))[0, 0].double()
    distance = torch.arange(101.0) - 50
    for axis in (0, 1):
        assert (bell.sum(axis) * distance**2).sum().sqrt().item() == pytest.approx(4.0, abs=0.02)


def test_more_blur_leaves_less_contrast():
    sharp = pictures(64)
    spread = [blur(sharp, blur_matrix(64, sigma)).std().item() for sigma in (0.5, 1, 3, 9)]
    assert spread == sorted(spread, reverse=True) and spread[0] < sharp.std().item()
