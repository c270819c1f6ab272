"""Low-pass versions of a batch of pictures."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def blur_matrix(side: int, sigma: float) -> Tensor:
    """The linear map that a Gaussian blur is along one edge, (side, side) float32.

    Beyond the border the picture is mirrored, so a plain picture stays as it is.

    Args:
        side: length of the edge, pixels.
        sigma: standard deviation, pixels; the bell ends at four of them.
    """
    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=4.0)).float()


def blur(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Blur square pictures down and across: (..., side, side) to the same."""
    return matrix @ pictures @ matrix.T
