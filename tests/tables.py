"""Small tables that tests of several modules start from."""

from pathlib import Path

import numpy as np

from alignvis import store

CHANNELS = ["O1", "Oz", "O2"]


def image_ids(concepts: int, each: int, folder: str = "training_images") -> list[str]:
    return [
        f"{folder}/{c:05d}_thing{c}/thing{c}_{i:02d}.jpg" for c in range(1, concepts + 1) for i in range(1, each + 1)
    ]


def features_document(images: list[str], **changes) -> dict:
    return {
        "version": 1,
        "table": "features",
        "image_set": "tiny",
        "encoder": "lowlevel",
        "aligned": False,
        "twin": None,
        "images": images,
        **changes,
    }


def responses_document(train: list[str], test: list[str], **changes) -> dict:
    return {
        "version": 1,
        "table": "responses",
        "dataset": "tiny",
        "subject": 1,
        "simulated": True,
        "channels": CHANNELS,
        "sfreq": 100.0,
        "tmin": 0.0,
        "unit": "noise SD",
        "train_images": train,
        "test_images": test,
        **changes,
    }


def write_features(path: Path, embeddings: np.ndarray, images: list[str], **changes) -> Path:
    arrays = {"embeddings": embeddings.astype("f4"), "images.sha256": np.ones((len(images), 32), "u1")}
    store.write_table(path, arrays, features_document(images, **changes))
    return path


def write_responses(
    path: Path, train: np.ndarray, test: np.ndarray, ids: tuple[list[str], list[str]], **changes
) -> Path:
    arrays = {"train": train.astype("f4"), "test": test.astype("f4")}
    arrays |= {f"{part}.session": np.ones(array.shape[:2], "u1") for part, array in arrays.items()}
    store.write_table(path, arrays, responses_document(*ids, **changes))
    return path


def planted(
    root: Path, *, subject: int = 1, concepts: int = 30, tests: int = 40, times: int = 120, noise: float = 0.5
) -> Path:
    """A root in which every response is a fixed linear map of its image's embedding, plus noise."""
    rng = np.random.default_rng(subject)
    ids = image_ids(concepts, 10), image_ids(tests, 1, "test_images")
    embeddings = np.random.default_rng(0).standard_normal((len(ids[0]) + len(ids[1]), 8))
    slow = np.sin(np.pi * np.outer(np.arange(1, 5), np.linspace(0, 1, times)))  # what an average over 51 samples leaves
    mixing = rng.standard_normal((8, len(CHANNELS), 4)) @ slow / 8**0.5
    signal = np.einsum("id,dct->ict", embeddings, mixing)[:, None]
    train = signal[: len(ids[0])] + noise * rng.standard_normal((len(ids[0]), 2, len(CHANNELS), times))
    test = signal[len(ids[0]) :] + noise * rng.standard_normal((tests, 4, len(CHANNELS), times))
    write_responses(root / "responses" / "tiny" / f"sub-{subject:02d}.safetensors", train, test, ids, subject=subject)
    features = root / "features" / "tiny" / "lowlevel.safetensors"
    if not features.exists():
        order = np.random.default_rng(1).permutation(len(embeddings))  # rows are joined by id, never by position
        write_features(features, embeddings[order], [(ids[0] + ids[1])[i] for i in order])
    return root
