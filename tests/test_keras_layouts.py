"""Which file fits which encoder: Keras's names and orders, wrappers, wrong files, and what a whole model says."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ConvNextConfig, ConvNextModel, LevitConfig, LevitModel

from alignvis.errors import AlignvisError
from alignvis.images.checkpoints import convert, shapes
from alignvis.images.containers import read_tensors
from alignvis.images.convnext import ConvNeXt
from alignvis.images.levit import LeViT
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture
from tests import keras_h5
from tests.vit_files import as_dino, embed, pictures, random_model, read, relative, write

FILE = Path("harmonized.h5")
VIT = Architecture(8, 48, 3, 4, 4)
RESNET_V2 = ResNetV2((2, 3), 8)
CONVNEXT = ConvNeXt((1, 2), (8, 16))
VGG_SMALL = VGG((2, 1), (6, 8), grid=2, hidden=12)
LEVIT = LeViT((1, 1, 1), (32, 48, 64), (2, 3, 4), key=8, grid=3)
FAMILIES = {"vit": VIT, "resnet_v2": RESNET_V2, "convnext": CONVNEXT, "vgg": VGG_SMALL, "levit": LEVIT}


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> dict[str, Tensor]:
    """A vision transformer as transformers stores it."""
    return read(write(random_model(VIT), tmp_path_factory.mktemp("vit")))


@pytest.fixture(scope="module")
def families(hf) -> dict[str, keras_h5.Layers]:
    """One Keras file's contents of each family."""
    convnext = ConvNextModel(
        ConvNextConfig(hidden_sizes=list(CONVNEXT.widths), depths=list(CONVNEXT.blocks), num_stages=2)
    )
    levit = LevitModel(
        LevitConfig(
            image_size=48, hidden_sizes=LEVIT.widths, num_attention_heads=LEVIT.heads, depths=LEVIT.blocks,
            key_dim=(8, 8, 8),
        )
    )  # fmt: skip
    return {
        "vit": keras_h5.vit(hf, VIT.depth),
        "resnet_v2": keras_h5.resnet_v2(RESNET_V2.blocks, RESNET_V2.width),
        "convnext": keras_h5.convnext(keras_h5.randomise(convnext).state_dict(), CONVNEXT.blocks),
        "vgg": keras_h5.vgg(VGG_SMALL.convolutions, VGG_SMALL.widths, VGG_SMALL.grid, VGG_SMALL.hidden),
        "levit": keras_h5.levit(keras_h5.randomise(levit).state_dict(), LEVIT.blocks),
    }


def stored(layers: keras_h5.Layers, prefix: str = "") -> dict[str, Tensor]:
    """What the reader gives for a file of these layers."""
    return {
        f"{prefix}{layer}/{part}": torch.from_numpy(np.ascontiguousarray(numbers))
        for layer, parts in layers.items()
        for part, numbers in parts.items()
    }


# --- the vision transformer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["/", "_"])
def test_a_vision_transformer_of_vit_keras_equals_transformers(hf, between, tmp_path):
    file = keras_h5.write(tmp_path / "vit-b16_harmonized.h5", keras_h5.vit(hf, VIT.depth, between))
    net = VIT.build()
    net.load_state_dict(convert(read_tensors(file), VIT, file))
    model, pixels = random_model(VIT), pictures(32)
    assert relative(net.eval()(pixels)["embeddings"], embed(model, pixels, "norm")) <= 2e-6


def test_keras_and_pytorch_files_give_the_same_vision_transformer(hf, families):
    one, other = convert(stored(families["vit"]), VIT, FILE), convert(as_dino(hf), VIT, FILE)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_vision_transformer_of_timm_brings_its_classifier(hf):
    timm = as_dino(hf) | {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}
    assert convert(timm, VIT, FILE).keys() == shapes(VIT).keys()


# --- every family ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["model/", "module/", "a/b/"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_wrapped_is_the_same(families, family, prefix):
    one = convert(stored(families[family]), FAMILIES[family], FILE)
    other = convert(stored(families[family], prefix), FAMILIES[family], FILE)
    assert one.keys() == other.keys() == shapes(FAMILIES[family]).keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_is_read_twice_or_from_elsewhere(families, family):
    """Each number of the file, but for the classifier's, is in exactly one parameter."""
    tensors = stored(families[family])
    start = 0
    for name, tensor in tensors.items():
        tensors[name] = torch.arange(start, start + tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        start += tensor.numel()
    heads = [name for name in tensors if name.startswith(("predictions/", "head/"))]
    wanted = torch.cat([tensor.flatten() for name, tensor in tensors.items() if name not in heads])
    found = torch.cat([tensor.flatten() for tensor in convert(tensors, FAMILIES[family], FILE).values()])
    assert start < 2**24  # so that float32 tells all of them apart
    assert torch.equal(found.double().sort().values, wanted.sort().values) and len(heads) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_each_missing_tensor_is_missed(families, family):
    whole = stored(families[family])
    for name in whole:
        if not name.startswith(("predictions/", "head/")):
            with pytest.raises(AlignvisError, match=r"harmonized.h5 (lacks|holds)"):
                convert({other: whole[other] for other in whole if other != name}, FAMILIES[family], FILE)


@pytest.mark.parametrize("extra", ["post_bn_1/gamma", "stack9_block1_ln/gamma", "ema/kernel", "conv1_conv/scale"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_too_many_is_refused(families, family, extra):
    with pytest.raises(AlignvisError, match=rf"lacks 0 of the \d+ .* has 1 that were not .*{extra}"):
        convert(stored(families[family]) | {extra: torch.zeros(8)}, FAMILIES[family], FILE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_copy_is_refused(families, family):
    tensors = stored(families[family])
    with pytest.raises(AlignvisError, match="lacks 0 of .* that were not .*'average/"):
        convert(tensors | {f"average/{name}": tensor for name, tensor in tensors.items()}, FAMILIES[family], FILE)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_another_shape_and_numbers_that_are_none_are_refused(families, family):
    tensors = stored(families[family])
    name = next(name for name in reversed(tensors) if not name.startswith(("predictions/", "head/")))
    for shape in [(3,), (2, 3), (2, 3, 4, 5), (1,) * 9, ()]:
        with pytest.raises(AlignvisError, match="has shape .* was expected"):
            convert(tensors | {name: torch.zeros(shape)}, FAMILIES[family], FILE)
    with pytest.raises(AlignvisError, match="is not made of finite numbers"):
        convert(tensors | {name: torch.full_like(tensors[name], torch.nan)}, FAMILIES[family], FILE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_that_was_turned_already_is_refused(families, family):
    tensors = stored(families[family])
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and tensor.shape[-1] != tensor.shape[-2] and not name.startswith(("predictions/", "head/")):
            with pytest.raises(AlignvisError, match="was expected"):
                convert(tensors | {name: tensor.transpose(-1, -2)}, FAMILIES[family], FILE)


# --- the file of another model ---------------------------------------------------------------------------------------

CALLED = {
    "vit": "vision transformer",
    "resnet_v2": "ResNet of the second version",
    "convnext": "ConvNeXt",
    "vgg": "VGG",
    "levit": "LeViT",
}
PYTORCH = {  # a few tensors of the files of each family
    "vision transformer": ["cls_token", "blocks.0.norm1.weight"],
    "ResNet of CLIP": ["visual.attnpool.positional_embedding", "visual.layer1.0.conv1.weight", "logit_scale"],
    "ResNet": ["conv1.weight", "layer1.0.conv1.weight"],
    "ConvNeXt": ["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
    "VGG": ["features.0.weight", "classifier.0.weight"],
    "LeViT": ["stem.conv1.linear.weight", "stages.0.blocks.0.attn.attention_biases"],
}
EXPECTED = {
    "vision transformer": VIT,
    "ResNet of CLIP": ClipResNet(),
    "ResNet": ResNet(),
    "ResNet of the second version": RESNET_V2,
    "ConvNeXt": CONVNEXT,
    "VGG": VGG_SMALL,
    "LeViT": LEVIT,
}


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("given", CALLED)
def test_a_keras_file_of_another_family_is_named(families, given, expected):
    if CALLED[given] != expected:
        with pytest.raises(
            AlignvisError, match=rf"^harmonized.h5 is a Keras file of a {CALLED[given]}, and a {expected} was expected"
        ):
            convert(stored(families[given]), EXPECTED[expected], FILE)


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("given", PYTORCH)
def test_a_pytorch_file_of_another_family_is_named(given, expected):
    if given != expected:
        with pytest.raises(
            AlignvisError, match=rf"^harmonized.h5 is a PyTorch file of a {given}, and a {expected} was expected"
        ):
            convert({name: torch.zeros(3) for name in PYTORCH[given]}, EXPECTED[expected], FILE)


@pytest.mark.parametrize("architecture", [RESNET_V2, ResNet(), VIT], ids=["v2", "v1.5", "vit"])
def test_the_first_version_of_keras_resnet_is_taken_for_no_other(architecture):
    first = {"conv1_conv/kernel": (7, 7, 3, 64), "conv1_bn/gamma": (64,), "conv2_block1_0_bn/gamma": (256,)}
    with pytest.raises(AlignvisError, match="is a Keras file of a ResNet of the first version, and a"):
        convert({name: torch.zeros(shape) for name, shape in first.items()}, architecture, FILE)


def test_the_kind_of_file_that_is_published_is_named(families):
    with pytest.raises(AlignvisError, match="in a file from one of OpenAI, OpenCLIP; this is the file of another"):
        convert(stored(families["resnet_v2"]), ClipResNet(), FILE)
    with pytest.raises(AlignvisError, match="in a file from one of Keras, Harmonization; this is the file of another"):
        convert({"layer1.0.conv1.weight": torch.zeros(3)}, RESNET_V2, FILE)


@pytest.mark.parametrize("architecture", EXPECTED.values(), ids=EXPECTED)
@pytest.mark.parametrize("name", ["block1a_dwconv/depthwise_kernel", "features.conv0.weight", "weight"])
def test_what_is_of_no_family_shows_its_first_tensors(architecture, name):
    with pytest.raises(AlignvisError, match=f"holds no .* in a layout that is known here .* first tensors are {name}"):
        convert({name: torch.zeros(3)}, architecture, FILE)


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("resnet_v2", {"blocks": (2, 4)}),
        ("resnet_v2", {"blocks": (2, 3, 2)}),
        ("convnext", {"blocks": (2, 2)}),
        ("convnext", {"widths": (8, 24)}),
        ("vgg", {"hidden": 16}),
        ("vgg", {"grid": 3}),
        ("vgg", {"convolutions": (2, 2)}),
        ("levit", {"grid": 6}),
        ("levit", {"heads": (4, 3, 4)}),
        ("levit", {"blocks": (1, 2, 1)}),
        ("vit", {"depth": 4}),
        ("vit", {"width": 96}),
        ("vit", {"grid": 5}),
    ],
)
def test_another_size_of_a_family_is_refused(families, family, changed):
    with pytest.raises(AlignvisError, match="harmonized.h5.*(expected|that were not)"):
        convert(stored(families[family]), replace(FAMILIES[family], **changed), FILE)


# --- what a whole model says of its layers ---------------------------------------------------------------------------

CONVNEXT_CONFIG = keras_h5.model(
    "convnext_tiny",
    ("Conv2D", "stem_conv", {"strides": [4, 4], "activation": "linear", "data_format": "channels_last"}),
    ("LayerNormalization", "stem_ln", {"epsilon": 1e-06}),
    ("ZeroPadding2D", "stack1_block1_dw_pad", {"padding": [[3, 3], [3, 3]]}),
    ("DepthwiseConv2D", "stack1_block1_dw_conv", {"strides": [1, 1], "activation": "linear"}),
    ("Dense", "stack1_block1_up_dense", {"activation": "linear"}),
    ("Activation", "stack1_block1_gelu", {"activation": "gelu"}),
    ("resmlp>ChannelAffine", "stack1_block1_gamma", {"axis": -1}),
    ("Conv2D", "stack2_downsample_conv", {"strides": [2, 2], "activation": "linear"}),
    ("Dense", "predictions", {"activation": "softmax"}),
)
HARD_SWISH = {"module": "builtins", "class_name": "function", "config": "kecamCommon>hard_swish"}
LEVIT_CONFIG = keras_h5.model(
    "levit128",
    ("ZeroPadding2D", "stem_1_pad", {"padding": [[1, 1], [1, 1]]}),
    ("Conv2D", "stem_1_conv", {"strides": [2, 2], "activation": "linear"}),
    ("BatchNormalization", "stem_1_bn", {"epsilon": 1e-05}),
    ("Activation", "stem_1_hard_swish", {"activation": HARD_SWISH}),
    ("Lambda", "lambda", {"function": ["4wEAAAAAAAAA", None, None]}),
    ("Dense", "stack1_block1_qkv", {"activation": "linear"}),
    ("Activation", "stack1_output", {"activation": "linear"}),
    ("Dense", "head", {"activation": "softmax"}),
)
VIT_CONFIG = keras_h5.model(
    "vit-b16",
    ("Conv2D", "embedding", {"strides": [8, 8], "padding": "valid", "activation": "linear"}),
    ("Custom>ClassToken", "class_token", {}),
    ("Custom>TransformerBlock", "Transformer/encoderblock_0", {"num_heads": 4, "mlp_dim": 192, "dropout": 0.1}),
    ("LayerNormalization", "Transformer/encoder_norm", {"epsilon": 1e-06}),
)
CONFIGS = {
    "vit": VIT_CONFIG,
    "resnet_v2": keras_h5.RESNET_V2,
    "convnext": CONVNEXT_CONFIG,
    "vgg": keras_h5.VGG,
    "levit": LEVIT_CONFIG,
}


def edited(config: dict[str, Any], layer: str, setting: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    (one,) = (each for each in config["config"]["layers"] if each["config"]["name"] == layer)
    one["config"][setting] = value
    return config


@pytest.fixture(scope="module")
def sizes() -> dict[str, Any]:
    """Architectures that the configurations above describe; the second version's halving block is its third."""
    return FAMILIES | {"vit": replace(VIT, heads=4), "resnet_v2": ResNetV2((3, 2), 8)}


@pytest.fixture(scope="module")
def contents(families) -> dict[str, dict[str, Tensor]]:
    layers = families | {"resnet_v2": keras_h5.resnet_v2((3, 2), 8)}
    return {family: stored(each) for family, each in layers.items()}


@pytest.mark.parametrize("wrap", [lambda config: config, lambda config: keras_h5.model("outer") | {
    "config": {"name": "outer", "layers": [config]}}], ids=["plain", "nested"])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_that_says_what_is_computed_is_taken(sizes, contents, family, wrap: Callable):
    whole = {"model_config": wrap(CONFIGS[family]), "model_weights": contents[family]}
    one, other = convert(whole, sizes[family], FILE), convert(contents[family], sizes[family], FILE)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("family", "layer", "setting", "value"),
    [
        ("resnet_v2", "conv2_block1_preact_bn", "epsilon", 1e-3),
        ("resnet_v2", "conv2_block1_preact_bn", "epsilon", 1e-5),
        ("resnet_v2", "conv2_block1_preact_bn", "epsilon", None),
        ("resnet_v2", "conv2_block1_preact_relu", "activation", "elu"),
        ("resnet_v2", "conv1_pad", "padding", [[1, 1], [1, 1]]),
        ("resnet_v2", "pool1_pad", "padding", [[3, 3], [3, 3]]),
        ("resnet_v2", "pool1_pad", "data_format", "channels_first"),
        ("resnet_v2", "conv2_block3_2_pad", "padding", [[0, 1], [0, 1]]),
        ("resnet_v2", "pool1_pool", "pool_size", [2, 2]),
        ("resnet_v2", "pool1_pool", "padding", "same"),
        ("resnet_v2", "max_pooling2d", "pool_size", [3, 3]),
        ("resnet_v2", "conv1_conv", "strides", [1, 1]),
        ("resnet_v2", "conv2_block1_2_conv", "strides", [2, 2]),
        ("resnet_v2", "conv2_block3_2_conv", "strides", [1, 1]),
        ("resnet_v2", "conv2_block3_2_conv", "activation", "relu"),
        ("resnet_v2", "conv2_block3_2_conv", "padding", "same"),
        ("resnet_v2", "conv2_block1_2_conv", "dilation_rate", [2, 2]),
        ("vgg", "fc1", "activation", "linear"),
        ("vgg", "fc2", "activation", "linear"),
        ("vgg", "block1_conv1", "activation", "linear"),
        ("vgg", "block1_conv1", "padding", "valid"),
        ("vgg", "block1_pool", "pool_size", [3, 3]),
        ("vgg", "flatten", "data_format", "channels_first"),
        ("convnext", "stem_ln", "epsilon", 1e-5),
        ("convnext", "stack1_block1_gelu", "activation", "relu"),
        ("convnext", "stack1_block1_up_dense", "activation", "gelu"),
        ("convnext", "stem_conv", "strides", [2, 2]),
        ("convnext", "stack2_downsample_conv", "strides", [1, 1]),
        ("convnext", "stack1_block1_dw_pad", "padding", [[2, 2], [2, 2]]),
        ("levit", "stem_1_bn", "epsilon", 1e-3),
        ("levit", "stem_1_hard_swish", "activation", "swish"),
        ("levit", "stem_1_hard_swish", "activation", HARD_SWISH | {"config": "kecamCommon>hard_sigmoid"}),
        ("levit", "stack1_output", "activation", "relu"),
        ("levit", "stem_1_pad", "padding", [[0, 1], [0, 1]]),
        ("vit", "Transformer/encoder_norm", "epsilon", 1e-5),
        ("vit", "Transformer/encoderblock_0", "num_heads", 3),
        ("vit", "embedding", "strides", [16, 16]),
    ],
)
def test_a_whole_model_that_says_something_else_is_refused(sizes, contents, family, layer, setting, value):
    whole = {"model_config": edited(CONFIGS[family], layer, setting, value), "model_weights": contents[family]}
    with pytest.raises(AlignvisError, match=rf"the layer '{layer}' has the {setting} .* and .* was expected"):
        convert(whole, sizes[family], FILE)


@pytest.mark.parametrize("kind", ["Rescaling", "Normalization"])
def test_a_model_that_prepares_its_pictures_itself_is_refused(sizes, contents, kind):
    config = copy.deepcopy(keras_h5.RESNET_V2)
    config["config"]["layers"].insert(1, {"class_name": kind, "config": {"name": "before", "scale": 0.1}})
    with pytest.raises(AlignvisError, match="prepares its pictures itself, in the layer 'before'"):
        convert({"model_config": config, "model_weights": contents["resnet_v2"]}, sizes["resnet_v2"], FILE)


@pytest.mark.parametrize("layers", [[3], [None], [[]], [{"class_name": "Dense"}], [{"config": []}]])
def test_a_configuration_of_another_make_is_refused(sizes, contents, layers):
    config = {"class_name": "Functional", "config": {"name": "x", "layers": layers}}
    with pytest.raises(AlignvisError, match="describes its model in a way that is not Keras's"):
        convert({"model_config": config, "model_weights": contents["vgg"]}, sizes["vgg"], FILE)


def test_a_configuration_that_contains_itself_comes_to_an_end(sizes, contents):
    config: dict[str, Any] = {"class_name": "Functional", "config": {"name": "x"}}
    config["config"]["layers"] = [config, config]
    with pytest.raises(AlignvisError, match="describes its model in a way that is not Keras's"):
        convert({"model_config": config, "model_weights": contents["vgg"]}, sizes["vgg"], FILE)
