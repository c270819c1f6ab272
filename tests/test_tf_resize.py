import math

import numpy as np
import pytest

from alignvis.images.tf_resize import tf_bicubic


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def by_the_book(picture: np.ndarray, size: int, row: int, column: int) -> np.ndarray:
    """One pixel, from what is documented: its centre, 4 x 4 taps, Keys' cubic, nothing beyond the edge."""

    def taps(length: int, place: int) -> list[tuple[int, float]]:
        centre = (np.float32(place) + np.float32(0.5)) * (np.float32(length) / np.float32(size)) - np.float32(0.5)
        first = math.floor(centre)
        fraction = round(float(centre - np.float32(first)) * 1024) / 1024
        found = []
        for tap in (-1, 0, 1, 2):
            x = abs(tap - fraction)
            if x <= 1:
                weight = 1.5 * x**3 - 2.5 * x**2 + 1
            else:
                weight = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            if 0 <= first + tap < length:
                found.append((first + tap, weight))
        total = sum(weight for _, weight in found)
        return [(place, weight / total) for place, weight in found]

    return sum(
        one * two * picture[y, x].astype(float)
        for y, one in taps(picture.shape[0], row)
        for x, two in taps(picture.shape[1], column)
    )


def test_figures_that_tensorflow_gave():
    small = (np.arange(36) ** 2 % 251).astype(np.uint8).reshape(6, 6, 1)
    fewer, more = tf_bicubic(small, 4), tf_bicubic(small, 9)
    np.testing.assert_allclose(fewer[0, :, 0], [4.9295, 11.0552, 22.6935, 43.2639], atol=1e-4)
    assert fewer.sum(dtype=float) == pytest.approx(1602.8173, abs=1e-3)
    np.testing.assert_allclose(
        more[0, :, 0], [-2.3858, -2.4034, -1.9328, -0.4614, 1.9013, 5.1538, 9.2893, 15.1767, 19.2156], atol=1e-4
    )
    assert more.sum(dtype=float) == pytest.approx(8118.4323, abs=1e-3)
    large = tf_bicubic((7919 * np.arange(500 * 400 * 3) % 256).astype(np.uint8).reshape(500, 400, 3), 224)
    assert large.shape == (224, 224, 3) and large.dtype == np.float32
    assert large.mean(dtype=float) == pytest.approx(127.499213, abs=1e-5)
    assert large.std(dtype=float) == pytest.approx(60.016094, abs=1e-5)
    assert large.min() == pytest.approx(-7.6507, abs=1e-4) and large.max() == pytest.approx(263.4782, abs=1e-4)
    np.testing.assert_allclose(large[0, 0], [54.4593, 102.1677, 152.8709], atol=1e-4)
    np.testing.assert_allclose(large[100, 57], [149.5308, 129.6816, 112.6816], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 61), (61, 5), (31, 29), (97, 43), (30, 30)])
def test_every_pixel_is_as_documented(shape):
    picture = noise(*shape)
    wanted = [[by_the_book(picture, 29, row, column) for column in range(29)] for row in range(29)]
    np.testing.assert_allclose(tf_bicubic(picture, 29), wanted, atol=2e-4)


def test_pixels_of_real_sizes_are_as_documented():
    draw = np.random.default_rng(3)
    for shape in ((500, 500), (800, 600), (101, 333), (223, 225)):
        picture = noise(*shape)
        result = tf_bicubic(picture, 224)
        for row, column in [(0, 0), (0, 223), (223, 0), (223, 223), *draw.integers(0, 224, (40, 2))]:
            np.testing.assert_allclose(result[row, column], by_the_book(picture, 224, row, column), atol=2e-4)


def test_a_picture_of_the_right_size_is_left_as_it_is():
    picture = noise(224, 224)
    result = tf_bicubic(picture, 224)
    np.testing.assert_array_equal(result, picture)
    assert result.dtype == np.float32 and result.flags.c_contiguous


def test_one_colour_stays_that_colour_up_to_the_edges():
    np.testing.assert_allclose(tf_bicubic(np.full((333, 100, 3), 201, np.uint8), 224), 201, atol=1e-4)


def test_turning_the_picture_turns_the_result():
    picture = noise(61, 97)
    turned = tf_bicubic(np.ascontiguousarray(picture.transpose(1, 0, 2)), 40)
    np.testing.assert_allclose(turned.transpose(1, 0, 2), tf_bicubic(picture, 40), atol=2e-4)


def test_edges_overshoot_and_are_not_clipped():
    picture = np.zeros((50, 50, 1), np.uint8)
    picture[:, 25:] = 255
    result = tf_bicubic(picture, 224)
    assert result.min() < -10 and result.max() > 265
