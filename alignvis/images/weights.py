"""Find a checkpoint on this machine or fetch the official one; `read_tensors` and `read_arrays` then read it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from alignvis.errors import AlignvisError
from alignvis.images.containers import read_arrays, read_tensors
from alignvis.images.download import fetch, sha256
from alignvis.images.unpack import has_member, unpack
from alignvis.progress import Progress, silent

__all__ = ["Source", "found", "locate", "read_arrays", "read_tensors", "sha256"]


@dataclass(frozen=True)
class Source:
    """One official file of weights.

    Attributes:
        file: path below ``weights/``, and the name the user sees: "clip/ViT-B-32.pt".
        url: official address; None when it is not hosted and must be given.
        sha256: hex digest of what lies at ``url``, or the beginning of it that was published.
        member: for a zip archive at ``url``, what to take out: a file, or a folder ending in "/".
        megabytes: what is downloaded from ``url``, about, as its tensors add up; None where that is not known.
        cached: places where other programs keep it: "torch:checkpoints/x.pth" (torch hub), "hf:org/repo/x.safetensors"
            (Hugging Face hub), "clip:ViT-B-32.pt" (OpenAI CLIP), "dreamsim:x.pth" (DreamSim).
    """

    file: str
    url: str | None
    sha256: str | None = None
    member: str | None = None
    megabytes: int | None = None
    cached: tuple[str, ...] = ()


def locate(
    source: Source, folder: Path, given: Path | None = None, *, download: bool = True, progress: Progress = silent
) -> Path:
    """Find a file (or, for a folder member, a folder) of weights, or fetch it.

    Looked at in this order: what the user gave, ``folder/source.file``, the caches of other programs, the official
    archive if it lies where it would be put, the official address. What is found is taken as it is; only what is
    fetched is held against the published digest, as users hold the same weights in other containers. An archive stays
    beside what was taken out of it, for its other members.

    Args:
        folder: the ``weights/`` folder; downloads go there.
        given: a file, a folder that holds it, or the official archive. Nothing else is looked at then.
        download: whether the network may be used.

    Raises:
        AlignvisError: when it is nowhere and cannot be fetched, or when an archive is broken or unsafe.
    """
    target = folder / source.file
    if given is not None:
        return _among_given(source, target, given, progress)
    place, arrives = found(source, folder), arrival(source, folder)
    if place not in (None, arrives) or place == target:
        return place
    if place is None:
        what = source.file if source.member is None else f"{source.file} ({source.member} in {arrives.name})"
        if source.url is None:
            raise AlignvisError(f"{what} is not offered for download; ask its authors and put it in {target.parent}")
        if not download:
            raise AlignvisError(
                f"{what} is neither in {target.parent} nor in the cache of another program, and downloading is "
                f"switched off; fetch {source.url} and put it in {target.parent}"
            )
        fetch(source.url, arrives, source.sha256, progress)
    return target if source.member is None else unpack(arrives, source.member, target, progress)


def found(source: Source, folder: Path) -> Path | None:
    """Where a file of weights, or the archive that holds it, lies on this machine; None where it would be fetched.

    Args:
        folder: the ``weights/`` folder.
    """
    target = folder / source.file
    for place in (target, *_cached(source)):
        if _fits(source, place):
            return place
    arrives = arrival(source, folder)
    return arrives if arrives.is_file() else None


def arrival(source: Source, folder: Path) -> Path:
    """Where what lies at the address belongs below ``weights/``: an archive goes beside what is taken out of it."""
    target = folder / source.file
    return target if source.member is None else target.parent / _archive_name(source)


# --- places ----------------------------------------------------------------------------------------------------------


def _fits(source: Source, place: Path) -> bool:
    return place.is_dir() if _is_folder(source) else place.is_file()


def _is_folder(source: Source) -> bool:
    return source.member is not None and source.member.endswith("/")


def _archive_name(source: Source) -> str:
    return PurePosixPath(urlsplit(source.url or "").path).name


def _among_given(source: Source, target: Path, given: Path, progress: Progress) -> Path:
    if given.is_file():
        if source.member is not None and has_member(given, source.member):
            return unpack(given, source.member, target, progress)
        if _is_folder(source):
            raise AlignvisError(
                f"{given} is a file without {source.member} in it; give the folder, or the archive that holds it"
            )
        return given
    if not given.is_dir():
        raise AlignvisError(f"there is no file or folder {given}, where {source.file} was said to be")
    if _is_folder(source) and given.name == target.name:
        return given
    tails = [place.partition(":")[2] for place in source.cached]
    names = dict.fromkeys(name for tail in (source.file, *tails) for name in (tail, PurePosixPath(tail).name))
    for name in names:
        if _fits(source, given / name):
            return given / name
    if source.member is not None and (given / _archive_name(source)).is_file():
        return unpack(given / _archive_name(source), source.member, target, progress)
    raise AlignvisError(f"{given} does not hold {source.file}; looked for {', '.join(names)} in it")


def _cached(source: Source) -> Iterator[Path]:
    for place in source.cached:
        program, _, tail = place.partition(":")
        yield from CACHES[program](tail)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _torch(tail: str) -> list[Path]:
    return [Path(os.environ.get("TORCH_HOME") or _user_cache() / "torch") / "hub" / tail]


def _clip(tail: str) -> list[Path]:
    return [Path.home() / ".cache" / "clip" / tail]


def _dreamsim(tail: str) -> list[Path]:
    return [Path("models") / tail, _user_cache() / "dreamsim" / tail]


def _hugging_face(tail: str) -> list[Path]:
    """List the file in every revision kept, the one called main first."""
    organisation, repository, file = tail.split("/", 2)
    home = Path(os.environ.get("HF_HOME") or _user_cache() / "huggingface")
    kept = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{organisation}--{repository}"
    main = kept / "refs" / "main"
    first = main.read_text().strip() if main.is_file() else ""
    revisions = sorted(kept.glob("snapshots/*"), key=lambda revision: (revision.name != first, revision.name))
    return [revision / file for revision in revisions]


CACHES: dict[str, Callable[[str], list[Path]]] = {
    "torch": _torch,
    "hf": _hugging_face,
    "clip": _clip,
    "dreamsim": _dreamsim,
}
