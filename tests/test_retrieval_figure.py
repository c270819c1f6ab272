import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from safetensors.numpy import save_file

from alignvis import files
from alignvis.figures.retrievals import HIT, show_retrievals
from tests.tables import image_ids

IDS = image_ids(8, 1, "test_images")


def scored(folder: Path, similarity: np.ndarray, features: str) -> Path:
    folder.mkdir(parents=True)
    document = {"version": 1, "table": "similarity", "queries": IDS, "gallery": IDS}
    save_file(
        {"similarity": similarity.astype("f4")}, folder / "similarity.safetensors", {"alignvis": json.dumps(document)}
    )
    table = {"path": "", "fingerprint": ""}
    record = {
        "version": 1,
        "dataset": "tiny",
        "simulated": True,
        "subject": 1,
        "encoder": "nice",
        "features": features,
        "aligned": False,
        "twin": None,
        "seed": 0,
        "shape": {"channels": 1, "times": 1, "dim": 1},
        "recipe": {"name": "", "normalisation": "", "validation": ""},
        "inputs": {"responses": [table], "features": table, "queries": table},
        "split": {"train": [], "validation": []},
        "history": [{"epoch": 0, "best": True, "held_out_top1": 0.5}],
        "protocol": "within",
        "trained_on": [1],
        "channels": ["Oz"],
        "recording": {},
        "seconds": 1.0,
        "weights_sha256": "",
    }
    files.write_json(folder / "record.json", record)
    return folder


@pytest.fixture
def images(tmp_path, shared_data) -> Path:
    photos = sorted((shared_data / "photos").glob("*.jpg"))
    for image, photo in zip(IDS, photos, strict=True):
        target = tmp_path / "images" / image
        target.parent.mkdir(parents=True)
        target.write_bytes(photo.read_bytes())
    return tmp_path / "images"


def frames(picture: Path) -> np.ndarray:
    """Columns of pixels, left to right, that hold the colour of the right answer's frame."""
    pixels = imread(picture)[..., :3]
    return np.flatnonzero((np.abs(pixels - to_rgb(HIT)).max(axis=2) < 0.02).sum(axis=0) > 20)


def test_the_right_answer_is_framed_where_it_is_and_nowhere_else(tmp_path, images):
    always, never = np.eye(8), -np.eye(8)
    show_retrievals(
        [scored(tmp_path / "a", always, "good"), scored(tmp_path / "b", never, "bad")], images, tmp_path / "a.png"
    )
    show_retrievals([tmp_path / "b", tmp_path / "a"], images, tmp_path / "b.png")
    width = imread(tmp_path / "a.png").shape[1]
    first, second = frames(tmp_path / "a.png"), frames(tmp_path / "b.png")
    assert 0.05 * width < first.min() and first.max() < 0.3 * width
    assert 0.5 * width < second.min() and second.max() < 0.75 * width


def test_only_the_named_number_of_rows_is_drawn_and_the_file_is_whole(tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "good")
    for queries in (1, 3):
        show_retrievals([run], images, tmp_path / f"{queries}.png", queries=queries)
    heights = [imread(tmp_path / f"{queries}.png").shape[0] for queries in (1, 3)]
    assert heights[1] > heights[0] + 200 and not list(tmp_path.glob("*.partial"))
