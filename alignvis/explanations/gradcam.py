"""Grad-CAM: where and when a convolutional brain encoder looked when it compared a response with its picture."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.asking import Asked
from alignvis.encoders.convolutional import Convolutional
from alignvis.progress import Progress, silent
from alignvis.retrieval import similarity

CHUNK = 2**25  # values of the feature maps at a time, 128 MiB: what bounds the memory beside the result


def why_not(asked: Asked) -> str | None:
    """Say why a run's brain encoder has no Grad-CAM; None if it has."""
    name, encoder = asked.record["encoder"], asked.decoder.brain
    if not isinstance(encoder, Convolutional):
        return f"{name} has no convolution over time, whose feature maps Grad-CAM weighs"
    if name == "atms" and asked.recipe.parity:
        return "in parity ATM-S loses the last channel and takes a learned token in its place"
    return None


def gradcam(asked: Asked, treated: Tensor, progress: Progress = silent) -> NDArray[np.float32]:
    """Map what raised the similarity of every query with its own picture.

    The score of a query is the one that retrieval ranks by: projector, centring and scaling to length one included.
    Each feature map (of the temporal convolution, as the one over channels takes it in) is weighed by the mean of the
    score's gradient over its channels and steps; the sum of the weighed maps is cut off below zero, and interpolated
    linearly from the centres of the receptive fields to all samples, beyond the first and the last one by their values.
    So a map is as fine as a receptive field is short (300 ms for NICE at 250 Hz, 40 ms for EEG Conformer), and as
    feature maps hold what all pictures have in common too, it is occlusion that says what tells them apart.

    Args:
        treated: (queries, channels, times), as `Asked.treated` returns them.

    Returns:
        (queries, channels, times), or (queries, 1, times) where the first convolution mixes all channels; at least 0,
        in units of the similarity's gradient times the feature maps: only its course within a query means something.

    Source: Selvaraju et al. (2017), arXiv:1610.02391, equations 1 and 2.
    """
    encoder = asked.decoder.brain
    centres = encoder.centres.numpy()
    place = np.clip(np.interp(np.arange(treated.shape[2]), centres, np.arange(len(centres))), 0, len(centres) - 1)
    left = np.minimum(place.astype(np.int64), max(0, len(centres) - 2))
    share = torch.from_numpy((place - left).astype(np.float32))
    right = np.minimum(left + 1, len(centres) - 1)
    found: NDArray[np.float32] | None = None
    start, together = 0, 1
    while start < len(treated):
        rows = slice(start, start + together)
        with torch.no_grad():
            planes = encoder.planes(encoder.prepare(treated[rows].to(asked.device)))
        coarse = _weighed(asked, planes, asked.gallery[rows]).cpu()
        if found is None:  # the first query tells how large feature maps are
            found = np.empty((len(treated), coarse.shape[1], treated.shape[2]), np.float32)
            together = max(1, CHUNK // planes.numel())
        found[rows] = coarse[..., left] * (1 - share) + coarse[..., right] * share
        start = min(rows.stop, len(treated))
        progress(start, len(treated), "Grad-CAM")
    assert found is not None
    return found


def _weighed(asked: Asked, planes: Tensor, pictures: Tensor) -> Tensor:
    """From feature maps, (queries, planes, channels, steps), to their weighed sum, (queries, channels, steps)."""
    pictures = pictures.clone()  # it may be of inference mode, whose tensors take part in no gradient
    with torch.enable_grad():
        planes = planes.detach().requires_grad_()
        vectors = asked.decoder.brain.from_planes(planes).float()
        own = similarity(vectors[:, None], pictures[:, None], asked.recipe.sides, asked.recipe.centre)
        (gradient,) = torch.autograd.grad(own.sum(), planes)  # no query's score depends on another query
    weights = gradient.mean(dim=(2, 3))
    return torch.einsum("bp,bpcs->bcs", weights, planes.detach()).relu()
