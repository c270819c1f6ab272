"""Features in the layouts of other projects, written by numpy, tarfile, torch and safetensors themselves."""

import io
import tarfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

STEMS = {"training_images": "thing{concept}_{number:02d}b", "test_images": "other{concept}_{number:02d}s"}


def ids(training: int = 4, each: int = 3, test: int = 5, suffix: str = ".jpg") -> dict[str, list[str]]:
    """Image ids as THINGS-EEG2 has them, by part."""
    sizes = {"train": ("training_images", training, each), "test": ("test_images", test, 1)}
    return {
        part: [
            f"{top}/{concept:05d}_thing{concept}/{STEMS[top].format(concept=concept, number=number)}{suffix}"
            for concept in range(1, concepts + 1)
            for number in range(1, pictures + 1)
        ]
        for part, (top, concepts, pictures) in sizes.items()
    }


def write_images(folder: Path, images: dict[str, list[str]], pictures: bool = True, metadata: bool = False) -> Path:
    """An image set; the pictures are no pictures, as nobody looks into them."""
    folder.mkdir(parents=True)
    for image in [image for part in images.values() for image in part] if pictures else []:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(b"a picture")
    if metadata:
        lists = {}
        for part, mine in images.items():
            lists[f"{part}_img_concepts"] = [image.split("/")[1] for image in mine]
            lists[f"{part}_img_files"] = [image.split("/")[2] for image in mine]
        np.save(folder / "image_metadata.npy", lists)
    return folder


def vectors(rows: int, dim: int, seed: int = 0, unit: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype("f4")
    return values / np.linalg.norm(values, axis=1, keepdims=True) if unit else values


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tree_files(images: list[str], encoders: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a tree of AlignVis, by path below image_embeddings/."""
    return {
        f"{image.rsplit('.', 1)[0]}_{encoder}.npy": npy(values[row])
        for row, image in enumerate(images)
        for encoder, values in encoders.items()
    }


def write_tree(folder: Path, images: list[str], encoders: dict[str, np.ndarray]) -> Path:
    for name, data in tree_files(images, encoders).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_shards(
    folder: Path, images: list[str], encoders: dict[str, np.ndarray], each: int = 7, style: int = tarfile.PAX_FORMAT
) -> list[Path]:
    """The same as WebDataset tars of so many files each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = list(tree_files(images, encoders).items())
    paths = []
    for number, start in enumerate(range(0, len(files), each)):
        paths.append(folder / f"things_eeg_2-image_embeddings-{number:06d}.tar")
        with tarfile.open(paths[-1], "w", format=style) as tar:
            for name, data in files[start : start + each]:
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(data), 1700000000.25  # which pax spells out before every file
                tar.addfile(member, io.BytesIO(data))
    return paths


def write_atm(path: Path, values: np.ndarray, texts: int) -> Path:
    content = {"text_features": torch.zeros(texts, values.shape[-1]), "img_features": torch.from_numpy(values)}
    torch.save(content, path)
    return path


def write_ubp(path: Path, levels: dict[str | None, np.ndarray], images: list[str]) -> Path:
    keys = [image.replace("training_images", "train_images") for image in images]
    content = {
        level: {key: torch.from_numpy(row.copy()) for key, row in zip(keys, values, strict=True)}
        for level, values in levels.items()
    }
    torch.save(content[None] if None in content else content, path)
    return path


def write_zeiss(path: Path, values: np.ndarray, texts: int) -> Path:
    content = {"img_features": values.astype("f2"), "text_features": np.zeros((texts, values.shape[-1]), "f2")}
    safetensors.numpy.save_file(content, path)
    return path
