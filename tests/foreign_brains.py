"""Writes small recordings as other projects write them, with torch.save, numpy.save and pickle as they call these."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

NOUNS = "aardvark bat1 coat_rack dragonfly egg_tart fan gorilla".split()
TESTED = "hammer ice jeep kite_string lamp".split()


@dataclass(frozen=True)
class Experiment:
    """What was planted: image ids in the documented order, and (images, repetitions, channels, times) of both parts."""

    ids: dict[str, list[str]]
    data: dict[str, np.ndarray]
    sessions: dict[str, np.ndarray]  # (images, repetitions), 1 to 4
    channels: list[str]
    times: np.ndarray  # of the trimmed responses


def _responses(dice, *shape):
    return dice.normal(size=shape).astype(np.float16).astype(np.float64)  # exact in every type that is written


def eeg(concepts=6, tests=5, channels=("Fp1", "P7", "O1", "Oz"), samples=12, seed=0) -> Experiment:
    dice = np.random.default_rng(seed)
    ids = {
        "train": [
            f"training_images/{number:05d}_{noun}/{noun}_{file:02d}{'bs'[file % 2]}.jpg"
            for number, noun in enumerate(NOUNS[:concepts], 1)
            for file in range(1, 11)
        ],
        "test": [f"test_images/{number:05d}_{noun}/{noun}_06s.jpg" for number, noun in enumerate(TESTED[:tests], 1)],
    }
    count = len(ids["train"])
    sessions = np.empty((count, 4), int)
    for pair in (0, 1):  # each pair of sessions shares the images between its two
        first = dice.permutation(count) < count // 2
        sessions[:, 2 * pair : 2 * pair + 2] = (2 * pair + np.where(first, 1, 2))[:, None]
    return Experiment(
        ids,
        {
            "train": _responses(dice, count, 4, len(channels), samples),
            "test": _responses(dice, tests, 8, len(channels), samples),
        },
        {"train": sessions, "test": np.tile(np.repeat([1, 2, 3, 4], 2), (tests, 1))},
        list(channels),
        np.arange(samples) / 250,
    )


def meg(concepts=6, tests=5, channels=("MLC11-1609", "MLO11-1609", "MRO12-1609"), samples=7, seed=0) -> Experiment:
    dice = np.random.default_rng(seed)
    ids = {
        "train": [f"{noun}/{noun}_{file:02d}s.jpg" for noun in NOUNS[:concepts] for file in range(1, 13)],
        "test": [f"{noun}/{noun}_14n.jpg" for noun in TESTED[:tests]],
    }
    shapes = {"train": (len(ids["train"]), 1), "test": (tests, 12)}
    return Experiment(
        ids,
        {part: _responses(dice, *shapes[part], len(channels), samples) for part in shapes},
        {part: np.zeros(shapes[part], int) for part in shapes},
        list(channels),
        np.arange(samples) / 200,
    )


def images(folder: Path, planted: Experiment, metadata=True, pictures=True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if metadata:
        document = {}
        for part in ("train", "test"):
            split = [image.split("/") for image in planted.ids[part]]
            document[f"{part}_img_concepts"] = [concept for _, concept, _ in split]
            document[f"{part}_img_files"] = [file for _, _, file in split]
        np.save(folder / "image_metadata.npy", document)
    if pictures:
        for image in planted.ids["train"] + planted.ids["test"]:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(b"picture")
    return folder


def meg_tree(folder: Path, planted: Experiment) -> Path:
    """The pictures as ATM and UBP copy them: numbered folders below training_images/ and test_images/."""
    for part, name in (("train", "training_images"), ("test", "test_images")):
        for image in planted.ids[part]:
            concept, file = image.split("/")
            place = folder / name / f"{ord(concept[0]):05d}_{concept}"
            place.mkdir(parents=True, exist_ok=True)
            (place / file).write_bytes(b"picture")
    return folder


def before(times: np.ndarray, rate: float, seconds: float) -> np.ndarray:
    """The time axis from before responses were trimmed."""
    early = round(seconds * rate)
    return (np.arange(len(times) + early) - early) / rate


def nice(folder: Path, planted: Experiment, protocol=4, wrapped=False, early=0.2, rate=250) -> Path:
    """NICE: a bare pickle in a .npy; the dataset's authors: numpy.save of a dict (``wrapped``)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("train", "training"), ("test", "test")):
        document = {
            "preprocessed_eeg_data": planted.data[part],
            "ch_names": planted.channels,
            "times": before(planted.times, rate, early),
        }
        path = folder / f"preprocessed_eeg_{name}.npy"
        if wrapped:
            np.save(path, document)
        else:
            with open(path, "wb") as file:
                pickle.dump(document, file, protocol=protocol)
    return folder


def ubp_documents(planted: Experiment) -> dict[str, dict]:
    documents = {}
    for part in ("train", "test"):
        names = [image.replace("training_images", "train_images") for image in planted.ids[part]]
        repetitions = planted.data[part].shape[1]
        concepts = [name.split("/")[1] for name in names]
        labels = [sorted(set(concepts)).index(concept) for concept in concepts]
        texts = [name.split("/")[-1].rsplit("_", 1)[0] for name in names]
        documents[part] = {
            "eeg": planted.data[part].astype(np.float16),
            "label": np.tile(np.array(labels)[:, None], (1, repetitions)),
            "img": np.tile(np.array(names)[:, None], (1, repetitions)),
            "text": np.tile(np.array(texts)[:, None], (1, repetitions)),
            "session": planted.sessions[part].astype(np.float64) - 1,
            "ch_names": planted.channels,
            "times": before(planted.times, 250, 0.2),
        }
    return documents


def ubp(folder: Path, documents: dict[str, dict], protocol=5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, document in documents.items():
        torch.save(document, folder / f"{part}.pt", pickle_protocol=protocol)
    return folder


def ubp_meg_documents(planted: Experiment) -> dict[str, dict]:
    numbered = {}
    for part, folder in (("train", "training_images"), ("test", "test_images")):
        numbered[part] = [f"{folder}/{ord(image[0]):05d}_{image}" for image in planted.ids[part]]
    return {part: {"eeg": planted.data[part].astype(np.float16), "img": numbered[part]} for part in numbered}


def neurobridge(folder: Path, planted: Experiment, each: int, info: dict | None = None, beside=False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", each), ("test", 1)):
        data = planted.data[part].astype(np.float32)
        np.save(folder / f"{part}.npy", data.reshape(-1, count, *data.shape[1:]))
    if info is None:
        info = {
            "ch_names": planted.channels,
            "times": before(planted.times, 250, 0.2).tolist(),
            "sfreq": 250,
            "normalization": "mvnn",
        }
    ((folder if beside else folder.parent) / "info.json").write_text(json.dumps(info))
    return folder


def zeiss(folder: Path, planted: Experiment, subject=1, seed=5, early=0.2) -> Path:
    """Sessions one after the other, each with its own images in an order of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    for part, name in (("train", "training"), ("test", "test")):
        data, codes = [], []
        for session in range(1, 5):
            mine = dice.permutation(np.flatnonzero((planted.sessions[part] == session).any(axis=1)))
            data.append([planted.data[part][image][planted.sessions[part][image] == session] for image in mine])
            codes.append(mine + 1)
        np.save(folder / f"preprocessed_eeg_{name}_sub-{subject:02d}.npy", np.array(data).astype(np.float32))
        np.save(folder / f"img_conditions_{name}_sub-{subject:02d}.npy", np.array(codes))
    meta = {"ch_names": planted.channels, "times": before(planted.times, 250, early).tolist()}
    (folder / f"meta_sub-{subject:02d}.json").write_text(json.dumps(meta))
    return folder


def alignvis_meg_documents(planted: Experiment) -> dict[str, dict]:
    """Single trials sorted by image; those of the test have no folder of their concept."""
    documents = {}
    concepts = sorted({image.split("/")[0] for image in planted.ids["train"] + planted.ids["test"]})
    for part in ("train", "test"):
        repetitions = planted.data[part].shape[1]
        shown = [image for image in planted.ids[part] for _ in range(repetitions)]
        paths = [
            f"images_meg/{image}" if part == "train" else f"images_test_meg/{image.split('/')[1]}" for image in shown
        ]
        documents[part] = {
            "meg_data": planted.data[part].reshape(-1, *planted.data[part].shape[2:]),
            "meg_labels": np.array([concepts.index(image.split("/")[0]) + 1 for image in shown]),
            "meg_images": np.array(paths, dtype=object),
        }
    return documents


def alignvis_meg(folder: Path, documents: dict[str, dict], subject=1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, document in documents.items():
        with open(folder / f"{part}_sub{subject}.pkl", "wb") as file:
            pickle.dump(document, file, protocol=4)
    return folder


def atm_meg(folder: Path, planted: Experiment, each=12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name, count in (("train", "training", each), ("test", "zs_test", 1)):
        data = planted.data[part]
        document = {
            "meg_data": data.reshape(-1, count, *data.shape[1:]),
            "ch_names": planted.channels,
            "times": planted.times,
        }
        with open(folder / f"preprocessed_meg_{name}.pkl", "wb") as file:
            pickle.dump(document, file, protocol=4)
    return folder
