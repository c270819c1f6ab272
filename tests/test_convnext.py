"""ConvNeXt against transformers, through timm's file and through Keras's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel

from alignvis.images.checkpoints import convert, shapes
from alignvis.images.containers import read_tensors
from alignvis.images.convnext import ConvNeXt
from tests import keras_h5
from tests.vit_files import pictures, relative

EXACT = 1e-9  # relative, in float64: an eps of 1e-5 in the place of 1e-6 is far outside
SMALL = ConvNeXt((1, 2, 3, 1), (8, 16, 24, 32))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    config = ConvNextConfig(hidden_sizes=list(SMALL.widths), depths=list(SMALL.blocks), layer_norm_eps=1e-6)
    return keras_h5.randomise(ConvNextModel(config))


def as_timm(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of timm's file, with its classifier."""
    out = {"head.fc.weight": torch.zeros(10, 32), "head.fc.bias": torch.zeros(10)}
    for name, tensor in hf.items():
        where, end = name.split("."), name.rpartition(".")[2]
        if where[0] == "embeddings":
            new = f"stem.{0 if where[1] == 'patch_embeddings' else 1}.{end}"
        elif where[0] == "layernorm":
            new = f"head.norm.{end}"
        elif where[3] == "downsampling_layer":
            new = f"stages.{where[2]}.downsample.{where[4]}.{end}"
        else:
            parts = {"dwconv": "conv_dw", "layernorm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
            inner = "gamma" if end == "layer_scale_parameter" else f"{parts[where[5]]}.{end}"
            new = f"stages.{where[2]}.blocks.{where[4]}.{inner}"
        out[new] = tensor
    return out


@pytest.mark.parametrize("container", ["timm", "keras"])
def test_equals_transformers(model, container, tmp_path):
    hf = model.state_dict()
    if container == "timm":
        file = tmp_path / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in as_timm(hf).items()}, file)
    else:
        file = keras_h5.write(tmp_path / "convnext_tiny_harmonized.h5", keras_h5.convnext(hf, SMALL.blocks))
    net = SMALL.build()
    net.load_state_dict(convert(read_tensors(file), SMALL, file))
    pixels = pictures(96)
    found = net.eval()(pixels, layers=range(1, 5))
    theirs = model(pixels, output_hidden_states=True)
    assert found["embeddings"].shape == (2, SMALL.dim)
    assert relative(found["embeddings"], theirs.pooler_output) < 1e-5

    found = net.double()(pixels.double(), layers=range(1, 5))
    theirs = model.double()(pixels.double(), output_hidden_states=True)
    model.float()
    assert relative(found["embeddings"], theirs.pooler_output) < EXACT
    assert set(found) == {"embeddings", *(f"layer.{number}" for number in range(1, 5))}
    for number, each in enumerate(theirs.hidden_states[-4:], 1):
        assert relative(found[f"layer.{number}"], each.mean(dim=(2, 3))) < EXACT


def test_as_many_parameters_as_published():
    """28,589,128 with the classifier of 1,000 classes (timm's model card); both kinds of file hold 182 tensors."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in ConvNeXt().build().parameters())
    assert parameters + 768 * 1000 + 1000 == 28_589_128
    assert len(shapes(ConvNeXt())) == 180
    assert (ConvNeXt().dim, ConvNeXt().depth, ConvNeXt().eps) == (768, 4, 1e-6)


def test_only_the_stages_asked_for_are_given_and_nobody_sees_the_others():
    net, pixels = keras_h5.randomise(SMALL.build()), pictures(64, count=3)
    found = net(pixels, layers=[2])
    assert set(found) == {"embeddings", "layer.2"} and set(net(pixels)) == {"embeddings"}
    assert relative(torch.cat([net(each[None])["embeddings"] for each in pixels]), found["embeddings"]) < 1e-5


def test_a_file_of_timm_and_one_of_keras_give_the_same_parameters(model):
    hf, file = model.state_dict(), Path("weights")
    layers = keras_h5.convnext(hf, SMALL.blocks)
    stored = {f"{layer}/{part}": torch.tensor(a) for layer, parts in layers.items() for part, a in parts.items()}
    one, other = convert(as_timm(hf), SMALL, file), convert(stored, SMALL, file)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
