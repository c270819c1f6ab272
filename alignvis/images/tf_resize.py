"""TensorFlow's bicubic resize without antialiasing, which the harmonised encoders were trained and used behind.

Neither Pillow nor torch has it: Pillow always antialiases, and torch's cubic is steeper (a = -0.75) and repeats edges.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

STEEPNESS = np.float32(-0.5)  # "a" of Keys' cubic
STEPS = 1024  # TensorFlow looks weights up in a table of so many fractions of a pixel


def tf_bicubic(picture: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Resize a picture straight to a square.

    Each output pixel is made of the 4 x 4 input pixels around its centre, however much smaller the picture becomes.

    Args:
        picture: (rows, columns, channels) uint8.
        size: rows and columns of the result.

    Returns:
        (size, size, channels) float32; it may overshoot 0 and 255 and is neither rounded nor clipped.

    Source: `tf.image.resize(picture, (size, size), "bicubic")` of TensorFlow 2, which differs from this by rounding
        only (1e-4 at most).
    """
    height, width, channels = picture.shape
    rows = _weighted(picture.reshape(height, width * channels), *_taps(height, size))
    # Columns become the first axis too, as whole rows are gathered several times faster than single pixels.
    columns = np.ascontiguousarray(rows.reshape(size, width, channels).transpose(1, 0, 2))
    squashed = _weighted(columns.reshape(width, size * channels), *_taps(width, size))
    return np.ascontiguousarray(squashed.reshape(size, size, channels).transpose(1, 0, 2))


def _weighted(rows: NDArray, indices: NDArray[np.intp], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum four weighted rows for each row of the result; indices and weights are (4, size)."""
    total = np.multiply(rows[indices[0]], weights[0][:, None], dtype=np.float32)
    part = np.empty_like(total)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total += np.multiply(rows[index], weight[:, None], out=part)
    return total


@lru_cache(1024)
def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Say which four inputs make each output along one axis, and with which weights.

    Returns:
        indices and weights, both (4, size). What lies outside the picture has weight 0, and the others make up for it.
    """
    scale = np.float32(length) / np.float32(size)
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(centres)
    # rint rounds halves to even, as TensorFlow's lrintf does
    fractions = np.rint((centres - first) * STEPS).astype(np.float32) / STEPS
    distances = np.stack([fractions + 1, fractions, 1 - fractions, 2 - fractions])
    indices = first.astype(np.intp) + np.arange(-1, 3)[:, None]
    inside = (indices >= 0) & (indices < length)
    weights = np.where(inside, _cubic(distances), np.float32(0))
    return indices.clip(0, length - 1), weights / weights.sum(axis=0)


def _cubic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keys' cubic at distances of 0 to 2 pixels."""
    a = STEEPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
