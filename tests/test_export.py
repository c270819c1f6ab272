"""What leaves is read by NumPy alone, and comes back as it went."""

import json
from pathlib import Path

import numpy as np
import pytest

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange import export
from alignvis.exchange.export import export_table
from alignvis.exchange.features import import_features
from tests import foreign_features as foreign
from tests.foreign_features import vectors
from tests.tables import CHANNELS, features_document, responses_document

IDS = foreign.ids()
ALL = sorted(IDS["train"] + IDS["test"])


@pytest.fixture
def features(tmp_path) -> Path:
    return write_features(tmp_path / "table.safetensors", ALL)


def write_features(path: Path, images: list[str], encoder: str = "CLIP_RN50_noalign", **tensors) -> Path:
    values = vectors(len(images), 6)
    values[0, 0], values[1, 0] = np.float32(1e-42), -0.0  # bits that arithmetic would lose
    document = features_document(images, encoder=encoder, precision="fp32", claims=["naïve"])
    store.write_table(
        path, {"embeddings": values, "images.stamp": np.ones((len(images), 2), "i8"), **tensors}, document
    )
    return path


def write_responses(path: Path, **changes) -> Path:
    numbers = np.random.default_rng(0)
    arrays = {
        "train": numbers.standard_normal((12, 2, 3, 4)).astype("f2"),
        "test": numbers.standard_normal((5, 3, 3, 4)).astype("f2"),
        "train.session": np.tile(np.array([1, 2], "u1"), (12, 1)),
        "test.session": np.full((5, 3), 4, "u1"),
    }
    store.write_table(path, arrays, responses_document(IDS["train"], IDS["test"], **{"tmin": -0.1, **changes}))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(match: str, *arguments, **options) -> None:
    with pytest.raises(AlignvisError, match=match) as caught:
        export_table(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_tree_holds_each_picture_s_vector_under_its_name(tmp_path, features):
    made = export_table(features, tmp_path / "out", layout="alignvis")
    table = store.load_features(features)
    assert sorted(contents(tmp_path / "out")) == sorted(
        image.replace(".jpg", "_CLIP_RN50_noalign.npy") for image in table.images
    )
    for image, embedding in zip(table.images, table.embeddings, strict=True):
        loaded = np.load(tmp_path / "out" / image.replace(".jpg", "_CLIP_RN50_noalign.npy"), allow_pickle=False)
        assert loaded.dtype == np.float32 and loaded.tobytes() == embedding.tobytes()
    size = sum(map(len, contents(tmp_path / "out").values()))
    assert made == {"out": str(tmp_path / "out"), "layout": "alignvis", "table": "features", "files": 17, "bytes": size,
                    "kept": False}  # fmt: skip


def test_a_tree_comes_back_bit_by_bit(tmp_path, features):
    export_table(features, tmp_path / "out", layout="alignvis")
    (made,) = import_features([tmp_path / "out"], root=tmp_path)
    before, after = store.load_features(features), store.load_features(made["table"])
    assert after.images == before.images and after.embeddings.tobytes() == before.embeddings.tobytes()
    assert after.document["encoder"] == "CLIP_RN50_noalign"


def test_a_tree_takes_further_encoders_and_is_kept_when_it_is_whole(tmp_path, features):
    out = tmp_path / "out"
    export_table(features, out, layout="alignvis")
    before = contents(out)
    assert export_table(features, out, layout="alignvis")["kept"] and contents(out) == before
    other = write_features(tmp_path / "other.safetensors", ALL, "net")
    assert not export_table(other, out, layout="alignvis")["kept"]
    after = contents(out)
    assert len(after) == 34 and before.items() <= after.items()
    next(out.rglob("*_net.npy")).unlink()
    assert not export_table(other, out, layout="alignvis")["kept"] and contents(out) == after


def test_what_is_something_else_is_not_replaced_unasked(tmp_path, features):
    out = tmp_path / "out"
    export_table(features, out, layout="alignvis")
    changed = next(out.rglob("*.npy"))
    before = contents(out)
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    altered = contents(out)
    refused("is there and is not of this table.*--overwrite", features, out, layout="alignvis")
    assert contents(out) == altered
    export_table(features, out, layout="alignvis", overwrite=True)
    assert contents(out) == before
    for data in (before[changed.relative_to(out).as_posix()] + b"0", b""):
        changed.write_bytes(data)
        refused("is there and is not of this table", features, out, layout="alignvis")
    changed.unlink()
    changed.mkdir()
    refused("is there and is not of this table", features, out, layout="alignvis")


def test_plain_arrays_of_features_and_all_that_is_known_of_them(tmp_path):
    layer = vectors(17, 4, seed=3)
    table = write_features(tmp_path / "table.safetensors", ALL, **{"layer.6.class": layer})
    made = export_table(table, tmp_path / "out", layout="npy")
    assert sorted(contents(tmp_path / "out")) == ["embeddings.npy", "info.json", "layer.6.class.npy"]
    assert made["files"] == 3
    loaded = np.load(tmp_path / "out/embeddings.npy", mmap_mode="r")
    assert loaded.tobytes() == store.load_features(table).embeddings.tobytes() and loaded.shape == (17, 6)
    assert (np.load(tmp_path / "out/layer.6.class.npy") == layer).all()
    info = json.loads((tmp_path / "out/info.json").read_text(encoding="utf-8"))
    assert info["images"] == ALL and info["claims"] == ["naïve"] and info["encoder"] == "CLIP_RN50_noalign"
    assert info["files"]["embeddings.npy"] == {"shape": [17, 6], "dtype": "float32", "axes": ["image", "dim"]}
    assert export_table(table, tmp_path / "out", layout="npy")["kept"]


def test_plain_arrays_of_responses_with_their_times(tmp_path):
    table = write_responses(tmp_path / "sub-01.safetensors")
    made = export_table(table, tmp_path / "out", layout="npy")
    assert made["files"] == 5 and made["table"] == "responses"
    responses = store.load_responses(table)
    for name in ("train", "test"):
        loaded = np.load(tmp_path / f"out/{name}.npy", mmap_mode="r")
        assert loaded.dtype == np.float16 and loaded.tobytes() == getattr(responses, name).tobytes()
        assert loaded.shape == getattr(responses, name).shape
        session = np.load(tmp_path / f"out/{name}.session.npy")
        assert session.dtype == np.uint8 and (session == getattr(responses, f"{name}_session")).all()
    info = json.loads((tmp_path / "out/info.json").read_text(encoding="utf-8"))
    assert info["times"] == pytest.approx([-0.1, -0.09, -0.08, -0.07]) and info["channels"] == CHANNELS
    assert info["train_images"] == IDS["train"] and info["test_images"] == IDS["test"]
    assert info["files"]["train.npy"]["axes"] == ["image", "repetition", "channel", "time"]


def test_pieces_do_not_change_the_files(tmp_path, monkeypatch):
    table = write_responses(tmp_path / "sub-01.safetensors")
    export_table(table, tmp_path / "a", layout="npy")
    monkeypatch.setattr(export, "CHUNK", 100)
    export_table(table, tmp_path / "b", layout="npy")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert export_table(table, tmp_path / "a", layout="npy")["kept"]


def test_responses_make_no_tree_and_other_layouts_are_unknown(tmp_path, features):
    table = write_responses(tmp_path / "sub-01.safetensors")
    refused("AlignVis keeps only features as trees; choose npy", table, tmp_path / "out", layout="alignvis")
    refused("'nice' is no layout to export to", features, tmp_path / "out", layout="nice")
    refused("there is no file", tmp_path / "nothing", tmp_path / "out", layout="npy")
    store.write_table(tmp_path / "s.safetensors", {"x": np.zeros((1, 1), "f4")},
                      {"version": 1, "table": "similarity", "queries": ["a"], "gallery": ["b"]})  # fmt: skip
    refused("features and responses are exported", tmp_path / "s.safetensors", tmp_path / "out", layout="npy")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "image",
    ["../cat.jpg", "/cat.jpg", "a/../../cat.jpg", "a//cat.jpg", "a\\cat.jpg", "C:/cat.jpg", ".", "a/\0.jpg", ""],
)
def test_images_whose_files_would_lie_elsewhere_are_refused(tmp_path, image):
    table = write_features(tmp_path / "table.safetensors", ["a/dog.jpg", image])
    refused("no file in the folder can have such a name", table, tmp_path / "out", layout="alignvis")
    assert not (tmp_path / "out").exists() and not list(tmp_path.parent.glob("*.npy"))


def test_encoders_and_tensors_that_cannot_be_names_are_refused(tmp_path):
    table = write_features(tmp_path / "a.safetensors", ALL, "../../net")
    refused("no file in the folder can have such a name", table, tmp_path / "out", layout="alignvis")
    table = write_features(tmp_path / "b.safetensors", ALL, **{"../evil": vectors(17, 3)})
    refused("no file in the folder can have such a name", table, tmp_path / "out", layout="npy")
    table = write_features(tmp_path / "c.safetensors", ["a/cat.jpg", "a/cat.png"])
    refused("differ in the suffix alone", table, tmp_path / "out", layout="alignvis")


def test_class_centres_are_of_no_picture(tmp_path):
    images = foreign.write_images(tmp_path / "images", IDS)
    np.save(tmp_path / "centers.npy", vectors(5, 8))
    (made,) = import_features([tmp_path / "centers.npy"], root=tmp_path, images=images, encoder="net")
    refused("class centres, which are of no picture", Path(made["table"]), tmp_path / "out", layout="alignvis")
    assert export_table(Path(made["table"]), tmp_path / "out", layout="npy")["files"] == 2


def test_what_json_cannot_hold_is_refused(tmp_path):
    table = write_responses(tmp_path / "sub-01.safetensors", sfreq=12345.5)
    data = table.read_bytes()
    table.write_bytes(data.replace(b"12345.5", b"    NaN"))
    refused("a header that JSON cannot hold", table, tmp_path / "out", layout="npy")


@pytest.mark.parametrize("layout", ["alignvis", "npy"])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("moment", ["writing", "naming"])
def test_an_interruption_leaves_nothing(tmp_path, features, monkeypatch, layout, there, moment):
    out = tmp_path / "new" / "out"
    if there:
        (out / "training_images").mkdir(parents=True)
        (out / "mine.txt").write_text("mine")
    before = contents(tmp_path)

    def stop(done, total, text, note=""):
        if done == total:
            raise KeyboardInterrupt

    def full(source, target, real=export.os.replace):
        if Path(source).name in ("1", "info.json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    if moment == "writing":
        with pytest.raises(KeyboardInterrupt):
            export_table(features, out, layout=layout, progress=stop)
    else:
        monkeypatch.setattr(export.os, "replace", full)
        refused("could not be written .No space left on device.; nothing was changed", features, out, layout=layout)
    assert contents(tmp_path) == before and out.exists() == there and (tmp_path / "new").exists() == there
    monkeypatch.undo()
    assert not export_table(features, out, layout=layout)["kept"]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_an_overwriting_export_cannot_replace_is_as_it_was(tmp_path, features, monkeypatch):
    out, moves = tmp_path / "out", []
    export_table(features, out, layout="npy")
    (out / "embeddings.npy").write_bytes(b"older")
    (out / "info.json").write_bytes(b"older too")
    before = contents(out)

    def full(source, target, real=export.os.replace):
        moves.append(target)
        if len(moves) == 4:  # the second file's new content
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(export.os, "replace", full)
    with pytest.raises(AlignvisError, match="nothing was changed"):
        export_table(features, out, layout="npy", overwrite=True)
    assert contents(out) == before


def test_what_others_put_beside_an_export_that_stops_is_left_alone(tmp_path, features):
    def stop(done, total, text, note=""):
        (tmp_path / "new" / "mine.txt").write_text("mine")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_table(features, tmp_path / "new" / "a", layout="npy", progress=stop)
    assert contents(tmp_path / "new") == {"mine.txt": b"mine"}


def test_the_published_features_go_out_as_they_came_in(tmp_path, shared_data):
    folder = shared_data / "clip-features"
    stems = (folder / "things_eeg2_test200_image_stems.txt").read_text().split()
    test = [f"test_images/{row:05d}_{stem[:-4]}/{stem}.jpg" for row, stem in enumerate(stems, 1)]
    images = foreign.write_images(
        tmp_path / "things",
        {"train": ["training_images/00001_x/x_01b.jpg"], "test": test},
        pictures=False,
        metadata=True,
    )
    path = folder / "clip_feature_maps_test.npy"
    (made,) = import_features([path], root=tmp_path, images=images, encoder="CLIP_ViT-L14_noalign")
    export_table(Path(made["table"]), tmp_path / "tree", layout="alignvis")
    export_table(Path(made["table"]), tmp_path / "plain", layout="npy")
    published = np.load(path)[:, 0]
    assert np.load(tmp_path / "plain/embeddings.npy").tobytes() == published.tobytes()
    one = np.load(tmp_path / "tree/test_images/00003_backscratcher/backscratcher_01b_CLIP_ViT-L14_noalign.npy")
    assert one.tobytes() == published[2].tobytes()
    (again,) = import_features([tmp_path / "tree"], root=tmp_path / "b", images=images)
    assert store.load_features(again["table"]).embeddings.tobytes() == published.tobytes()
