"""One image encoder, from its row in the catalogue and its files: the networks, what aligns them, and their inputs."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.images.align import Affine, read_adapter, read_transform
from alignvis.images.checkpoints import Tensors, convert, shapes
from alignvis.images.lowlevel import LowLevel
from alignvis.images.unpack import has_member
from alignvis.images.vit import Architecture, ViT
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
    def sources(self) -> tuple[Source, ...]:
        """The files to download."""
        networks = [branch.sources[0] for branch in self.branches if branch.sources]
        return (*networks, *(source for source in (self.adapter, self.transform) if source is not None))


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
        self, row: Row, networks: list[nn.Module], transform: Affine | None, provenance: list[dict[str, str]]
    ) -> None:
        super().__init__()
        self.row, self.geometry, self.provenance = row, row.geometry, provenance
        self.networks = nn.ModuleList(networks)
        self.transform = transform
        statistics = torch.tensor([branch.statistics for branch in row.branches])
        # (networks, mean and std, 1, channels, 1, 1)
        self.register_buffer("statistics", statistics.reshape(-1, 2, 1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.row.branches:
            return self.networks[0](pixels)
        parts = [
            network((pixels - mean) / std) for network, (mean, std) in zip(self.networks, self.statistics, strict=True)
        ]
        embeddings = torch.cat(parts, dim=1)
        return embeddings if self.transform is None else self.transform(embeddings)


def build(
    row: Row, folder: Path, *, given: Path | None = None, download: bool = True, progress: Progress = silent
) -> ImageEncoder:
    """Make an encoder from its files, found or fetched as `weights.locate` does.

    Args:
        folder: the ``weights/`` folder.
        given: a folder that holds its files, the official archive, or the file of its only network; what is not in
            the archive or the file is looked for as usual.
        download: whether the network may be used.

    Raises:
        AlignvisError: when a file cannot be had, or is not what the row says it is.
    """
    folder, given = Path(folder), None if given is None else Path(given)
    if not row.branches:
        return ImageEncoder(row, [LowLevel()], None, [])

    def find(source: Source) -> Path:
        return locate(source, folder, _given_for(source, row, given), download=download, progress=progress)

    files: list[Path] = []
    weights: list[Tensors] = []
    for branch in row.branches:
        if branch.sources:
            files.append(find(_choice(branch, given if given is not None and given.is_dir() else folder)))
            check_config(files[-1], branch)
            weights.append(convert(read_tensors(files[-1]), branch.architecture, files[-1]))
        else:
            weights.append(untrained(branch.architecture))
    if row.adapter is not None:
        adapter = find(row.adapter)
        deltas = read_adapter(adapter, [branch.architecture for branch in row.branches])
        files += [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
        for tensors, delta in zip(weights, deltas, strict=True):
            tensors.update({name: tensors[name] + change for name, change in delta.items()})
    transform = None
    if row.transform is not None:
        files.append(find(row.transform))
        transform = read_transform(files[-1], row.dim, row.transform.sha256)
    networks = [network(branch.architecture, tensors) for branch, tensors in zip(row.branches, weights, strict=True)]
    provenance = [{"file": file.name, "sha256": sha256(file)} for file in files]
    return ImageEncoder(row, networks, transform, provenance)


def network(architecture: Architecture, tensors: Tensors) -> ViT:
    """Make a network of weights that `convert` has checked; they are not copied."""
    with torch.device("meta"):  # so that no time goes into weights that are replaced at once
        vit = ViT(architecture)
    vit.load_state_dict(tensors, assign=True)
    return vit


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
    expected = {"activation": branch.architecture.activation} | dict(
        zip(("mean", "std"), branch.statistics, strict=True)
    )
    if beside.name == "open_clip_config.json":
        said = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu"}
        said |= {name: preprocess[name] for name in ("mean", "std") if name in preprocess}
    else:
        activation = vision.get("hidden_act", config.get("hidden_act"))
        said = {} if activation is None else {"activation": activation}
    for what, value in said.items():
        if (tuple(value) if isinstance(value, list) else value) != expected[what]:
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
