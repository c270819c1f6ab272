import numpy as np
import pytest

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange.own_features import write_features
from alignvis.grid import train_grid
from tests.tables import planted

IMAGES = ["a/one.jpg", "a/two.jpg", "b/three.jpg"]
ROWS = np.arange(6, dtype=np.float64).reshape(3, 2)


def test_what_is_written_is_read_as_any_other_table(tmp_path):
    path = write_features(tmp_path / "set", ROWS, IMAGES, encoder="mine", twin="other", aligned=True,
                          layers={"layer.1": ROWS[:, :1]}, about={"network": "a"}, simulated=True)  # fmt: skip
    table = store.load_features(path)
    assert path == tmp_path / "set/mine.safetensors" and table.images == IMAGES
    np.testing.assert_array_equal(table.embeddings, ROWS.astype("f4"))
    np.testing.assert_array_equal(store.load_features(path, "layer.1").embeddings[:, 0], [0, 2, 4])
    document = table.document
    assert (document["aligned"], document["twin"], document["simulated"]) == (True, "other", True)
    assert document["about"] == {"network": "a"} and document["own"] and document["image_set"] == "set"
    assert "simulated" not in store.read_document(write_features(tmp_path / "set", ROWS, IMAGES, encoder="b"))


def test_a_run_learns_from_it_as_from_any_other(tmp_path):
    root = planted(tmp_path, times=40)
    known = store.load_features(root / "features/tiny/lowlevel.safetensors")
    write_features(root / "features/mine", np.array(known.embeddings)[::-1], known.images[::-1], encoder="mine")
    asked = {"subjects": [1], "encoders": ["linear"], "changes": {"epochs": 1, "batch": 32}}
    quiet = {"say": lambda text: None, "detail": lambda text: None}
    (one, _), (other, _) = (train_grid(root, features=[name], **asked, **quiet)[0] for name in ("mine", "lowlevel"))
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"embeddings": ROWS[:2]}, "has 2 rows for 3 images"),
        ({"embeddings": ROWS[0]}, "expected numbers of shape"),
        ({"embeddings": ROWS[:, :0]}, "expected numbers of shape"),
        ({"embeddings": ROWS.astype(str)}, "expected numbers of shape"),
        ({"embeddings": ROWS * np.nan}, "3 of 3 images are not finite in float32 .the first is 'a/one.jpg'"),
        ({"embeddings": ROWS * 1e39}, "2 of 3 images are not finite|3 of 3 images are not finite"),
        ({"images": ["a", "a", "b"]}, "'a' is named more than once"),
        ({"images": ["/a", "b", "c"]}, "'/a' is no image id"),
        ({"images": ["a", "b/../c", "d"]}, "is no image id"),
        ({"images": ["a", "b\\c", "d"]}, "is no image id"),
        ({"encoder": "../evil"}, "cannot name an encoder"),
        ({"encoder": "lowlevel"}, "is an encoder of alignvis"),
        ({"twin": "mine"}, "cannot be its own twin"),
        ({"layers": {"embeddings": ROWS}}, "cannot name a layer"),
        ({"layers": {"layer.1": ROWS[:1]}}, "layer.1 has 1 rows for 3 images"),
        ({"about": {"x": object()}}, "cannot be written as JSON"),
        ({"about": {"x": float("nan")}}, "cannot be written as JSON"),
    ],
)
def test_what_cannot_be_a_table_is_one_sentence_and_leaves_nothing(tmp_path, changes, sentence):
    given = {"embeddings": ROWS, "images": IMAGES, "encoder": "mine", **changes}
    with pytest.raises(AlignvisError, match=sentence) as raised:
        write_features(tmp_path / "set", given.pop("embeddings"), given.pop("images"), **given)
    assert str(raised.value).count("\n") == 0 and not list(tmp_path.rglob("*.safetensors*"))


def test_another_table_is_only_replaced_when_asked(tmp_path):
    path = write_features(tmp_path, ROWS, IMAGES, encoder="mine")
    with pytest.raises(AlignvisError, match="is there already"):
        write_features(tmp_path, ROWS + 1, IMAGES, encoder="mine")
    assert store.load_features(path).embeddings[0, 0] == 0
    write_features(tmp_path, ROWS + 1, IMAGES, encoder="mine", overwrite=True)
    assert store.load_features(path).embeddings[0, 0] == 1
