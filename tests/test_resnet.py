"""ResNets against transformers (v1.5) and against the formulas written out on the tensors of a file (CLIP, Keras)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from alignvis.errors import AlignvisError
from alignvis.images.checkpoints import convert, shapes
from alignvis.images.containers import read_tensors
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.resnet_v2 import ResNetV2
from tests import keras_h5
from tests.vit_files import pictures, relative

EXACT = 1e-9  # relative, in float64: small enough to tell eps 1e-5 from 1.001e-5
FILE = Path("weights.pth")
SMALL = ResNet((2, 1, 2), 8)
SMALL_CLIP = ClipResNet((2, 1, 2), 8, heads=4, projection=24, grid=3)
SMALL_V2 = ResNetV2((2, 3, 2), 8)


def network(stored: dict, architecture: ResNet | ClipResNet | ResNetV2, file: Path = FILE) -> nn.Module:
    """Our network in float64, of what a file holds."""
    net = architecture.build()
    net.load_state_dict(convert(stored, architecture, file))
    return net.double().eval()


def alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(relative(ours[name], theirs[name]) < EXACT for name in theirs)


def means(maps: list[Tensor]) -> dict[str, Tensor]:
    return {f"layer.{number}": each.mean(dim=(2, 3)) for number, each in enumerate(maps, 1)}


# --- v1.5, torchvision's names ---------------------------------------------------------------------------------------


def random_resnet(architecture: ResNet) -> nn.Module:
    widths = [4 * architecture.width * 2**stage for stage in range(architecture.depth)]
    return keras_h5.randomise(
        ResNetModel(
            ResNetConfig(
                embedding_size=architecture.width,
                hidden_sizes=widths,
                depths=list(architecture.blocks),
                layer_type="bottleneck",
            )
        )
    )


def as_torchvision(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of torchvision's and timm's files, with a classifier."""
    out = {}
    for name, tensor in hf.items():
        end = name.rpartition(".")[2]
        where = name.split(".")
        if where[0] == "embedder":
            out[f"{'conv1' if where[2] == 'convolution' else 'bn1'}.{end}"] = tensor
            continue
        _, _, stage, _, block, kind, *rest = where
        new = f"layer{int(stage) + 1}.{block}"
        if kind == "shortcut":
            out[f"{new}.downsample.{0 if rest[0] == 'convolution' else 1}.{end}"] = tensor
        else:
            out[f"{new}.{'conv' if rest[1] == 'convolution' else 'bn'}{int(rest[0]) + 1}.{end}"] = tensor
    return out | {"fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}


def test_a_resnet_equals_transformers():
    model = random_resnet(SMALL)
    net, pixels = network(as_torchvision(model.state_dict()), SMALL), pictures(96).double()
    theirs = model.double()(pixels, output_hidden_states=True)
    found = net(pixels, layers=range(1, 4))
    assert found["embeddings"].shape == (2, SMALL.dim)
    assert alike(found, {"embeddings": theirs.pooler_output.flatten(1)} | means(theirs.hidden_states[1:]))


def test_a_resnet_50_has_the_published_number_of_parameters_and_320_entries():
    """25,557,032 with the classifier (torchvision's documentation); 53 counters stand among the file's entries."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in ResNet().build().parameters())
    assert parameters + 2048 * 1000 + 1000 == 25_557_032
    assert len(shapes(ResNet())) + 53 + 2 == 320 and ResNet().dim == 2048 and ResNet().depth == 4
    assert ResNet().eps == 1e-5


# --- CLIP, OpenAI's names --------------------------------------------------------------------------------------------


def random_clip(architecture: ClipResNet) -> dict[str, Tensor]:
    """OpenAI's file: halves where theirs has them, counters, and the text tower beside."""
    generator, width = np.random.default_rng(0), architecture.width
    out: dict[str, Tensor] = {}

    def put(name: str, part: str, *shape: int) -> None:
        out[f"visual.{name}"] = torch.from_numpy(keras_h5.numbers(part, shape, generator))

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        put(name, "kernel", size, size, inputs, outputs)
        out[f"visual.{name}"] = out[f"visual.{name}"].permute(3, 2, 0, 1).contiguous().half()

    def norm(name: str, channels: int) -> None:
        for part, ours in (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean")):
            put(f"{name}.{ours}", part, channels)
        put(f"{name}.running_var", "moving_variance", channels)
        out[f"visual.{name}.num_batches_tracked"] = torch.tensor(7)

    inputs = 3
    for number, outputs in enumerate((width // 2, width // 2, width), 1):
        conv(f"conv{number}.weight", inputs, outputs, 3)
        norm(f"bn{number}", outputs)
        inputs = outputs
    for stage, blocks in enumerate(architecture.blocks, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, (a, b, size) in enumerate([(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)], 1):
                conv(f"{name}.conv{number}.weight", a, b, size)
                norm(f"{name}.bn{number}", b)
            if block == 0:
                conv(f"{name}.downsample.0.weight", inputs, 4 * width, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
        width *= 2
    put("attnpool.positional_embedding", "beta", architecture.grid**2 + 1, inputs)
    for part, outputs in [(f"{part}_proj", inputs) for part in "qkv"] + [("c_proj", architecture.projection)]:
        put(f"attnpool.{part}.weight", "kernel", inputs, outputs)
        # Several times as large as they would be, so that attention is not the mean of everything.
        out[f"visual.attnpool.{part}.weight"] = (3 * out[f"visual.attnpool.{part}.weight"].T).contiguous().half()
        put(f"attnpool.{part}.bias", "beta", outputs)
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "positional_embedding": torch.ones(2, 3)}
    return out | text | {"logit_scale": torch.zeros(()), "input_resolution": torch.tensor(224)}


def clip_by_formula(stored: dict[str, Tensor], pixels: Tensor, heads: int) -> dict[str, Tensor]:
    w = {name.removeprefix("visual."): tensor.double() for name, tensor in stored.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, gain, bias = (
            w[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * gain + bias

    def average(x: Tensor) -> Tensor:
        return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4

    x = pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = norm(f"bn{number}", F.conv2d(x, w[f"conv{number}.weight"], stride=stride, padding=1)).clamp(min=0)
    x, maps, stage = average(x), [], 1
    while f"layer{stage}.0.conv1.weight" in w:
        block = 0
        while (name := f"layer{stage}.{block}") + ".conv1.weight" in w:
            halves = stage > 1 and block == 0
            main = norm(f"{name}.bn1", F.conv2d(x, w[f"{name}.conv1.weight"])).clamp(min=0)
            main = norm(f"{name}.bn2", F.conv2d(main, w[f"{name}.conv2.weight"], padding=1)).clamp(min=0)
            main = norm(f"{name}.bn3", F.conv2d(average(main) if halves else main, w[f"{name}.conv3.weight"]))
            if block == 0:
                x = average(x) if halves else x
                x = norm(f"{name}.downsample.1", F.conv2d(x, w[f"{name}.downsample.0.weight"]))
            x = (main + x).clamp(min=0)
            block += 1
        maps.append(x)
        stage += 1
    places = torch.stack([x[:, :, row, column] for row in range(x.shape[2]) for column in range(x.shape[3])], dim=1)
    tokens = torch.cat([places.mean(1, keepdim=True), places], dim=1) + w["attnpool.positional_embedding"]
    q, k, v = (tokens @ w[f"attnpool.{part}_proj.weight"].T + w[f"attnpool.{part}_proj.bias"] for part in "qkv")
    size, mixed = q.shape[2] // heads, []
    for start in range(0, q.shape[2], size):
        part = slice(start, start + size)
        scores = torch.einsum("bc,btc->bt", q[:, 0, part], k[:, :, part]) / size**0.5
        mixed.append(torch.einsum("bt,btc->bc", scores.softmax(dim=1), v[:, :, part]))
    result = torch.cat(mixed, dim=1) @ w["attnpool.c_proj.weight"].T + w["attnpool.c_proj.bias"]
    return {"embeddings": result} | means(maps)


def test_clips_resnet_follows_the_formula(tmp_path):
    stored, pixels = random_clip(SMALL_CLIP), pictures(48).double()
    torch.save(stored, tmp_path / "RN50.pt")
    net = network(read_tensors(tmp_path / "RN50.pt"), SMALL_CLIP, tmp_path / "RN50.pt")
    found = net(pixels, layers=range(1, 4))
    assert found["embeddings"].shape == (2, SMALL_CLIP.dim)
    assert alike(found, clip_by_formula(stored, pixels, heads=4))


def test_clips_resnet_50_has_the_published_number_of_entries():
    """339 with the 55 counters, as OpenAI's RN50.pt."""
    stored = random_clip(ClipResNet(width=8, heads=4))
    assert sum(name.startswith("visual.") for name in stored) == 339
    assert len(shapes(ClipResNet())) == 339 - 55
    assert (ClipResNet().dim, ClipResNet().depth, ClipResNet().eps) == (1024, 4, 1e-5)
    assert ClipResNet().heads == 32  # of 64 channels each, which no shape shows
    assert shapes(ClipResNet())["attnpool.positional_embedding"] == (50, 2048)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (96, 96), (47, 47)])
def test_clips_resnet_refuses_another_size(shape):
    with pytest.raises(AlignvisError, match=f"reads pictures of 48 x 48 pixels, and was given {shape[0]} x {shape[1]}"):
        SMALL_CLIP.build()(torch.zeros(1, 3, *shape))


# --- version 2, Keras's names ----------------------------------------------------------------------------------------


def v2_by_formula(layers: keras_h5.Layers, pixels: Tensor, blocks: tuple[int, ...]) -> dict[str, Tensor]:
    """From Keras's arrays: kernels are (rows, columns, in, out)."""

    def array(layer: str, part: str) -> Tensor:
        return torch.from_numpy(layers[layer][part]).double()

    def conv(layer: str, x: Tensor, stride: int = 1, pad: int = 0) -> Tensor:
        x = F.conv2d(F.pad(x, (pad,) * 4), array(layer, "kernel").permute(3, 2, 0, 1), stride=stride)
        return x + array(layer, "bias").reshape(1, -1, 1, 1) if "bias" in layers[layer] else x

    def norm(layer: str, x: Tensor) -> Tensor:
        mean, variance, gain, bias = (
            array(layer, part).reshape(1, -1, 1, 1) for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return ((x - mean) / (variance + 1.001e-5).sqrt() * gain + bias).clamp(min=0)  # ReLU follows each of them

    x = conv("conv1_conv", pixels, 2, 3)
    padded = F.pad(x, (1, 1, 1, 1))  # with zeros, which win over negative values
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    x, maps = windows.amax(dim=(4, 5)), []
    for stage, count in enumerate(blocks, 2):
        for block in range(1, count + 1):
            name = f"conv{stage}_block{block}"
            stride = 2 if block == count and stage < len(blocks) + 1 else 1
            before = norm(f"{name}_preact_bn", x)
            shortcut = conv(f"{name}_0_conv", before) if block == 1 else F.max_pool2d(x, 1, stride)
            main = norm(f"{name}_1_bn", conv(f"{name}_1_conv", before))
            main = norm(f"{name}_2_bn", conv(f"{name}_2_conv", main, stride, 1))
            x = shortcut + conv(f"{name}_3_conv", main)
        maps.append(x)
    return {"embeddings": norm("post_bn", x).mean(dim=(2, 3))} | means(maps)


def test_resnet_v2_follows_the_formula(tmp_path):
    layers, pixels = keras_h5.resnet_v2(SMALL_V2.blocks, SMALL_V2.width), pictures(72).double()
    file = keras_h5.write(tmp_path / "resnet50v2_harmonized.h5", layers)
    found = network(read_tensors(file), SMALL_V2, file)(pixels, layers=range(1, 4))
    theirs = v2_by_formula(layers, pixels, SMALL_V2.blocks)
    assert theirs["layer.3"].min() < 0  # there is no ReLU after the sum
    assert found["embeddings"].shape == (2, SMALL_V2.dim) and alike(found, theirs)


def test_resnet_50_v2_has_the_published_number_of_tensors():
    """272 with the classifier, whose two are dropped."""
    layers = keras_h5.resnet_v2((3, 4, 6, 3), 8)
    assert sum(map(len, layers.values())) == 272 and len(shapes(ResNetV2())) == 270
    assert (ResNetV2().dim, ResNetV2().depth, ResNetV2().eps) == (2048, 4, 1.001e-5)
    stored = {f"{layer}/{part}": torch.from_numpy(a) for layer, parts in layers.items() for part, a in parts.items()}
    assert len(convert(stored, ResNetV2(width=8), FILE)) == 270


# --- all three -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [SMALL, SMALL_CLIP, SMALL_V2], ids=["resnet", "clip", "v2"])
def test_only_the_stages_asked_for_are_given_and_nobody_sees_the_others(architecture):
    net, pixels = keras_h5.randomise(architecture.build()), pictures(48, count=3)
    found = net(pixels, layers=[2])
    assert set(found) == {"embeddings", "layer.2"} and set(net(pixels)) == {"embeddings"}
    assert relative(torch.cat([net(each[None])["embeddings"] for each in pixels]), found["embeddings"]) < 1e-5
