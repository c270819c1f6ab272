"""Every reader of files from outside, with small whole files of its kind: what `hostile.py` damages."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from alignvis import store
from alignvis.exchange.brains import import_responses
from alignvis.exchange.features import import_features
from alignvis.images.brick import Reader as BrickReader
from alignvis.images.brick import brick_pictures
from alignvis.recordings import nsd, own, things_eeg2, things_meg
from tests import foreign_brains, foreign_features, raw_files, slow_nsd, slow_things_eeg2, slow_things_meg
from tests.hostile import Reader
from tests.tables import features_document, image_ids, responses_document

# --- our own ---------------------------------------------------------------------------------------------------------


def build_tables(folder: Path) -> list[Path]:
    train, test = image_ids(3, 2), image_ids(2, 1, "test_images")
    arrays = {
        "train": np.ones((6, 2, 3, 5), np.float32),
        "test": np.ones((2, 2, 3, 5), np.float32),
        "train.session": np.ones((6, 2), np.uint8),
        "test.session": np.ones((2, 2), np.uint8),
    }
    store.write_table(folder / "responses.safetensors", arrays, responses_document(train, test))
    features = {"embeddings": np.ones((8, 4), np.float32), "layer.1": np.ones((8, 3), np.float32)}
    store.write_table(folder / "features.safetensors", features, features_document([*train, *test]))
    return sorted(folder.glob("*.safetensors"))


def read_tables(folder: Path) -> Any:
    table = store.load_responses(folder / "responses.safetensors")
    return table.train.sum(), store.load_features(folder / "features.safetensors").embeddings.sum()


# --- the public datasets ---------------------------------------------------------------------------------------------


def build_eeg2(folder: Path) -> list[Path]:
    """One session of two images of each kind, at an eighth of the length."""
    slow_things_eeg2.write_metadata(folder / "images", 1, 2, 2)
    for name, codes in (("training", [1, 2, 1, 2]), ("test", [2, 1, 1, 2])):
        data = 1e-5 * np.random.default_rng(0).standard_normal((64, 6000)).astype(np.float32)
        data[63] = 0
        data[63, 500 + 1100 * np.arange(4)] = codes
        slow_things_eeg2.write_recording(folder / f"sub-01/ses-01/raw_eeg_{name}.npy", data)
    return [*sorted((folder / "sub-01/ses-01").iterdir()), folder / "images/image_metadata.npy"]


def read_eeg2(folder: Path) -> Any:
    about = {"images": folder / "images", "out": folder / "t.safetensors", "sessions": (1,), "repetitions": (2, 2)}
    return things_eeg2.prepare(folder, subject=1, channels="O1,Oz", overwrite=True, **about)


def build_meg(folder: Path) -> list[Path]:
    slow_things_meg.write_subject(folder)
    return sorted(folder.rglob("*.fif"))


def read_meg(folder: Path) -> Any:
    return things_meg.prepare(folder, subject=1, out=folder / "t.safetensors", overwrite=True)


def build_nsd(folder: Path) -> list[Path]:
    shown = slow_nsd.design(3, 15, 5)
    betas = np.random.default_rng(0).standard_normal((45, 6)).astype(np.float32)
    slow_nsd.write(folder, betas, shown, chunks=(5, 6), compression="gzip", shuffle=True)
    with h5py.File(folder / "subj01_nsdgeneral.hdf5", "r+") as file:
        file["simulated"], file["trials_per_session"] = np.uint8(1), np.int64(15)
    return [path for path in folder.rglob("*") if path.suffix in (".hdf5", ".mat")]


def read_nsd(folder: Path) -> Any:
    return nsd.prepare(folder, subject=1, out=folder / "t.safetensors", overwrite=True)


def build_brick(folder: Path) -> list[Path]:
    with h5py.File(folder / "brick.hdf5", "w") as file:
        pictures = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
        file.create_dataset("imgBrick", data=pictures, chunks=(2, 8, 9, 3), compression="gzip")
    return [folder / "brick.hdf5"]


def read_brick(folder: Path) -> Any:
    with BrickReader() as reader:
        return [reader.pixels(folder / "brick.hdf5" / image) for image in brick_pictures(folder / "brick.hdf5")]


# --- recordings of one's own -----------------------------------------------------------------------------------------

NAMES = ["O1", "Oz", "Fp1"]
ROWS = [
    (0.5 + 0.3 * n, f"c/{n % 3}.jpg" if n < 9 else f"t/{n % 2}.jpg", "train" if n < 9 else "test") for n in range(13)
]


def build_own(write: Callable[..., Path], name: str, folder: Path) -> list[Path]:
    volts = 1e-5 * np.random.default_rng(0).standard_normal((3, 1200))
    write(folder / name, volts, NAMES, 200.0)
    raw_files.write_events(folder / "events.tsv", ROWS)
    return [path for path in folder.iterdir() if path.is_file()]


def read_own(name: str, folder: Path) -> Any:
    about = {"subject": 1, "dataset": "mine", "out": folder / "out" / "t.safetensors", "overwrite": True}
    return own.prepare([folder / name], events=[folder / "events.tsv"], sfreq=100.0, window=(0.0, 0.2), **about)


def of_own(write: Callable[..., Path], name: str) -> Reader:
    return Reader(partial(build_own, write, name), partial(read_own, name))


# --- recordings of other projects ------------------------------------------------------------------------------------

EEG = foreign_brains.eeg(concepts=2, tests=3, samples=5)
MEG = foreign_brains.meg(concepts=2, tests=3, samples=5)


def of_brain(write: Callable[[Path], Any], planted: foreign_brains.Experiment, more: str = "") -> Reader:
    """A recording below sub-01, with or without the pictures that name its rows."""

    def build(folder: Path) -> list[Path]:
        write(folder / "sub-01")
        if planted is EEG:
            foreign_brains.images(folder / "images", planted)
        else:
            foreign_brains.meg_tree(folder / "images", planted)
        return sorted([*(folder / "sub-01").iterdir(), *folder.glob("*.json"), *folder.glob("images/*.npy")])

    def read(folder: Path) -> Any:
        about = {"root": folder / "root", "subject": 1, "images": folder / "images", "overwrite": True}
        return import_responses(folder / "sub-01", **about)

    return Reader(build, read)


# --- features of other projects --------------------------------------------------------------------------------------

SHOWN = foreign_features.ids()
ALL = SHOWN["train"] + SHOWN["test"]
VALUES = foreign_features.vectors(len(ALL), 6)


def of_features(write: Callable[[Path], Any], place: str) -> Reader:
    def build(folder: Path) -> list[Path]:
        write(folder)
        foreign_features.write_images(folder / "images", SHOWN, metadata=True)
        return sorted(path for path in (folder / place).parent.rglob("*") if _is_data(path, folder))

    def read(folder: Path) -> Any:
        encoder = None if "." not in place else "some"  # which trees name themselves
        about = {"root": folder / "root", "images": folder / "images", "encoder": encoder, "overwrite": True}
        return import_features(sorted(folder.glob(place)), **about)

    return Reader(build, read)


def _is_data(path: Path, folder: Path) -> bool:
    return path.is_file() and path.suffix not in (".jpg",) and (folder / "images") not in path.parents


def write_neurobridge(folder: Path) -> None:
    np.save(folder / "image_train.npy", VALUES[: len(SHOWN["train"])].reshape(4, 3, 6))
    np.save(folder / "image_test.npy", VALUES[len(SHOWN["train"]) :].reshape(5, 1, 6))


READERS = {
    "tables": Reader(build_tables, read_tables),
    "things-eeg2": Reader(build_eeg2, read_eeg2),
    "things-meg": Reader(build_meg, read_meg),
    "nsd": Reader(build_nsd, read_nsd),
    "nsd-pictures": Reader(build_brick, read_brick),
    "brainvision": of_own(raw_files.write_brainvision, "r.vhdr"),
    "edf": of_own(raw_files.write_edf, "r.edf"),
    "bdf": of_own(raw_files.write_edf, "r.bdf"),
    "eeglab": of_own(raw_files.write_set, "r.set"),
    "fif": of_own(raw_files.write_fif, "r_raw.fif"),
    "nice": of_brain(lambda folder: foreign_brains.nice(folder, EEG), EEG),
    "osf": of_brain(lambda folder: foreign_brains.nice(folder, EEG, wrapped=True), EEG),
    "ubp": of_brain(lambda folder: foreign_brains.ubp(folder, foreign_brains.ubp_documents(EEG)), EEG),
    "ubp-protocol-2": of_brain(lambda folder: foreign_brains.ubp(folder, foreign_brains.ubp_documents(EEG), 2), EEG),
    "neurobridge": of_brain(lambda folder: foreign_brains.neurobridge(folder, EEG, 10), EEG),
    "zeiss": of_brain(lambda folder: foreign_brains.zeiss(folder, EEG), EEG),
    "alignvis-meg": of_brain(
        lambda folder: foreign_brains.alignvis_meg(folder, foreign_brains.alignvis_meg_documents(MEG)), MEG
    ),
    "atm-meg": of_brain(lambda folder: foreign_brains.atm_meg(folder, MEG), MEG),
    "tree": of_features(
        lambda folder: foreign_features.write_tree(folder / "image_embeddings", ALL, {"some": VALUES}),
        "image_embeddings",
    ),
    "shards": of_features(
        lambda folder: foreign_features.write_shards(folder / "shards", ALL, {"some": VALUES}), "shards"
    ),
    "atm": of_features(lambda folder: foreign_features.write_atm(folder / "f_train.pt", VALUES[:12], 4), "f_*.pt"),
    "ubp-features": of_features(
        lambda folder: foreign_features.write_ubp(folder / "u_train.pt", {None: VALUES}, ALL), "u_*.pt"
    ),
    "zeiss-features": of_features(
        lambda folder: foreign_features.write_zeiss(folder / "z.safetensors", VALUES[:12], 4), "z.safetensors"
    ),
    "nice-features": of_features(lambda folder: np.save(folder / "n_test.npy", VALUES[12:, None]), "n_test.npy"),
    "neurobridge-features": of_features(write_neurobridge, "image_*.npy"),
}
