import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignvis.images.lowlevel import COLOUR_GRID, ENERGY_GRID, HALF_CONTRAST, ORIENTATIONS, SCALES, SIZE, LowLevel
from alignvis.images.pixels import GEOMETRIES, apply, decode

ENCODER = LowLevel()  # has no state
ENERGY = SCALES * ORIENTATIONS * ENERGY_GRID**2
CENTRES = [24, 12, 6, 3]  # cycles per picture


def energy(pixels: Tensor) -> Tensor:
    """(batch, scale, orientation, row, column): the mean energy in each cell, undone from the response."""
    response = ENCODER(pixels)[:, :ENERGY].double() + 0.5
    energy = HALF_CONTRAST**2 * response / (1 - response)
    return energy.reshape(-1, SCALES, ORIENTATIONS, ENERGY_GRID, ENERGY_GRID)


def colour(pixels: Tensor) -> Tensor:
    return ENCODER(pixels)[:, ENERGY:].reshape(-1, 3, COLOUR_GRID, COLOUR_GRID)


def grating(cycles: float, angle: float, phase: float = 0.0, contrast: float = 0.02) -> Tensor:
    """A grey grating; ``angle`` is the direction of change, in degrees clockwise from rightwards."""
    place = torch.arange(SIZE, dtype=torch.float64) / SIZE
    down, right = torch.meshgrid(place, place, indexing="ij")
    along = right * math.cos(math.radians(angle)) + down * math.sin(math.radians(angle))
    wave = 0.5 + contrast * torch.cos(2 * math.pi * cycles * along + phase)
    return wave.float().expand(1, 3, SIZE, SIZE).contiguous()


def photos(shared_data) -> Tensor:
    pictures = [decode(path) for path in sorted((shared_data / "photos").glob("*.jpg"))]
    arrays = np.stack([apply(GEOMETRIES["lowlevel"], picture) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def test_a_vector_per_picture(shared_data):
    pixels = photos(shared_data)
    out = ENCODER(pixels)
    assert out.shape == (8, 704) == (8, LowLevel.dim) and out.dtype == torch.float32
    assert torch.equal(out, ENCODER(pixels)) and torch.equal(out, LowLevel()(pixels))
    torch.testing.assert_close(ENCODER(pixels[3:4]), out[3:4], rtol=0, atol=1e-5)
    assert ENCODER.state_dict() == {} and list(ENCODER.parameters()) == []


@pytest.mark.parametrize("scale", range(SCALES))
def test_each_filter_answers_most_to_its_own_grating(scale):
    for orientation in range(ORIENTATIONS):
        answer = energy(grating(CENTRES[scale], orientation * 180 / ORIENTATIONS)).mean((0, 3, 4))
        best = divmod(int(answer.argmax()), ORIENTATIONS)
        assert best == (scale, orientation)


def test_energy_does_not_depend_on_phase():
    # where the contrast is weak, and cells hold whole cycles, so that only the filters could bring phase in
    answers = torch.cat([energy(grating(12, 0, phase))[:, 1, 0, 1:3, 1:3] for phase in np.arange(8) * math.pi / 4])
    assert ((answers - answers.mean(0)).abs() / answers.mean(0)).max() < 0.01
    # the odd half alone would vanish at some phase
    assert answers.min() > 0.5 * 0.02**2 / 8


def test_energies_add_up_to_the_variance():
    # 8 cycles lie between two centres, 20 degrees between two orientations
    for cycles, angle in ((12, 0), (8, 20), (17, 77), (5, 140)):
        inner = energy(grating(cycles, angle))[..., 1:3, 1:3].sum((1, 2)).mean()
        assert inner == pytest.approx(0.02**2 / 2, rel=0.06)


def test_uniform_grey_has_no_energy():
    pixels = torch.full((1, 3, SIZE, SIZE), 0.7)
    assert energy(pixels).max() < 1e-9
    assert energy(grating(12, 0)).max() > 1e-5


def test_a_quarter_turn_turns_cells_and_orientations(shared_data):
    pixels = photos(shared_data)
    turned = energy(torch.rot90(pixels, 1, (2, 3)))
    wanted = torch.rot90(energy(pixels), 1, (3, 4)).roll(ORIENTATIONS // 2, 2)
    torch.testing.assert_close(turned, wanted, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(colour(torch.rot90(pixels, 1, (2, 3))), torch.rot90(colour(pixels), 1, (2, 3)))


def test_a_mirror_swaps_columns_and_slants(shared_data):
    pixels = photos(shared_data)
    mirrored = energy(pixels.flip(3))
    slants = [-orientation % ORIENTATIONS for orientation in range(ORIENTATIONS)]
    wanted = energy(pixels).flip(4)[:, :, slants]
    torch.testing.assert_close(mirrored, wanted, rtol=1e-3, atol=1e-8)


def test_energy_lies_where_the_edges_lie():
    pixels = torch.full((1, 3, SIZE, SIZE), 0.5)
    pixels[..., SIZE // 4 : SIZE // 2, SIZE // 2 : SIZE * 3 // 4] = grating(24, 0)[..., : SIZE // 4, : SIZE // 4]
    answer = energy(pixels)[0, 0, 0]
    assert divmod(int(answer.argmax()), ENERGY_GRID) == (1, 2)
    assert answer[1, 2] > 0.6 * answer.sum()


def test_opposite_edges_do_not_meet():
    # white above, black below: without mirrored margins, a false edge would run along top and bottom
    pixels = torch.linspace(1, 0, SIZE)[:, None].expand(1, 3, SIZE, SIZE).contiguous()
    finest = energy(pixels)[0, 0].sum(0)
    assert finest[[0, 3]].max() < 1e-5


def test_colours_are_those_of_jpeg():
    values = np.random.default_rng(0).integers(0, 256, (COLOUR_GRID, COLOUR_GRID, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(values).convert("YCbCr")).astype(float)
    cell = SIZE // COLOUR_GRID
    pixels = torch.from_numpy(values.repeat(cell, 0).repeat(cell, 1)).permute(2, 0, 1)[None].float() / 255
    luma, blue, red = colour(pixels)[0].numpy()
    np.testing.assert_allclose(luma / 2 * 255 + 127.5, wanted[..., 0], atol=1.01)
    np.testing.assert_allclose(blue / 4 * 255 + 128, wanted[..., 1], atol=1.01)
    np.testing.assert_allclose(red / 4 * 255 + 128, wanted[..., 2], atol=1.01)


def test_energy_and_colour_both_count_after_normalisation(shared_data):
    out = ENCODER(photos(shared_data))
    out = out - out.mean(1, keepdim=True)
    out = out / out.norm(dim=1, keepdim=True)
    spread = (out - out.mean(0)).square().sum(0)
    share = spread[:ENERGY].sum() / spread.sum()
    assert 0.35 < share < 0.65
    luma, chroma = spread[ENERGY:].split([64, 128])
    assert 0.5 < luma.sum() / chroma.sum() < 2
    # photographs are told apart: no two vectors point the same way
    assert (out @ out.T).fill_diagonal_(0).max() < 0.7


def test_contrast_is_worth_half_at_the_stated_contrast():
    share = (energy(grating(12, 0))[0, 1, 0, 1:3, 1:3].mean() / (0.02**2 / 2)).sqrt().item()  # in the best filter
    amplitude = HALF_CONTRAST * math.sqrt(2) / share  # from root-mean-square
    response = ENCODER(grating(12, 0, contrast=amplitude))[:, :ENERGY].reshape(SCALES, ORIENTATIONS, 4, 4)
    assert response[1, 0, 1:3, 1:3].mean().item() == pytest.approx(0, abs=0.01)
    assert response.min() >= -0.5 and response.max() < 0.5


def test_half_precision_around_it_changes_nothing(shared_data):
    pixels = photos(shared_data)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        out = ENCODER(pixels)
    assert out.dtype == torch.float32 and torch.equal(out, LowLevel()(pixels))
