"""VGG against its formula, written out on Keras's arrays, and the same weights from three kinds of file."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images.checkpoints import convert, shapes
from alignvis.images.containers import read_tensors
from alignvis.images.vgg import VGG
from tests import keras_h5
from tests.vit_files import pictures, relative

EXACT = 1e-9  # relative, in float64
FILE = Path("weights")
SMALL = VGG((2, 1, 3), (6, 8, 10), grid=3, hidden=16)


@pytest.fixture(scope="module")
def layers() -> keras_h5.Layers:
    return keras_h5.vgg(SMALL.convolutions, SMALL.widths, SMALL.grid, SMALL.hidden)


def by_formula(layers: keras_h5.Layers, pixels: Tensor) -> dict[str, Tensor]:
    """Channels last, as Keras has it: what enters the first dense layer is flattened row by row, channels innermost."""
    x, outputs, stage = pixels.permute(0, 2, 3, 1).double().numpy(), {}, 1
    while f"block{stage}_conv1" in layers:
        number = 1
        while f"block{stage}_conv{number}" in layers:
            layer = {part: array.astype(np.float64) for part, array in layers[f"block{stage}_conv{number}"].items()}
            rows, columns = x.shape[1:3]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = layer["bias"] + sum(
                padded[:, i : i + rows, j : j + columns] @ layer["kernel"][i, j] for i in range(3) for j in range(3)
            )
            x = np.maximum(x, 0)
            number += 1
        x = np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        outputs[f"layer.{stage}"] = torch.from_numpy(x.mean(axis=(1, 2)))
        stage += 1
    x = x.reshape(len(x), -1)
    for name in ("fc1", "fc2"):
        x = np.maximum(x @ layers[name]["kernel"].astype(np.float64) + layers[name]["bias"], 0)
    return {"embeddings": torch.from_numpy(x)} | outputs


def test_follows_the_formula(layers, tmp_path):
    file = keras_h5.write(tmp_path / "vgg16_harmonized.h5", layers, config=keras_h5.VGG)
    net = SMALL.build()
    net.load_state_dict(convert(read_tensors(file), SMALL, file))
    found = net.double().eval()(pictures(24).double(), layers=range(1, 4))
    theirs = by_formula(layers, pictures(24))
    assert found["embeddings"].shape == (2, SMALL.dim) and found.keys() == theirs.keys()
    assert all(relative(found[name], theirs[name]) < EXACT for name in theirs)
    assert 0.1 < (theirs["embeddings"] == 0).double().mean() < 0.9  # the last ReLU does something


def as_torchvision(layers: keras_h5.Layers) -> dict[str, Tensor]:
    """The names and orders of torchvision's file, which flattens channel by channel."""
    out, place = {}, 0
    for name, layer in layers.items():
        if name.startswith("block"):
            if name.endswith("conv1") and name != "block1_conv1":
                place += 1
            out[f"features.{place}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
            out[f"features.{place}.bias"] = torch.from_numpy(layer["bias"])
            place += 2
    first = layers["fc1"]["kernel"].reshape(SMALL.grid, SMALL.grid, -1, SMALL.hidden)
    first = first.transpose(3, 2, 0, 1).reshape(SMALL.hidden, -1)
    for number, kernel, bias in [
        (0, first, layers["fc1"]["bias"]),
        (3, layers["fc2"]["kernel"].T, layers["fc2"]["bias"]),
        (6, layers["predictions"]["kernel"].T, layers["predictions"]["bias"]),
    ]:
        out[f"classifier.{number}.weight"] = torch.from_numpy(kernel.copy())
        out[f"classifier.{number}.bias"] = torch.from_numpy(bias)
    return out


def as_timm(tv: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names, where the dense layers are convolutions."""
    out = {name: tensor for name, tensor in tv.items() if name.startswith("features")}
    for end in ("weight", "bias"):
        out[f"pre_logits.fc1.{end}"] = tv[f"classifier.0.{end}"]
        out[f"pre_logits.fc2.{end}"] = tv[f"classifier.3.{end}"]
        out[f"head.fc.{end}"] = tv[f"classifier.6.{end}"]
    out["pre_logits.fc1.weight"] = out["pre_logits.fc1.weight"].reshape(SMALL.hidden, -1, SMALL.grid, SMALL.grid)
    out["pre_logits.fc2.weight"] = out["pre_logits.fc2.weight"][..., None, None]
    return out


def test_three_kinds_of_file_give_the_same_parameters(layers):
    stored = {f"{layer}/{part}": torch.tensor(a) for layer, parts in layers.items() for part, a in parts.items()}
    tv = as_torchvision(layers)
    expected = convert(as_timm(tv), SMALL, FILE)
    assert expected.keys() == shapes(SMALL).keys()
    for found in (convert(tv, SMALL, FILE), convert(stored, SMALL, FILE)):
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_torchvisions_weights_in_torchvisions_operations(layers):
    """Convolution, ReLU and pool in torch's words, then matrices on the flattened map."""
    tv, x, pixels = as_torchvision(layers), pictures(24).double(), pictures(24).double()
    place = 0
    for count in SMALL.convolutions:
        for _ in range(count):
            x = F.conv2d(x, tv[f"features.{place}.weight"].double(), tv[f"features.{place}.bias"].double(), padding=1)
            x, place = F.relu(x), place + 2
        x, place = F.max_pool2d(x, 2), place + 1
    x = x.flatten(1)
    for number in (0, 3):
        weight, bias = (tv[f"classifier.{number}.{end}"].double() for end in ("weight", "bias"))
        x = F.relu(F.linear(x, weight, bias))
    net = SMALL.build()
    net.load_state_dict(convert(tv, SMALL, FILE))
    assert relative(net.double()(pixels)["embeddings"], x) < EXACT


def test_as_many_parameters_as_published():
    """138,357,544 with the classifier of 1,000 classes (Simonyan & Zisserman: 138 million), in 32 tensors."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in VGG().build().parameters())
    assert parameters + 4096 * 1000 + 1000 == 138_357_544
    assert len(shapes(VGG())) == 30 and (VGG().dim, VGG().depth) == (4096, 5)
    places = [int(name.split(".")[1]) for name in shapes(VGG()) if name.startswith("features") and "bias" in name]
    assert places == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (48, 48), (23, 23)])
def test_another_size_is_refused(shape):
    with pytest.raises(AlignvisError, match=f"reads pictures of 24 x 24 pixels, and was given {shape[0]} x {shape[1]}"):
        SMALL.build()(torch.zeros(1, 3, *shape))


def test_only_the_stages_asked_for_are_given_and_nobody_sees_the_others():
    net, pixels = keras_h5.randomise(SMALL.build()), pictures(24, count=3)
    found = net(pixels, layers=[2])
    assert set(found) == {"embeddings", "layer.2"} and set(net(pixels)) == {"embeddings"}
    assert relative(torch.cat([net(each[None])["embeddings"] for each in pixels]), found["embeddings"]) < 1e-5
