"""The images that were shown, as far as this machine knows them: what rows without names are matched with."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alignvis.errors import AlignvisError
from alignvis.exchange.order import MEG_TEST, meg_image
from alignvis.images.pixels import pictures
from alignvis.recordings.eeg2_files import IMAGE_FOLDERS, IMAGES, image_ids

MEG_TRAINING = 1654 * 12  # training images of THINGS-MEG, where they lie in folders named as those of THINGS-EEG2
EEG2, MEG = "things-eeg2", "things-meg"
TOPS = {  # the folders that image ids begin with, and whose they are
    "training_images": EEG2,
    "test_images": EEG2,
    "images_meg": MEG,
    "images_test_meg": MEG,
}


@dataclass(frozen=True)
class Shown:
    """An image set.

    Attributes:
        ordered: image ids by part ("train", "test") in the order of the event codes; empty for a set without one.
        ids: every image id by its path without the picture's suffix.
        claims: what of this could not be checked.
    """

    folder: Path
    ordered: dict[str, list[str]]
    ids: dict[str, str]
    simulated: bool
    claims: list[str]

    def concepts(self, part: str) -> list[str]:
        """The folders of a part's images, each once, in order."""
        return list(dict.fromkeys(image.rpartition("/")[0] for image in self.ordered[part]))

    def find(self, stem: str) -> str | None:
        """The id of an image by the path, without suffix, that others have for it; None if it is not of this set."""
        if stem in self.ids or next(iter(self.ids)).split("/")[0] in TOPS:
            return self.ids.get(stem)
        with suppress(AlignvisError):  # no path of a picture
            return self.ids.get(_meg_stem(stem))
        return None


def unseen(stem: str, suffix: str) -> str:
    """The id that an image has where no image set is there to ask: THINGS-MEG has ids of its own."""
    return f"{_meg_stem(stem) if TOPS[stem.split('/')[0]] == MEG else stem}{suffix}"


def _meg_stem(stem: str) -> str:
    part = "test" if stem.split("/")[0] in (IMAGE_FOLDERS["test"], MEG_TEST) else "train"
    return meg_image(Path(stem), part, f"{stem}.").removesuffix(".")


def find_images(root: Path, images: Path | None, name: str) -> Path | None:
    """The folder of the image set: the one given, or the one of this name in ``root/images`` if it is there."""
    return images or next((folder for folder in [root / "images" / name] if folder.is_dir()), None)


def look(folder: Path) -> Shown:
    """List the images of a folder, by its image_metadata.npy or by its pictures, and check that they are there.

    Raises:
        AlignvisError: when the folder holds neither, or lacks a picture of the list.
    """
    listed = (folder / "image_metadata.npy").is_file()
    ordered = {}
    if listed or all((folder / top).is_dir() for top in IMAGE_FOLDERS.values()):
        ordered = image_ids(folder, published=False)
    ids = [image for part in ordered.values() for image in part] or pictures(folder)
    claims = []
    if listed:
        present = [top for top in IMAGE_FOLDERS.values() if (folder / top).is_dir()]
        missing = [image for image in ids if image.split("/")[0] in present and not (folder / image).is_file()]
        if missing:
            raise AlignvisError(
                f"{folder} lacks {len(missing)} of the {len(ids)} pictures that its image_metadata.npy names (the "
                f"first is {missing[0]}); unpack the pictures again"
            )
        claims += [
            f"there are no pictures in {folder / top}, so the names in image_metadata.npy are taken as they are"
            for top in IMAGE_FOLDERS.values()
            if top not in present
        ]
    counts = {part: len(images) for part, images in ordered.items()}
    if counts.get("train") == MEG_TRAINING:
        ordered = {part: [meg_image(folder, part, image) for image in images] for part, images in ordered.items()}
        ids = [image for part in ordered.values() for image in part]
    elif ordered and counts != IMAGES:
        claims.append(f"{folder} {of_published(counts)}")
    by_stem: dict[str, str] = {}
    for image in ids:
        stem = image.removesuffix(PurePosixPath(image).suffix)
        if by_stem.setdefault(stem, image) != image:
            raise AlignvisError(
                f"{folder} has both {by_stem[stem]} and {image}, which differ in the suffix alone; remove one of them"
            )
    return Shown(folder, ordered, by_stem, (folder / "simulated.json").is_file(), claims)


def of_published(counts: dict[str, int]) -> str:
    """Say that a set is not the published one."""
    return (
        f"has {counts.get('train', 0):,} training and {counts.get('test', 0):,} test images, and the published set "
        f"{IMAGES['train']:,} and {IMAGES['test']:,}"
    )


def check_known(source: Path, images: Collection[str], shown: Shown) -> None:
    """Raise an AlignvisError when a file names images that the image set does not have."""
    foreign = sorted(set(images) - set(shown.ids.values()))
    if foreign:
        raise AlignvisError(
            f"{source} has embeddings of {len(foreign)} images that are not in {shown.folder} (the first is "
            f"{foreign[0]}); these are of different image sets: name the right one with --images"
        )


def left_over(images: Sequence[str], shown: Shown) -> list[str]:
    """Say how many images of the set have no embedding."""
    missing = sorted(set(shown.ids.values()) - set(images))
    if not missing:
        return []
    return [f"{len(missing)} of the {len(shown.ids)} images in {shown.folder} are not among them ({missing[0]} is one)"]
