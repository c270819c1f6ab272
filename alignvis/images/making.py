"""What a features table will say of itself, and whether the one that is there says the same."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from alignvis.errors import AlignvisError
from alignvis.files import read_json
from alignvis.images.brick import brick_pictures, open_brick, set_name
from alignvis.images.embed import sizes
from alignvis.images.encoder import ImageEncoder
from alignvis.images.pixels import GEOMETRIES, pictures
from alignvis.store import VERSION, Layout, load_features

HOW = ("batch", "device", "versions")  # of the document: what moves an embedding by rounding only
EXTRA = ("layers", "blur")  # of the document: a table may hold more than is asked for


@dataclass(frozen=True)
class Making:
    """A table that is to be made.

    Attributes:
        path: where it will stand.
        document: what it will say of itself, were every picture readable.
        sizes: its tensors, and the channels of each.
    """

    path: Path
    document: dict[str, Any]
    sizes: dict[str, int]

    @property
    def images(self) -> list[str]:
        return self.document["images"]

    def layout(self, count: int) -> Layout:
        """The tensors of a table, or a part of one, of so many pictures."""
        tensors = {name: ("<f4", (count, channels)) for name, channels in self.sizes.items()}
        return tensors | {"images.sha256": ("|u1", (count, 32)), "images.stamp": ("<i8", (count, 2))}


def plan(
    images: Path,
    ids: list[str],
    encoder: ImageEncoder,
    out: Path,
    *,
    layers: Sequence[int],
    sigmas: Sequence[float],
    batch: int,
    device: str,
    precision: str,
    some: bool = False,
) -> Making:
    """Say what a table of these pictures, perhaps only some of the set, by this encoder will be."""
    row = encoder.row
    document = {
        "version": VERSION,
        "table": "features",
        "image_set": set_name(images),
        "simulated": _is_simulated(images),
        "encoder": row.id,
        "aligned": row.aligned,
        "twin": row.twin,
        "dim": row.dim,
        "weights": encoder.provenance,
        "preprocessing": {
            "geometry": encoder.geometry,
            **asdict(GEOMETRIES[encoder.geometry]),
            # mean and std of each network's input; lists, as JSON gives them back
            "statistics": [[list(part) for part in branch.statistics] for branch in row.branches],
        },
        "layers": list(layers),
        "blur": list(sigmas),
        "precision": precision,
        "batch": batch,
        "device": device,
        "versions": {name: version(name) for name in ("alignvis", "torch", "pillow", "numpy")},
        "images": ids,
        "skipped": [],
    }
    if some:  # so that calls for other pictures of the set keep their parts apart
        document["chosen"] = sha256("\n".join(ids).encode()).hexdigest()[:12]
    return Making(out / f"{row.id}.safetensors", document, sizes(encoder, layers, sigmas))


def choose_pictures(images: Path, only: Sequence[str] | None) -> list[str]:
    """The ids of the pictures of a set, or of those that are asked for, in the order of the set.

    Raises:
        AlignvisError: when there are none, or one that is asked for is not there.
    """
    ids = brick_pictures(images) if images.is_file() else pictures(images)
    if only is None:
        return ids
    wanted = set(only)
    missing = sorted(wanted.difference(ids))
    if missing:
        raise AlignvisError(
            f"{len(missing)} of the {len(wanted)} pictures asked for are not in {images} (the first is {missing[0]!r}, "
            f"and it has, for example, {ids[0]!r}); give the image set that was shown"
        )
    if not wanted:
        raise AlignvisError(f"no picture of {images} was asked for; name some, or none at all to embed every one")
    return [image for image in ids if image in wanted]


def choose_layers(encoder: ImageEncoder, layers: Collection[int] | Literal["all"]) -> list[int]:
    """The numbers of the layers to keep, in order.

    Raises:
        AlignvisError: when the encoder does not have one of them.
    """
    depth = encoder.row.depth
    if layers == "all":
        return list(range(1, depth + 1))
    missing = [layer for layer in layers if not 1 <= layer <= depth]
    if missing:
        has = f"layers 1 to {depth}" if depth else "no layers"
        raise AlignvisError(f"{encoder.row.id} has {has}, and layer {missing[0]} was asked for")
    return sorted(set(layers))


def is_there(making: Making, skip_bad: bool) -> bool:
    """Whether the table to be made is there already.

    Raises:
        AlignvisError: when another one is.
    """
    if not making.path.exists():
        return False
    table = load_features(making.path)
    found, skipped = table.document, table.document.get("skipped")
    if skip_bad and isinstance(skipped, list) and all(isinstance(image, str) for image in skipped):
        found = {**found, "images": sorted(table.images + skipped, key=str.encode), "skipped": []}
    differ = [key for key, value in making.document.items() if not _as_asked(key, found.get(key), value)]
    if differ:
        raise AlignvisError(
            f"{making.path} is a table of another making (it differs in: {', '.join(differ)}); move it away, or "
            "replace it with --overwrite"
        )
    return True


def _as_asked(key: str, found: Any, asked: Any) -> bool:
    if key in EXTRA:
        return isinstance(found, list | None) and all(value in (found or ()) for value in asked)
    return key in HOW or found == asked


def _is_simulated(images: Path) -> bool:
    if images.is_file():
        with open_brick(images) as brick:
            return brick.simulated
    mark = images / "simulated.json"
    if not mark.exists():
        return False
    says = read_json(mark)
    return isinstance(says, dict) and says.get("simulated") is True
