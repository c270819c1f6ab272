"""The widest part of NICE: filter each channel in time, ELU, weigh all filters of all channels; and its statistics.

Everything here is time-major, (times, channels, images): 25 samples of all channels and images are then consecutive
rows of one matrix, which a product reads where they lie, and the images are the long side of every product.
"""

from math import e, log2
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import elu

PLANES = 40
TAPS = 25  # of the temporal filters, samples
STRIDE = 5  # between their outputs, samples
TOGETHER = 4  # windows to a product of `window_moments`
BITS = log2(e)  # exp2 takes a third of the time of exp, so the fused filter counts in units of ln 2


def windows_of(signal: Tensor, width: int = TAPS, stride: int = STRIDE) -> Tensor:
    """(times, channels, images) to (steps, width, channels * images), without copying."""
    return signal.flatten(1).unfold(0, width, stride).transpose(1, 2)


def window_moments(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (25,) and covariance (25, 25) of the windows that the temporal filters see, all of equal weight.

    They are all that is needed to know mean and variance of every output of every linear filter of these windows.
    A constant is subtracted first, as squares of a large offset would drown the rest.
    """
    offset = signal.mean()
    signal = signal - offset
    steps = (len(signal) - TAPS) // STRIDE + 1
    mean = signal.mean(dim=(1, 2)).unfold(0, TAPS, STRIDE).mean(dim=0)
    # Neighbouring windows share samples: one product of 40 samples serves four windows of 25.
    grouped = steps - steps % TOGETHER
    squares = torch.zeros_like(mean).diag()
    if grouped:
        spans = windows_of(signal, TAPS + (TOGETHER - 1) * STRIDE, TOGETHER * STRIDE)
        products = torch.bmm(spans, spans.transpose(1, 2)).sum(dim=0)
        squares = squares + products.unfold(0, TAPS, STRIDE).unfold(1, TAPS, STRIDE).diagonal().sum(dim=-1)
    if grouped < steps:
        rest = windows_of(signal[grouped * STRIDE :])
        squares = squares + torch.bmm(rest, rest.transpose(1, 2)).sum(dim=0)
    covariance = squares / (steps * signal[0].numel()) - torch.outer(mean, mean)
    return mean + offset, covariance


def filter_in_time(signal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Filter in time and take the ELU: (times, channels, images) to (steps, 40, channels * images)."""
    windows = windows_of(signal)
    return elu(torch.baddbmm(bias[:, None], weight.expand(len(windows), -1, -1), windows))


def filter_plainly(signal: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor) -> Tensor:
    """Filter in time, ELU, filter in space, one operation of torch each.

    Args:
        signal: (times, channels, images).
        weight, bias: (40, 25) and (40,), of the temporal filters.
        spatial: (40, 40 * channels), temporal filters before channels.

    Returns:
        (steps, 40, images).
    """
    planes = filter_in_time(signal, weight, bias)
    planes = planes.view(len(planes), -1, signal.shape[-1])
    return torch.bmm(spatial.expand(len(planes), -1, -1), planes)


class FusedFilter(torch.autograd.Function):
    """`filter_plainly`, a few steps at a time, so that what one operation writes is in the cache for the next one.

    ELU in units of ln 2, with z the input in these units, is max(z, exp2(min(z, 0)) / ln 2 - 1 / ln 2).
    """

    @staticmethod
    def forward(signal: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """As `filter_plainly`; also returns the planes, (steps, 40, channels * images), where they are to be kept."""
        windows, images = windows_of(signal), signal.shape[-1]
        together = torch.get_num_threads()  # a product of a batch gives each thread products of its own
        planes = windows.new_empty(len(windows) if keep else together, PLANES, windows.shape[-1])
        scratch = windows.new_empty(1, together, *planes.shape[1:])
        output = windows.new_empty(len(windows), PLANES, images)
        weight, bias, spatial = BITS * weight, BITS * bias[:, None], spatial / BITS
        lowest = windows.new_tensor(-BITS)
        for start in range(0, len(windows), together):
            now = windows[start : start + together]
            count = len(now)
            (below,) = scratch[:, :count]
            part = planes[start : start + together] if keep else planes[:count]
            torch.baddbmm(bias, weight.expand(count, -1, -1), now, out=part)
            torch.clamp(part, max=0, out=below).exp2_()
            torch.add(lowest, below, alpha=BITS, out=below)
            torch.maximum(part, below, out=part)
            torch.bmm(spatial.expand(count, -1, -1), part.view(count, -1, images), out=output[start : start + together])
        return output, planes

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        signal, weight, _, spatial, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # not 46 MB of zeros for what has no gradient
        ctx.save_for_backward(signal, weight, spatial, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        signal, weight, spatial, planes = ctx.saved_tensors
        windows, images = windows_of(signal), signal.shape[-1]
        together = torch.get_num_threads()
        scratch = windows.new_empty(together, *planes.shape[1:])
        by_weight = windows.new_zeros(together, TAPS, PLANES)  # each thread sums up its own
        by_bias = windows.new_zeros(together, PLANES)
        by_spatial = windows.new_zeros(together, *spatial.shape[::-1])
        by_signal = torch.zeros_like(signal) if ctx.needs_input_grad[0] else None
        for start in range(0, len(windows), together):
            part, above = planes[start : start + together], gradient[start : start + together]
            count = len(part)
            below = scratch[:count]
            torch.bmm(spatial.T.expand(count, -1, -1), above, out=below.view(count, -1, images))
            torch.ops.aten.elu_backward.grad_input(below, BITS, 1, 1 / BITS, True, part, grad_input=below)
            by_spatial[:count].baddbmm_(part.view(count, -1, images), above.transpose(1, 2))
            by_weight[:count].baddbmm_(windows[start : start + together], below.transpose(1, 2))
            by_bias[:count] += below.sum(dim=2)
            if by_signal is not None:  # windows overlap, so one after the other
                for window, one in zip(windows_of(by_signal)[start : start + together], below, strict=True):
                    window.addmm_(weight.T, one)
        return by_signal, by_weight.sum(dim=0).T, by_bias.sum(dim=0), by_spatial.sum(dim=0).T / BITS, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        *inputs, _ = inputs
        output = torch.vmap(filter_plainly, in_dims[:-1])(*inputs)
        return (output, output.new_empty(0)), (0, None)


def filtered(signal: Tensor, weight: Tensor, bias: Tensor, spatial: Tensor) -> Tensor:
    """As `filter_plainly`, by whichever way is faster here."""
    if signal.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return filter_plainly(signal, weight, bias, spatial)
    return FusedFilter.apply(signal, weight, bias, spatial, torch.is_grad_enabled())[0]
