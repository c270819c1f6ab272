"""Features that other projects wrote: recognised by what they hold, and imported into features tables."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange import feature_layouts, trees
from alignvis.exchange.archives import is_tar
from alignvis.exchange.feature_layouts import NEUROBRIDGE, NICE, UBP, Rows
from alignvis.exchange.galleries import CENTRES, Placed, place
from alignvis.exchange.joined import Block, Joined, describe, header, is_there, write
from alignvis.exchange.shown import TOPS, Shown, check_known, find_images, left_over, look
from alignvis.exchange.small_arrays import refuse_stand_in
from alignvis.exchange.trees import ENCODER, SHARDS, TREE
from alignvis.images.catalogue import CATALOGUE
from alignvis.progress import Progress, silent

LAYOUTS = "AlignVis (.npy trees and .tar shards), ATM and UBP (.pt), NICE and NeuroBridge (.npy), ZEISS (.safetensors)"


def recognise(path: Path) -> str | None:
    """Name the layout of features that another project wrote, by what the file or folder holds.

    Returns:
        "alignvis-tree": a folder of one .npy file for each picture and encoder; "alignvis-shards": the same in tar
        archives, one or a folder of them; "atm": .pt with img_features; "nice": .npy of shape (N, 1, dim) or (N, dim);
        "neurobridge": .npy of shape (concepts, pictures, dim); "ubp": .pt of vectors by path, or of such by level of
        blur; "zeiss": safetensors with img_features. None: nothing of these.

    Raises:
        AlignvisError: when it cannot be read, or begins like one of these and is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if trees.is_tree(path):
            return TREE
        return SHARDS if trees.shards(path) else None
    head = refuse_stand_in(path)
    if is_tar(path):
        return SHARDS if trees.shards(path) else None
    return feature_layouts.recognise_file(path, head)


def import_features(
    paths: Sequence[Path],
    *,
    root: Path,
    images: Path | None = None,
    encoder: str | None = None,
    image_set: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Write features of another project to ``root/features/<image set>/<encoder>.safetensors``.

    Values stay as they are, in float32. Files that name their images (AlignVis, UBP) are joined by these names; rows of
    the others are matched with the order of the image set, by their numbers. Class centres of NICE go to a table of
    their own, ``<encoder>-centres``, whose rows are named by the concepts' folders: no image has such an id, so that no
    training or score can take them for embeddings of images.

    Args:
        paths: of one layout; several files of one encoder (training and test) become one table.
        images: the image set; without it, ``root/images/things-eeg2`` (of MEG things-meg) if it is there.
        encoder: of a tree, the only one to take; of other layouts, which do not say it, the name to import under.
        image_set: folder in ``root/features``; without it the name of ``images``, or things-eeg2 (things-meg).
        overwrite: replace tables that are there.
        progress: counts files or rows.

    Returns:
        For every table: "encoder", "table" (path), "images" and "dim" (its size), "layout", "kept" (it was there
        already), "claims" (sentences on what could not be checked).

    Raises:
        AlignvisError: when the paths are in no known layout or in several, when a file is damaged, when rows cannot be
            matched with images, when values are not finite, or when another table is in the way.
    """
    paths, root = [Path(path) for path in paths], Path(root)
    layout = _layout(paths)
    top = trees.first_top(paths[0], layout) if layout in (TREE, SHARDS) else "training_images"
    folder = find_images(root, images, TOPS[top])
    shown = look(Path(folder)) if folder else None
    image_set = (
        image_set if image_set is not None else (Path(os.path.abspath(shown.folder)).name if shown else TOPS[top])
    )
    if encoder is not None and not ENCODER.fullmatch(encoder):
        raise AlignvisError(f"--encoder {encoder!r} cannot name a file; use letters, digits, '.', '_' and '-'")
    if Path(image_set).name != image_set or image_set in ("", ".."):
        raise AlignvisError(f"--image-set {image_set!r} cannot name a folder; name one without a path")
    out = root / "features" / image_set
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlignvisError(f"{out} cannot hold tables ({error.strerror}); choose another --root") from error

    if layout in (TREE, SHARDS):
        found = trees.gather(paths, layout, shown=shown, encoder=encoder, scratch=out, progress=progress)
    else:
        found = _gather(paths, layout, shown, encoder, out)
    documents = [header(joined, image_set, shown.simulated if shown else None) for joined in found]
    tables = [out / f"{joined.encoder}.safetensors" for joined in found]
    # All are looked at before the first is written: a table in the way should not leave half of the others behind.
    kept = [is_there(*one, overwrite) for one in zip(tables, found, documents, strict=True)]
    made = []
    for table, joined, document, there in zip(tables, found, documents, kept, strict=True):
        if not there:
            write(table, joined, document, progress)
        made.append(
            {
                "encoder": joined.encoder,
                "table": str(table),
                "images": len(document["images"]),
                "dim": joined.dim,
                "layout": layout,
                "kept": there,
                "claims": document["claims"],
            }
        )
    return made


def _layout(paths: Sequence[Path]) -> str:
    if not paths:
        raise AlignvisError("no files were named; name those that belong together")
    named = {path: recognise(path) for path in paths}
    for path, layout in named.items():
        if layout is None:
            raise AlignvisError(f"{path} is in none of the layouts of features that are read: {LAYOUTS}")
    layouts = set(named.values())
    if layouts == {NICE, NEUROBRIDGE}:  # the test images of NeuroBridge, one a concept, have the shape of NICE's
        return NEUROBRIDGE
    if len(layouts) > 1:
        each = ", ".join(f"{path.name} is {layout}" for path, layout in named.items())
        raise AlignvisError(f"the files are in several layouts ({each}); import those of one encoder in one call")
    return layouts.pop()


def _gather(paths: Sequence[Path], layout: str, shown: Shown | None, encoder: str | None, out: Path) -> list[Joined]:
    """Read the files of one encoder, and match their rows with images."""
    if encoder is None:
        raise AlignvisError(f"{paths[0]} does not say which encoder made it; name the encoder with --encoder")
    rows = [item for path in paths for item in feature_layouts.read_file(path, layout, out)]
    row = CATALOGUE.get(encoder)
    wrong = next((item for item in rows if row and item.values.shape[1] != row.dim), None)
    if wrong:
        raise AlignvisError(
            f"{wrong.path} has embeddings of {wrong.values.shape[1]} numbers, and those of {encoder} have {row.dim}; "
            "name the encoder that made them with --encoder"
        )
    if layout == UBP:
        return _by_name(rows, shown, encoder)
    if shown is None or not shown.ordered:
        found = f"{shown.folder} has neither" if shown else "no folder of images is there"
        raise AlignvisError(
            f"{paths[0]} does not name its images; name with --images the folder that holds image_metadata.npy or "
            f"training_images/ and test_images/, whose order the rows are in ({found})"
        )
    table = out / f"{encoder}.safetensors"
    placed, notes = place(rows, layout, shown, _reference(table, shown))
    single = [item for item in placed if not item.centres]
    centres = [item for item in placed if item.centres]
    claims = [*shown.claims, *notes, "the rows are taken to be in the order of the image set, which is not in the file"]
    joined = []
    if single:
        joined.append(_join(single, layout, encoder, {}, [*claims, *_missing(single, shown)]))
    if centres:
        said = (
            "the rows are class centres, each a mean over pictures of a concept: they are named by the concepts' "
            "folders, so that nothing takes them for embeddings of images"
        )
        table = _join(centres, layout, f"{encoder}-centres", {"gallery": CENTRES}, [*claims, said])
        joined.append(replace(table, derived_from=encoder))
    if not joined:
        raise AlignvisError(f"nothing is left to import: {'; '.join(notes)}")
    return joined


def _join(placed: Sequence[Placed], layout: str, encoder: str, about: dict[str, Any], claims: Sequence[str]) -> Joined:
    sizes = {item.rows.values.shape[1]: item.rows.path for item in placed}
    if len(sizes) > 1:
        each = " and ".join(f"{path} {size}" for size, path in sizes.items())
        raise AlignvisError(f"the embeddings have different sizes ({each}); these are not of one encoder")
    said = [claim for item in placed for claim in (*item.rows.claims, *item.claims)]
    blocks = [Block(item.names, item.rows.values) for item in placed]
    files = [describe(item.rows.path) for item in placed]
    return Joined(encoder, layout, blocks, files, None, about, list(dict.fromkeys([*claims, *said])))


def _missing(placed: Sequence[Placed], shown: Shown) -> list[str]:
    there = {image for item in placed for image in item.names}
    return left_over(list(there), shown)


def _by_name(rows: Sequence[Rows], shown: Shown | None, encoder: str) -> list[Joined]:
    """Join the files of UBP by the image ids in them; every level of blur is a table of its own."""
    joined = []
    for level in dict.fromkeys(item.level for item in rows):
        name = encoder if level is None else f"{encoder}-{level}"
        if not ENCODER.fullmatch(name):
            raise AlignvisError(f"{rows[0].path} has a level {level[:80]!r}, which cannot be part of a file's name")
        mine = [item for item in rows if item.level == level]
        claims = ["no pictures were there to hold the image ids against"]
        if shown:
            mine = [replace(item, images=[shown.find(_stem(image)) or image for image in item.images]) for item in mine]
            for item in mine:
                check_known(item.path, item.images, shown)
            there = [image for item in mine for image in item.images]
            claims = [*shown.claims, *left_over(there, shown)]
        about = {} if level is None else {"level": level}
        table = _join([Placed(item, item.images, False) for item in mine], UBP, name, about, claims)
        joined.append(replace(table, derived_from=None if level is None else encoder))
    return joined


def _stem(image: str) -> str:
    return image.removesuffix(PurePosixPath(image).suffix)


def _reference(table: Path, shown: Shown) -> np.ndarray | None:
    """Embeddings of the test images that a table has already, in their order."""
    if not table.is_file():
        return None
    features = store.load_features(table)
    place = {image: row for row, image in enumerate(features.images)}
    if not all(image in place for image in shown.ordered["test"]):
        return None
    return features.embeddings[[place[image] for image in shown.ordered["test"]]]
