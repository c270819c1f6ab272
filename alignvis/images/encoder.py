"""One image encoder, from its row in the catalogue and its files: the networks, what aligns them, and their inputs."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.images.align import Affine, read_adapter, read_transform
from alignvis.images.checkpoints import Tensors, convert, shapes
from alignvis.images.keras_files import require_h5py
from alignvis.images.lowlevel import LowLevel
from alignvis.images.unpack import has_member
from alignvis.images.weights import Source, locate, read_tensors, sha256
from alignvis.progress import Progress, silent

CONFIGS = {  # files of the Hugging Face hub, and what describes them
    "model.safetensors": "config.json",
    "pytorch_model.bin": "config.json",
    "open_clip_model.safetensors": "open_clip_config.json",
    "open_clip_pytorch_model.bin": "open_clip_config.json",
}
SECTIONS = ("model_cfg", "preprocess_cfg", "vision_config")  # the first two are OpenCLIP's, the last transformers'
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std of R, G, B in [0, 1]


class Architecture(Protocol):
    """Everything that decides what a network computes, apart from its weights; each family has its own dataclass.

    Attributes:
        dim: length of the embedding.
        depth: how many layers can be asked for.
    """

    dim: int
    depth: int

    def build(self) -> nn.Module:
        """Make a network: (batch, 3, height, width), numbers of layers -> tensors by name, "embeddings" among them."""


@dataclass(frozen=True)
class Branch:
    """One network of an encoder.

    Attributes:
        sources: files that hold its weights, each enough by itself; the first is the one to download. None: the network
            is untrained.
        statistics: what its input is normalised by.
    """

    architecture: Architecture
    sources: tuple[Source, ...]
    statistics: Statistics


@dataclass(frozen=True)
class Row:
    """One encoder of the catalogue.

    Attributes:
        id: the published name, or one in its spelling.
        aligned: whether people's judgements of similarity went into it.
        twin: the same encoder with, or without, the alignment.
        dim: length of the embedding.
        geometry: how a picture becomes a square; a key of `pixels.GEOMETRIES`.
        branches: its networks, whose embeddings are joined in this order; none for `lowlevel`.
        adapter: DreamSim's change of the weights.
        transform: gLocal's map; only the file with its sha256 is taken.
        warning: what whoever uses it should be told.
        uncertain: what of its published origin is inferred, not stated.
    """

    id: str
    family: str
    aligned: bool
    dim: int
    geometry: str
    branches: tuple[Branch, ...]
    licence: str
    paper: str
    twin: str | None = None
    adapter: Source | None = None
    transform: Source | None = None
    warning: str | None = None
    uncertain: str | None = None

    @property
    def depth(self) -> int:
        """How many layers can be asked for."""
        return min((branch.architecture.depth for branch in self.branches), default=0)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files to download."""
        networks = [branch.sources[0] for branch in self.branches if branch.sources]
        return (*networks, *(source for source in (self.adapter, self.transform) if source is not None))


class Network(nn.Module):
    """One network with the normalisation of its input; encoders may share it.

    Attributes:
        body: (batch, 3, height, width), layers -> tensors by name.
    """

    def __init__(self, body: nn.Module, statistics: Statistics | None) -> None:
        super().__init__()
        self.body = body
        # (mean and std, 1, channels, 1, 1)
        scale = None if statistics is None else torch.tensor(statistics).reshape(2, 1, 3, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, layers: Collection[int] = ()) -> dict[str, Tensor]:
        if self.scale is None:
            return {"embeddings": self.body(pixels)}
        mean, std = self.scale
        return self.body((pixels - mean) / std, layers)


class ImageEncoder(nn.Module):
    """Pictures to embeddings, everything frozen.

    (batch, 3, height, width) float32 in [0, 1] -> (batch, dim) float32, un-normalised. Each network normalises its
    input for itself, so encoders of the same geometry share pictures.

    Attributes:
        row: its row in the catalogue.
        geometry: how its pictures are made square; a key of `pixels.GEOMETRIES`.
        provenance: the files it was made of: {"file", "sha256"}.
    """

    def __init__(
        self, row: Row, networks: Sequence[Network], transform: Affine | None, provenance: list[dict[str, str]]
    ) -> None:
        super().__init__()
        self.row, self.geometry, self.provenance = row, row.geometry, provenance
        self.networks = nn.ModuleList(networks)
        self.transform = transform
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.join([network(pixels) for network in self.networks])["embeddings"]

    def join(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Put what its networks gave side by side, and map the embeddings where that is what aligns them.

        Args:
            parts: what each network gave, in their order.

        Returns:
            "embeddings" (batch, dim) and the layers that were asked for, which no map was fitted to.
        """
        joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
        if self.transform is not None:
            joined["embeddings"] = self.transform(joined["embeddings"])
        return joined


@dataclass(frozen=True)
class Shelf:
    """What was made of files already, so that encoders which are built of the same ones share it.

    Twins that differ by an affine map, and the networks of ensembles, are the same `Network` and need computing once;
    twins that differ by a low-rank change share all the weights that it leaves alone.
    """

    made: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What stands under a key; made if nothing does."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def build(
    row: Row,
    folder: Path,
    *,
    given: Path | None = None,
    download: bool = True,
    shelf: Shelf | None = None,
    progress: Progress = silent,
) -> ImageEncoder:
    """Make an encoder from its files, found or fetched as `weights.locate` does.

    Args:
        folder: the ``weights/`` folder.
        given: a folder that holds its files, the official archive, or the file of its only network; what is not in
            the archive or the file is looked for as usual.
        download: whether the network may be used.
        shelf: what other encoders were made of; nothing on it is changed.

    Raises:
        AlignvisError: when a file cannot be had, or is not what the row says it is.
    """
    folder, given = Path(folder), None if given is None else Path(given)
    shelf = Shelf() if shelf is None else shelf
    if not row.branches:
        return ImageEncoder(row, [Network(LowLevel(), None)], None, [])

    def find(source: Source) -> Path:
        if source.file.endswith(".h5"):
            require_h5py(source.file)  # before it is fetched
        return locate(source, folder, _given_for(source, row, given), download=download, progress=progress)

    files: list[Path] = []
    adapter = None if row.adapter is None else find(row.adapter)
    architectures = [branch.architecture for branch in row.branches]
    changes = [{} for _ in row.branches] if adapter is None else read_adapter(adapter, architectures)
    networks = []
    for number, (branch, change) in enumerate(zip(row.branches, changes, strict=True)):
        file = (
            find(_choice(branch, given if given is not None and given.is_dir() else folder)) if branch.sources else None
        )
        if file is not None:
            files.append(file)
            check_config(file, branch)
        tensors = shelf.once(("weights", branch.architecture, file), partial(_weights, branch.architecture, file))
        changed = {name: tensors[name] + delta for name, delta in change.items()}
        key = ("network", branch, file, adapter, number if change else None)
        networks.append(shelf.once(key, partial(_network, branch, {**tensors, **changed})))
    if adapter is not None:
        files += [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    transform = None
    if row.transform is not None:
        files.append(find(row.transform))
        transform = read_transform(files[-1], row.dim, row.transform.sha256)
    provenance = [{"file": file.name, "sha256": shelf.once(("sha256", file), partial(sha256, file))} for file in files]
    return ImageEncoder(row, networks, transform, provenance)


def _weights(architecture: Architecture, file: Path | None) -> Tensors:
    return untrained(architecture) if file is None else convert(read_tensors(file), architecture, file)


def _network(branch: Branch, tensors: Tensors) -> Network:
    return Network(network(branch.architecture, tensors), branch.statistics)


def network(architecture: Architecture, tensors: Tensors) -> nn.Module:
    """Make a network of weights that `convert` has checked; they are not copied."""
    with torch.device("meta"):  # so that no time goes into weights that are replaced at once
        body = architecture.build()
    body.load_state_dict(tensors, assign=True)
    return body


def untrained(architecture: Architecture, seed: int = 0) -> Tensors:
    """Random weights that keep the size of what passes through them; the same seed always gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(architecture).items():
        if name.endswith("bias"):
            tensors[name] = torch.zeros(shape)
        elif len(shape) == 1:
            tensors[name] = torch.ones(shape)
        else:
            inputs = architecture.width if name in ("cls_token", "pos_embed") else prod(shape[1:])
            tensors[name] = torch.randn(shape, generator=generator) / inputs**0.5
    return tensors


def check_config(file: Path, branch: Branch) -> None:
    """Hold what a Hugging Face file's configuration says against the row; what it does not say is not checked.

    Raises:
        AlignvisError: when the activation or the statistics differ, neither of which shows in the weights.
    """
    beside = file.with_name(CONFIGS.get(file.name, file.name))
    if beside == file or not beside.is_file():
        return
    config = read_json(beside)
    sections = [config.get(name, {}) for name in SECTIONS] if isinstance(config, dict) else [config]
    if not all(isinstance(section, dict) for section in sections):
        raise AlignvisError(f"{beside} is not the configuration of a model; restore it, or remove it")
    model, preprocess, vision = sections
    expected = dict(zip(("mean", "std"), branch.statistics, strict=True))
    expected["activation"] = getattr(branch.architecture, "activation", None)  # of a transformer alone
    if beside.name == "open_clip_config.json":
        said = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu"}
        said |= {name: preprocess[name] for name in ("mean", "std") if name in preprocess}
    else:
        activation = vision.get("hidden_act", config.get("hidden_act"))
        said = {} if activation is None else {"activation": activation}
    for what, value in said.items():
        if expected[what] is not None and (tuple(value) if isinstance(value, list) else value) != expected[what]:
            raise AlignvisError(
                f"{beside} says {what} {value}, and {expected[what]} was expected; {file.name} is of another model"
            )


def _choice(branch: Branch, folder: Path) -> Source:
    """The first of a network's files that lies in a folder, or else the one to download."""
    for source in branch.sources:
        if (folder / source.file).is_file() or (folder / Path(source.file).name).is_file():
            return source
    return branch.sources[0]


def _given_for(source: Source, row: Row, given: Path | None) -> Path | None:
    """What the user gave, if it concerns this file.

    A folder concerns all of them, an archive its members, and any other file is the weights of the only network.
    """
    if given is None or not given.is_file():
        return given
    if any(each.member is not None and has_member(given, each.member) for each in row.sources):
        return given if source.member is not None else None
    if len(row.branches) > 1:
        raise AlignvisError(f"{row.id} is made of several files, and {given} is one; give the folder that holds them")
    return None if source in (row.adapter, row.transform) else given
