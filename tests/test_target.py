"""What of a features table is learned: its embeddings, or a tensor that was kept beside them."""

from pathlib import Path

import numpy as np
import pytest

from alignvis import store
from alignvis.check import check_all
from alignvis.errors import AlignvisError
from alignvis.grid import train_grid
from alignvis.runs import read_record
from alignvis.scoring import evaluate_run
from tests.tables import planted

INNER = "layer.2.patches"


def train(root: Path, **changes) -> list:
    quiet = {"say": lambda text: None, "detail": lambda text: None}
    return train_grid(root, subjects=[1], encoders=["linear"], changes=changes, **quiet)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Responses follow an inner layer; the embeddings of the encoder's end are of something else."""
    root = planted(tmp_path_factory.mktemp("root"))
    path = root / "features/tiny/lowlevel.safetensors"
    table = store.load_features(path)
    noise = np.random.default_rng(5).standard_normal((len(table.images), 6)).astype("f4")
    arrays = {"embeddings": noise, INNER: np.array(table.embeddings), "blur.3": noise[:, :2].copy()}
    store.write_table(path, arrays | {"images.sha256": np.ones((len(noise), 32), "u1")}, table.document)
    return root


def test_the_layer_that_the_brain_follows_is_found_and_the_end_of_the_network_is_not(root):
    top1 = {}
    for target in ("embeddings", INNER):
        ((run, record),) = train(root, epochs=4, batch=32, rate=3e-3, target=target)
        scores = evaluate_run(run)
        top1[target] = scores["top1"]
        assert read_record(run)["recipe"]["target"] == target and record["shape"]["dim"] == (6, 8)[target == INNER]
        assert ("target-layer.2.patches" in run.name) == (target == INNER) == ("target" in scores["recipe"])
    assert top1[INNER] > 0.5 and top1["embeddings"] < 0.15


def test_what_a_table_does_not_hold_is_said_with_what_it_holds(root):
    says = r"lowlevel.safetensors holds no 'layer.9.class' \(it holds embeddings, blur.3, layer.2.patches\); .*--layers"
    with pytest.raises(AlignvisError, match=says):
        train(root, target="layer.9.class")
    with pytest.raises(AlignvisError, match="holds no 'images.sha256'"):
        store.load_features(root / "features/tiny/lowlevel.safetensors", "images.sha256")


def test_check_names_what_is_kept_beside_the_embeddings_and_reads_it(root, tmp_path):
    ((row, text),) = check_all(root, [root / "features/tiny/lowlevel.safetensors"])
    assert row["beside"] == ["blur.3", INNER] and text.endswith("; beside them layers 2 (patches); blurs of 3 pixels")
    table = store.load_features(root / "features/tiny/lowlevel.safetensors")
    broken = {"embeddings": np.array(table.embeddings), INNER: np.full((len(table.images), 2), np.nan, "f4")}
    store.write_table(tmp_path / "t.safetensors", broken, table.document)
    ((row, text),) = check_all(tmp_path, [tmp_path / "t.safetensors"])
    assert not row["whole"] and "not finite" in text


def test_the_order_of_the_names_is_that_of_the_numbers():
    names = ["layer.10.class", "blur.3", "embeddings", "layer.2.class", "blur.0.5", "blur.10", "blur.3.layer.2.class"]
    ordered = store.vectors({name: np.zeros((2, 2), "f4") for name in names} | {"images.stamp": np.zeros((2, 2), "i8")})
    assert ordered == ["embeddings", "blur.0.5", "blur.3", "blur.3.layer.2.class", "blur.10", "layer.2.class",
                       "layer.10.class"]  # fmt: skip
