"""One batch of pictures through all encoders: what they share is computed once, and no step waits for the last one."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from alignvis.errors import AlignvisError
from alignvis.images.blur import blur, blur_matrix
from alignvis.images.encoder import ImageEncoder
from alignvis.images.pixels import GEOMETRIES

Pictures = dict[str, Tensor]  # name of a geometry -> (pictures, 3, side, side) float32 in [0, 1]
PRECISIONS = ("fp32", "bf16")


def to_unit(pixels: NDArray, device: torch.device) -> Tensor:
    """(pictures, rows, columns, 3) of 0 to 255 to (pictures, 3, rows, columns) float32 of 0 to 1, on a device."""
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda":  # from memory that is not pinned, the copy would wait for all work in the queue
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).contiguous().float() / 255


class Pass:
    """All that a batch of pictures goes through, on one device.

    Args:
        encoders: on the device from now on.
        layers: for each encoder, the numbers of the layers to keep.
        sigmas: of the blurred versions beside the sharp one, pixels of an encoder's input.
        precision: "bf16" has matrices multiplied in bfloat16, by copies of the encoders; sums, normalisations and the
            embeddings stay float32.
    """

    def __init__(
        self,
        encoders: Sequence[ImageEncoder],
        layers: Sequence[Sequence[int]],
        sigmas: Sequence[float],
        device: torch.device,
        precision: str,
    ) -> None:
        self.device, self.precision, self.layers = device, precision, layers
        self.encoders = _in_half(encoders) if precision == "bf16" else encoders
        for encoder in self.encoders:
            encoder.to(device).eval()
        sides = {encoder.geometry: GEOMETRIES[encoder.geometry].crop for encoder in encoders}
        self.matrices = {
            (geometry, sigma): blur_matrix(side, sigma).to(device)
            for geometry, side in sides.items()
            for sigma in sigmas
        }
        self.sigmas = (0.0, *sigmas)
        # Of a network that several encoders share, every layer that one of them keeps.
        self.asked: dict[nn.Module, set[int]] = {}
        for encoder, numbers in zip(self.encoders, layers, strict=True):
            for network in encoder.networks:
                self.asked.setdefault(network, set()).update(numbers)

    def __call__(self, pictures: Pictures, which: Sequence[int]) -> list[dict[str, Tensor]]:
        """Embed a batch for some of the encoders.

        Args:
            which: places of encoders in the list.

        Returns:
            For each of them, by the names of a features table, (pictures, channels) float32 on the device.
        """
        seen: dict[tuple[str, float], Tensor] = {}
        done: dict[tuple[nn.Module, str, float], dict[str, Tensor]] = {}
        results = []
        for place in which:
            encoder, result = self.encoders[place], {}
            for sigma in self.sigmas:
                view = (encoder.geometry, sigma)
                if view not in seen:
                    sharp = pictures[encoder.geometry]
                    seen[view] = blur(sharp, self.matrices[view]) if sigma else sharp
                for network in encoder.networks:
                    if (network, *view) not in done:
                        done[network, *view] = self._run(network, seen[view])
                parts = [_kept(done[network, *view], self.layers[place]) for network in encoder.networks]
                joined = encoder.join(parts)
                result |= {named(name, sigma): tensor for name, tensor in joined.items()}
            results.append(result)
        return results

    def _run(self, network: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                outputs = network(pictures, self.asked[network])
        except torch.OutOfMemoryError as error:
            raise AlignvisError(
                f"the device ran out of memory on {len(pictures)} pictures at a time; choose a smaller --batch"
            ) from error
        return {name: tensor.float() for name, tensor in outputs.items()}


def _kept(outputs: dict[str, Tensor], layers: Sequence[int]) -> dict[str, Tensor]:
    """The embedding and the layers that an encoder keeps; their names are "layer.<number>..."."""
    return {name: t for name, t in outputs.items() if name == "embeddings" or int(name.split(".")[1]) in layers}


def named(name: str, sigma: float) -> str:
    """What a table calls a tensor of pictures blurred so much: "embeddings" becomes "blur.3"."""
    if not sigma:
        return name
    return f"blur.{sigma:g}" if name == "embeddings" else f"blur.{sigma:g}.{name}"


def sizes(encoder: ImageEncoder, layers: Sequence[int], sigmas: Sequence[float]) -> dict[str, int]:
    """The tensors that a table of this encoder holds, and the channels of each."""
    found = {"embeddings": encoder.row.dim}
    if layers:
        side = GEOMETRIES[encoder.geometry].crop
        black = torch.zeros(1, 3, side, side, device=next(encoder.parameters()).device)
        with torch.inference_mode():
            parts = encoder.join([network(black, layers) for network in encoder.networks])
        found = {name: tensor.shape[1] for name, tensor in parts.items()}
    return {named(name, sigma): channels for sigma in (0.0, *sigmas) for name, channels in found.items()}


@contextmanager
def inference(precision: str) -> Iterator[None]:
    """No gradients, and convolutions on CUDA that neither use TF32 unasked nor differ from call to call."""
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=precision == "bf16")
    with torch.inference_mode(), exact:
        yield


class Fetch:
    """A result on its way to the host, which the device copies when its turn comes while the host goes on."""

    def __init__(self, result: dict[str, Tensor]) -> None:
        self.result, self.event = result, None
        if any(tensor.is_cuda for tensor in result.values()):
            self.result = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for name, tensor in result.items()
            }
            self.event = torch.cuda.Event()
            self.event.record()

    def wait(self) -> dict[str, NDArray[np.float32]]:
        if self.event is not None:
            self.event.synchronize()
        return {name: tensor.numpy() for name, tensor in self.result.items()}


def agreement(halved: Pass, encoders: Sequence[ImageEncoder], pictures: Pictures) -> list[float]:
    """For each encoder, the smallest cosine between an embedding in bfloat16 and the same in float32."""
    which = range(len(encoders))
    exact = Pass(encoders, [()] * len(encoders), (), halved.device, "fp32")
    with inference("fp32"):
        fine = exact(pictures, which)
    with inference("bf16"):
        rough = halved(pictures, which)
    pairs = zip(rough, fine, strict=True)
    return [cosine_similarity(one["embeddings"], two["embeddings"], dim=1).min().item() for one, two in pairs]


def _in_half(encoders: Sequence[ImageEncoder]) -> list[ImageEncoder]:
    """Copies whose matrices are bfloat16 already, which autocast would otherwise convert at every call."""
    copies = copy.deepcopy(list(encoders))  # all in one go, so what they share stays shared
    for encoder in copies:
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
    return copies
