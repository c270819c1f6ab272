"""An image encoder without weights: where edges of each orientation and scale lie, and where colours lie.

What early visual cortex would say of a picture. It is a floor for learned encoders, and it needs no download.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 96  # side of the picture, pixels
MARGIN = 16  # pixels mirrored around it, so that opposite edges do not meet; together 128, which halves well
SCALES = 4  # octaves, centred on 24, 12, 6 and 3 cycles per picture
ORIENTATIONS = 8
ENERGY_GRID, COLOUR_GRID = 4, 8  # cells along a side
# The median contrast of one band in one cell of a photograph (8 of them); the response is half its maximum there.
HALF_CONTRAST = 0.017
# Weights at which energy and colour vary about equally from photograph to photograph, and luma as much as chroma.
LUMA_WEIGHT, CHROMA_WEIGHT = 2.0, 4.0


class LowLevel(nn.Module):
    """Oriented energy on a 4 x 4 grid at 4 scales and 8 orientations, and colour on an 8 x 8 grid.

    The picture's luma is split by a steerable pyramid into octaves and orientations. The filters are analytic: real and
    imaginary part of the result are a quadrature pair, and its squared modulus is energy, which does not depend on
    phase. Energy is averaged over each cell and passed through the contrast response of a cortical cell,
    c^2 / (c^2 + c50^2). Colour is the mean of luma and of both chroma channels in each cell. Both are centred on what
    is typical and weighted, so that each counts after the vector is normalised.

    Shapes: forward maps (batch, 3, 96, 96) float32 in [0, 1] to (batch, 704) float32: energy as (scale, finest
    first; orientation, the direction of change, from rightwards in steps of 22.5 degrees clockwise; row; column), then
    colour as (luma, blue, red; row; column).

    Source: motion energy, Adelson & Bergen (1985), doi:10.1364/JOSAA.2.000284, without motion; steerable pyramid,
        Simoncelli & Freeman (1995), doi:10.1109/ICIP.1995.537667; contrast response, Albrecht & Hamilton (1982),
        doi:10.1152/jn.1982.48.1.217; spatial layout of energy, Oliva & Torralba (2001), doi:10.1023/A:1011139631724;
        colour layout, MPEG-7 (ISO/IEC 15938-3), without its cosine transform, which would change no distance.
    """

    dim = SCALES * ORIENTATIONS * ENERGY_GRID**2 + 3 * COLOUR_GRID**2

    def __init__(self) -> None:
        super().__init__()
        for scale, filters in enumerate(_filters()):
            self.register_buffer(f"filters_{scale}", filters, persistent=False)
        # Luma and chroma of ITU-R BT.601, the colours of JPEG and of MPEG-7.
        luma = torch.tensor([0.299, 0.587, 0.114])
        blue, red = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]) - luma
        colours = torch.stack([luma, blue / (2 * (1 - 0.114)), red / (2 * (1 - 0.299))])
        self.register_buffer("colours", colours, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # Element by element, because a matrix product would follow the caller's autocast into half precision.
        channels = (pixels.float()[:, None] * self.colours[..., None, None]).sum(2)  # (batch, 3, side, side)
        return torch.cat([self._energy(channels[:, 0]), self._colour(channels)], dim=1)

    def _energy(self, luma: Tensor) -> Tensor:
        padded = F.pad(luma[:, None], (MARGIN,) * 4, mode="reflect")[:, 0]
        spectrum = torch.fft.fft2(padded, norm="forward")  # (batch, side, side)
        parts = []
        for scale in range(SCALES):
            filters = getattr(self, f"filters_{scale}")
            side, margin = filters.shape[-1], MARGIN >> scale
            # The band ends where the coarser grid's spectrum ends, so nothing is lost and nothing folds back.
            low = _middle(spectrum, side)
            cell = (side - 2 * margin) // ENERGY_GRID
            # One orientation at a time stays in the cache: twice as fast as all at once.
            for one in filters:
                band = torch.view_as_real(torch.fft.ifft2(low * one, norm="forward"))
                squares = band[:, margin : side - margin, margin : side - margin].square()
                energy = squares.reshape(-1, ENERGY_GRID, cell, ENERGY_GRID, 2 * cell).sum((2, 4)) / cell**2
                parts.append(energy / (energy + HALF_CONTRAST**2) - 0.5)
        return torch.stack(parts, dim=1).flatten(1)

    def _colour(self, channels: Tensor) -> Tensor:
        cells = F.avg_pool2d(channels, SIZE // COLOUR_GRID)
        luma, chroma = cells[:, :1] - 0.5, cells[:, 1:]
        return torch.cat([LUMA_WEIGHT * luma, CHROMA_WEIGHT * chroma], dim=1).flatten(1)


def _middle(spectrum: Tensor, side: int) -> Tensor:
    """Keep the lowest frequencies of a (..., n, n) spectrum in the order of `torch.fft`: (..., side, side)."""
    half = side // 2
    rows = torch.cat([spectrum[..., :half, :], spectrum[..., -half:, :]], dim=-2)
    return torch.cat([rows[..., :half], rows[..., -half:]], dim=-1)


def _filters() -> list[Tensor]:
    """Make each scale's filters, (orientations, side, side) complex64, in the frequency order of `torch.fft`.

    They tile the plane: between the lowest and the highest centre frequency, the energies of all scales and
    orientations add up to the variance of the picture.
    """
    angles = torch.arange(ORIENTATIONS, dtype=torch.float64) * math.pi / ORIENTATIONS
    order = ORIENTATIONS - 1
    # The cos^(2 order) of all orientations add up to orientations * comb(2 order, order) / 4^order at every angle;
    # twice, because each filter sees one of the two halves of a real picture's spectrum.
    gain = math.sqrt(2 * 4**order / (ORIENTATIONS * math.comb(2 * order, order)))
    made = []
    for scale in range(SCALES):
        side = (SIZE + 2 * MARGIN) >> scale
        frequency = torch.fft.fftfreq(side, dtype=torch.float64)  # cycles per pixel of this scale's grid
        down, right = torch.meshgrid(frequency, frequency, indexing="ij")
        octaves = torch.log2(torch.hypot(down, right).clamp(min=1e-12) / 0.25)
        radial = torch.where(octaves.abs() < 1, torch.cos(math.pi / 2 * octaves), 0.0)
        angular = torch.cos(torch.atan2(down, right) - angles[:, None, None]).clamp(min=0) ** order
        # A turn of phase puts each sample of a coarser grid in the middle of the pixels that it stands for.
        shift = (1 - 0.5**scale) / 2 * (down + right)
        made.append((gain * radial * angular * torch.exp(2j * math.pi * shift)).to(torch.complex64))
    return made
