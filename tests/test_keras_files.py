"""Keras's HDF5 files in every spelling, and everything else that HDF5 can hold, which is refused in one sentence."""

import os
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from alignvis.errors import AlignvisError
from alignvis.images.containers import read_tensors
from tests import keras_h5

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
LAYERS = {
    "conv1_conv": {"kernel": SIX, "bias": np.float32([1, 2, 3])},
    "Transformer/encoderblock_0": {"MultiHeadDotProductAttention_1/query/kernel": SIX + 1, "LayerNorm_0/gamma": SIX[0]},
    "add": {},
    "post_bn": {"moving_mean": np.float32([4])},
}
NAMES = {
    "conv1_conv/kernel": SIX,
    "conv1_conv/bias": np.float32([1, 2, 3]),
    "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": SIX + 1,
    "Transformer/encoderblock_0/LayerNorm_0/gamma": SIX[0],
    "post_bn/moving_mean": np.float32([4]),
}


def sentence(path: Path) -> str:
    """Read what must be refused, soon, and give back the one sentence."""
    start = time.monotonic()
    with pytest.raises(AlignvisError) as refused:
        read_tensors(path)
    assert time.monotonic() - start < 60
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


def same(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == torch.from_numpy(wanted[name]).dtype and np.array_equal(found[name], wanted[name])
        for name in wanted
    )


@pytest.mark.parametrize("as_bytes", [False, True], ids=["texts", "bytes"])
@pytest.mark.parametrize("split", [0, 1, 3])
def test_weights_alone(tmp_path, split, as_bytes):
    assert same(read_tensors(keras_h5.write(tmp_path / "x.h5", LAYERS, split=split, as_bytes=as_bytes)), NAMES)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["texts", "bytes"])
@pytest.mark.parametrize("split", [0, 1])
def test_a_whole_model_brings_its_configuration_and_nothing_of_its_optimizer(tmp_path, split, as_bytes):
    read = read_tensors(keras_h5.write(tmp_path / "x", LAYERS, config=keras_h5.VGG, split=split, as_bytes=as_bytes))
    assert set(read) == {"model_config", "model_weights"}
    assert read["model_config"] == keras_h5.VGG and same(read["model_weights"], NAMES)


def test_a_long_configuration_that_stands_behind_another_is_found(tmp_path):
    """Keras stores how a model was trained beside it, and what is longer than 64 kB elsewhere than what is not."""
    layers = [("Dense", f"größe_{number}", {"activation": "relu", "units": number}) for number in range(3000)]
    config = keras_h5.model("long", *layers)
    for first in (True, False):
        path = tmp_path / f"{first}.h5"
        with h5py.File(path, "w") as file:
            training = '{"optimizer_config": {"class_name": "Adam", "config": {"learning_rate": 0.1}}}'
            if first:
                file.attrs["training_config"] = training
        with (
            h5py.File(keras_h5.write(tmp_path / "whole.h5", LAYERS, config=config)) as whole,
            h5py.File(path, "a") as file,
        ):
            whole.copy("model_weights", file)
            file.attrs["model_config"] = whole.attrs["model_config"]
            file.attrs["training_config"] = training
        assert read_tensors(path)["model_config"] == config


def test_a_whole_model_without_a_configuration_is_read(tmp_path):
    path = keras_h5.write(tmp_path / "x.h5", LAYERS, config=keras_h5.VGG)
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    assert read_tensors(path)["model_config"] is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"class_name": "Functional", "config": ', '{"class_name": "x", "config": 3}']
)
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    path = keras_h5.write(tmp_path / "x.h5", LAYERS, config={})
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = text
    assert "its model_config cannot be read" in sentence(path)


def test_a_configuration_that_nests_without_end_is_refused(tmp_path):
    path = keras_h5.write(tmp_path / "x.h5", LAYERS, config={})
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = '{"class_name": "Functional", "config": ' + "[" * 60_000
    assert "is damaged or of a kind that is not read here" in sentence(path)


def test_names_of_nested_models_keep_their_path(tmp_path):
    layers = {"resnet50v2": {"conv1_conv/kernel": SIX}, "wrapper/fc1": {"kernel": SIX}}
    assert set(read_tensors(keras_h5.write(tmp_path / "x.h5", layers))) == {
        "resnet50v2/conv1_conv/kernel",
        "wrapper/fc1/kernel",
    }


def test_names_without_their_layer_get_it(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["fc1"]
        file.create_group("fc1").create_dataset("kernel:0", data=SIX)
    assert same(read_tensors(tmp_path / "x.h5"), {"fc1/kernel": SIX})


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<i8", ">i4", "i1"])
def test_numbers_of_every_size_and_order_come_back(tmp_path, dtype):
    numbers = np.arange(-3, 3).reshape(2, 3).astype(dtype)
    read = read_tensors(
        keras_h5.write(tmp_path / "x.h5", {"a": {"kernel": numbers, "none": numbers[:0], "one": numbers[1, 1]}})
    )
    assert read["a/kernel"].tolist() == numbers.tolist() and read["a/one"].item() == 1
    assert read["a/kernel"].element_size() == numbers.itemsize and read["a/none"].shape == (0, 3)


def test_without_h5py_its_name_is_said(tmp_path, monkeypatch):
    path = keras_h5.write(tmp_path / "x.h5", LAYERS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'h5py, which reads those, is missing; pip install "alignvis[hdf5]"' in sentence(path)


def test_what_keras_2_did_not_write_is_named(tmp_path):
    with h5py.File(tmp_path / "keras3.weights.h5", "w") as file:
        file.create_group("layers/dense/vars").create_dataset("0", data=SIX)
        file.create_group("_layer_checkpoint_dependencies")
    assert "not one in which Keras 2 stored weights (it holds '_layer_checkpoint_dependencies', 'layers')" in sentence(
        tmp_path / "keras3.weights.h5"
    )
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "(it holds nothing)" in sentence(tmp_path / "empty.h5")


# --- what HDF5 can do and Keras does not -----------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path) -> Path:
    return keras_h5.write(tmp_path / "x.h5", LAYERS)


def outside(tmp_path: Path) -> Path:
    """Another file with numbers that nobody may see, and a pipe on which reading would wait for ever."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_dataset("kernel:0", data=SIX)
    (tmp_path / "secret.bin").write_bytes(SIX.tobytes())
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "secret.h5"


@pytest.mark.parametrize("target", ["secret.h5", "pipe", "/dev/zero", "nothing"])
@pytest.mark.parametrize("place", ["conv1_conv/conv1_conv/extra:0", "model_weights", "fc1"])
def test_links_to_other_files_are_not_followed(whole, tmp_path, target, place):
    outside(tmp_path)
    with h5py.File(whole, "a") as file:
        file[place] = h5py.ExternalLink(target, "/kernel:0")
    assert "is a link that leads elsewhere" in sentence(whole)


@pytest.mark.parametrize("target", ["/conv1_conv/conv1_conv/kernel:0", "/", "nowhere", "extra"])
def test_links_within_the_file_are_not_followed(whole, target):
    with h5py.File(whole, "a") as file:
        file["conv1_conv/extra"] = h5py.SoftLink(target)
    assert "is a link that leads elsewhere" in sentence(whole)


def test_groups_that_contain_themselves_come_to_an_end(whole):
    with h5py.File(whole, "a") as file:
        file["again"] = file["/"]
        file["conv1_conv/again"] = file["/"]
    assert "damaged or of a kind that is not read here" in sentence(whole)


def test_empty_groups_that_contain_themselves_many_times_come_to_an_end(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["a"]
        group = file.create_group("a")
        for number in range(30):
            group[str(number)] = group
    assert "contain each other without end" in sentence(tmp_path / "x.h5")


def test_groups_that_many_ways_lead_to_come_to_an_end(tmp_path):
    """Ten levels of ten names each, in a small file without a circle: 10,000,000,000 ways."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["0"]
        group = file
        for _ in range(10):
            inner = group.create_group("0")
            for number in range(1, 10):
                group[str(number)] = inner
            group = inner
    assert "contain each other without end" in sentence(tmp_path / "x.h5")


def test_a_tensor_made_of_others_is_refused(whole, tmp_path):
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(outside(tmp_path), "kernel:0", shape=(2, 3))
    with h5py.File(whole, "a") as file:
        file.create_virtual_dataset("conv1_conv/extra:0", layout)
    assert "compressed, in pieces or in another file" in sentence(whole)


def test_a_tensor_whose_numbers_lie_in_another_file_is_refused(whole, tmp_path):
    outside(tmp_path)
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/extra:0", (2, 3), "f4", external=[(str(tmp_path / "secret.bin"), 0, 24)])
    assert "compressed, in pieces or in another file" in sentence(whole)


@pytest.mark.parametrize(
    "made", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": (1, 3)}, {"shuffle": True}]
)
def test_tensors_that_are_packed_are_refused(whole, made):
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/extra:0", data=SIX, **made)
    assert "compressed, in pieces or in another file" in sentence(whole)


def test_a_small_file_cannot_claim_much(whole):
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/extra:0", (10**6, 10**6), "f4")  # never written
    tracemalloc.start()
    try:
        assert "claims 4000000000000 bytes and has 0" in sentence(whole)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_damaged_size_cannot_claim_much(whole):
    """The size of a tensor in its description, where HDF5 would believe it."""
    content = bytearray(whole.read_bytes())
    place = content.index(np.uint64([2, 3]).tobytes())
    content[place : place + 8] = np.uint64([2**40]).tobytes()
    whole.write_bytes(content)
    assert "claim" in sentence(whole) or "damaged" in sentence(whole)


def test_one_tensor_under_many_names_cannot_claim_much(whole):
    with h5py.File(whole, "a") as file:
        file.create_dataset("big:0", data=np.zeros(2000, np.float32))
        for number in range(40):
            file[f"conv1_conv/{number}:0"] = file["big:0"]
    assert "its tensors claim" in sentence(whole)


@pytest.mark.parametrize(
    "numbers",
    [
        np.array(["a", "b"], dtype=h5py.string_dtype()),
        np.array([b"ab", b"c"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(3, dtype=np.uint16),
    ],
    ids=["texts", "bytes", "records", "complex", "truth values", "unsigned"],
)
def test_what_is_not_numbers_is_refused(whole, numbers):
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/extra:0", data=numbers)
    assert "not of numbers" in sentence(whole)


def test_references_and_empty_spaces_are_refused(whole, tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(whole.read_bytes())
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/extra:0", data=file["conv1_conv"].ref, dtype=h5py.ref_dtype)
    assert "not of numbers" in sentence(whole)
    with h5py.File(other, "a") as file:
        file["conv1_conv/extra:0"] = h5py.Empty("f4")
    assert "not of numbers" in sentence(other)


def test_a_type_in_the_place_of_a_tensor_is_refused(whole):
    with h5py.File(whole, "a") as file:
        file["conv1_conv/extra:0"] = np.dtype("f4")
    assert "is not a tensor" in sentence(whole)


def test_one_name_for_two_tensors_is_refused(whole):
    with h5py.File(whole, "a") as file:
        file.create_dataset("conv1_conv/kernel:0", data=SIX)
    assert "two tensors called 'conv1_conv/kernel'" in sentence(whole)


def test_a_name_that_is_not_text_is_refused(whole):
    with h5py.File(whole, "a") as file:
        h5py.h5g.create(file["conv1_conv"].id, b"\xff\xfe")
    assert "something called" in sentence(whole)


def test_a_file_cut_anywhere_is_said_to_be_damaged(tmp_path):
    content = keras_h5.write(tmp_path / "x.h5", LAYERS, config=keras_h5.VGG).read_bytes()
    for length in range(9, len(content), len(content) // 40):
        (tmp_path / "cut.h5").write_bytes(content[:length])
        assert "looks like a Keras file (HDF5), but is damaged" in sentence(tmp_path / "cut.h5")


def test_a_damaged_file_never_gets_past_a_sentence(tmp_path):
    content = keras_h5.write(tmp_path / "x.h5", LAYERS, config=keras_h5.VGG).read_bytes()
    filled, generator, refused = np.flatnonzero(np.frombuffer(content, np.uint8)), np.random.default_rng(0), 0
    for _ in range(400):
        broken = bytearray(content)
        for _ in range(generator.integers(1, 4)):
            broken[max(int(generator.choice(filled)), 8)] = generator.integers(256)
        (tmp_path / "y.h5").write_bytes(broken)
        try:
            assert isinstance(read_tensors(tmp_path / "y.h5"), dict)
        except AlignvisError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused < 350
