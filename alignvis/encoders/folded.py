"""BatchNorm of a linear map, without a pass over what the map gives."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


def fold(
    norm: _BatchNorm, weight: Tensor, bias: Tensor, mean: Tensor | None, covariance: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Put a BatchNorm into the weights of the linear map before it.

    A linear map's outputs have mean ``weight @ mean + bias`` and variance ``weight @ covariance @ weight``, so the
    mean and covariance of its inputs are all that the norm needs. In training the norm's running statistics are updated
    as torch does it; in evaluation they are what is folded, and ``mean`` and ``covariance`` may be None.

    Args:
        weight, bias: (outputs, inputs) and (outputs,).
        mean, covariance: of the map's inputs, (inputs,) and (inputs, inputs), the latter divided by ``count``.
        count: how many inputs they are over.

    Returns:
        Weight and bias of the map with its norm.
    """
    if norm.training:
        centre = weight @ mean + bias
        spread = ((weight @ covariance) * weight).sum(1).clamp(min=0)  # rounding could make it negative
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.mul_(1 - norm.momentum).add_(centre, alpha=norm.momentum)
            norm.running_var.mul_(1 - norm.momentum).add_(spread, alpha=norm.momentum * count / (count - 1))
    else:
        centre, spread = norm.running_mean, norm.running_var
    scale = norm.weight * (spread + norm.eps).rsqrt()
    return weight * scale[:, None], (bias - centre) * scale + norm.bias
