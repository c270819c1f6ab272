"""Every layout of the same weights gives the same parameters, and no file is taken for what it is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images import catalogue
from alignvis.images.checkpoints import convert, shapes
from alignvis.images.encoder import network
from alignvis.images.vit import Architecture
from alignvis.images.weights import read_tensors
from tests.vit_files import as_dino, as_dreamsim, as_openai, embed, pictures, random_model, read, relative, write

FILE = Path("weights.pth")


def small(architecture: Architecture) -> Architecture:
    """As published, but three blocks of a quarter of the width, and a small table of positions."""
    return replace(architecture, width=192, heads=3, depth=3, grid=4)


CLIP, DINO, DINOV2 = small(catalogue.CLIP_B32), small(catalogue.DINO_B16), small(catalogue.DINOV2_B14)


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> dict[str, dict[str, Tensor]]:
    """What transformers writes for one random model of each family."""
    folder = tmp_path_factory.mktemp("hf")
    families = {"clip": CLIP, "dino": DINO, "dinov2": DINOV2}
    return {name: read(write(random_model(each), folder / name)) for name, each in families.items()}


@pytest.mark.parametrize("architecture", [CLIP, DINO, DINOV2], ids=["clip", "dino", "dinov2"])
def test_an_official_file_gives_what_transformers_gives(architecture, tmp_path):
    model, pixels = random_model(architecture, seed=1), pictures(architecture.grid * architecture.patch)
    hf = read(write(model, tmp_path))
    file = tmp_path / "official.pth"
    torch.save(as_openai(hf) if architecture is CLIP else as_dino(hf), file)
    vit = network(architecture, convert(read_tensors(file), architecture, file))
    assert relative(vit(pixels)["embeddings"], embed(model, pixels, architecture.output)) <= 2e-6


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


TEXT = {"text_projection": torch.zeros(2, 2), "logit_scale": torch.zeros(()), "input_resolution": torch.tensor(224)}
HF_TEXT = {"text_model.final_layer_norm.bias": torch.zeros(2), "text_projection.weight": torch.zeros(2, 2)}
POSITIONS = {"vision_model.embeddings.position_ids": torch.arange(17)[None], "logit_scale": torch.zeros(())}
HEAD = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}


def student(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return prefixed("module.backbone.", {name: tensor + 1 for name, tensor in tensors.items()})


CONTAINERS: list[tuple[str, str, Callable[[dict[str, Tensor]], dict]]] = [
    ("clip", "OpenAI with its text tower", lambda hf: as_openai(hf) | TEXT),
    ("clip", "OpenCLIP as trained", lambda hf: {"epoch": 31, "state_dict": prefixed("module.", as_openai(hf) | TEXT)}),
    ("clip", "DreamSim", lambda hf: {"state_dict": as_dreamsim(hf)}),
    ("clip", "whole CLIPModel", lambda hf: hf | HF_TEXT | POSITIONS),
    ("dino", "Meta", as_dino),
    ("dino", "SynCLR", lambda hf: {"model": prefixed("module.visual.", as_dino(hf)), "epoch": 1}),
    ("dino", "SynCLR otherwise", lambda hf: {"state_dict": prefixed("visual.", as_dino(hf) | HEAD)}),
    (
        "dino",
        "Meta with student and teacher",
        lambda hf: {
            "student": student(as_dino(hf)),
            "teacher": prefixed("backbone.", as_dino(hf)) | HEAD,
            "epoch": 400,
        },
    ),
    ("dino", "classifier of transformers", lambda hf: prefixed("vit.", hf) | {"classifier.weight": torch.zeros(2, 2)}),
    ("dino", "with pooler", lambda hf: hf | {"pooler.dense.weight": torch.zeros(2, 2)}),
    ("dinov2", "Meta", as_dino),
    ("dinov2", "classifier of transformers", lambda hf: prefixed("dinov2.", hf) | {"classifier.bias": torch.zeros(2)}),
]


@pytest.mark.parametrize(("family", "name", "wrap"), CONTAINERS, ids=[f"{each[0]}-{each[1]}" for each in CONTAINERS])
def test_every_container_holds_the_same_parameters(hf, family, name, wrap):
    architecture = {"clip": CLIP, "dino": DINO, "dinov2": DINOV2}[family]
    expected = convert(hf[family], architecture, FILE)
    found = convert(wrap(hf[family]), architecture, FILE)
    assert found.keys() == expected.keys() == shapes(architecture).keys()
    for name, tensor in expected.items():
        assert tensor.dtype == torch.float32 and torch.equal(found[name], tensor), name


def test_half_precision_becomes_single(hf):
    half = {name: tensor.half() for name, tensor in as_openai(hf["clip"]).items()}
    found = convert(half, CLIP, FILE)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert torch.equal(
        found["blocks.1.attn.qkv.weight"], half["visual.transformer.resblocks.1.attn.in_proj_weight"].float()
    )


@pytest.mark.parametrize(
    ("architecture", "family", "official", "hub"),
    [
        (catalogue.CLIP_B32, "clip", 152, 8 + 16 * 12),
        (catalogue.CLIP_L14, "clip", 296, 8 + 16 * 24),
        (catalogue.DINO_B16, "dino", 150, 198),
        (catalogue.DINOV2_B14, "dino", 175, 223),
        (catalogue.DINOV2_L14, "dino", 343, 439),
    ],
)
def test_as_many_tensors_as_the_published_files_have(architecture, family, official, hub, tmp_path):
    """Only the number of blocks counts here, so they are narrow."""
    hf = read(write(random_model(replace(architecture, width=32, heads=1, grid=2)), tmp_path))
    assert len(hf) == hub
    renamed = as_openai(hf) if family == "clip" else as_dino(hf)
    assert len(renamed) == official
    # DINOv2's mask token is read by nobody; CLIP has no bias in its patch embedding, ours is zero.
    extra = ("mask_token" in renamed) - (family == "clip")
    assert len(shapes(architecture)) == official - extra


def test_dreamsims_clip_has_153_tensors(tmp_path):
    hf = read(write(random_model(replace(catalogue.CLIP_B32, width=32, heads=1)), tmp_path))
    assert (
        as_dreamsim(hf).keys() == {name.replace("norm_pre", "pos_drop") for name in shapes(catalogue.CLIP_B32)}
        and len(as_dreamsim(hf)) == 153
    )


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_student_is_never_taken(hf):
    with pytest.raises(AlignvisError, match="weights.pth holds the student .* no teacher.*https://dl.fbaipublicfiles"):
        convert({"student": student(as_dino(hf["dino"])), "epoch": 1}, DINO, FILE)


def test_a_bare_student_of_dreamsims_archive_is_not_taken_either(hf):
    with pytest.raises(AlignvisError, match="holds the student"):
        convert({"student": prefixed("module.", HEAD)}, DINO, FILE)


def test_each_missing_tensor_is_missed(hf):
    for layout, architecture in [
        (as_openai(hf["clip"]), CLIP),
        (as_dreamsim(hf["clip"]), CLIP),
        (hf["clip"], CLIP),
        (as_dino(hf["dino"]), DINO),
        (hf["dino"], DINO),
        (as_dino(hf["dinov2"]), DINOV2),
        (hf["dinov2"], DINOV2),
    ]:
        for name in layout:
            others = any(f".{block}." in name for block in (0, 2))  # blocks like the one between them
            if not others and not name.endswith("mask_token"):
                with pytest.raises(AlignvisError, match="weights.pth (lacks|holds)"):
                    convert({other: layout[other] for other in layout if other != name}, architecture, FILE)


@pytest.mark.parametrize(
    ("family", "wrap", "extra"),
    [
        ("clip", as_openai, "visual.conv1.bias"),
        ("clip", as_openai, "visual.transformer.resblocks.0.ls_1.gamma"),
        ("clip", as_dreamsim, "blocks.0.ls1.gamma"),
        ("clip", dict, "vision_model.embeddings.patch_embedding.bias"),
        ("dino", as_dino, "blocks.0.attn.qkv.lora_A"),
        ("dino", dict, "encoder.layer.0.norm1.weight"),
        ("dinov2", as_dino, "register_tokens"),
        ("dinov2", as_dino, "blocks.0.1.norm1.weight"),
    ],
)
def test_a_tensor_too_many_is_refused(hf, family, wrap, extra):
    architecture = {"clip": CLIP, "dino": DINO, "dinov2": DINOV2}[family]
    stored = wrap(hf[family]) | {extra: torch.zeros(192)}
    with pytest.raises(AlignvisError, match="lacks 0 of the .* has 1 that were not"):
        convert(stored, architecture, FILE)


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (
            {"patch": 16, "grid": 8},
            "patch 32, width 192, depth 3, dim 512, and patch 16, width 192, depth 3, dim 512 was",
        ),
        ({"depth": 4}, "depth 3, dim 512, and patch 32, width 192, depth 4"),
        ({"projection": 768}, "dim 512, and patch 32, width 192, depth 3, dim 768 was expected"),
        ({"width": 256, "heads": 4}, "width 192, depth 3, dim 512, and patch 32, width 256"),
    ],
)
def test_another_architecture_is_named(hf, expected, sentence):
    with pytest.raises(AlignvisError, match=f"^weights.pth holds a vision transformer with .*{sentence}"):
        convert(as_openai(hf["clip"]), replace(CLIP, **expected), FILE)


def test_a_table_of_positions_of_another_size_is_refused(hf):
    with pytest.raises(AlignvisError, match=r"'pos_embed' has shape \(1, 17, 192\), and \(1, 50, 192\) was expected"):
        convert(as_dino(hf["dino"]), replace(DINO, grid=7), FILE)


def test_queries_keys_and_values_that_do_not_belong_together_are_refused(hf):
    part = "encoder.layer.1.attention.attention.key.weight"
    for shape in [(192, 7), (192,), (7, 192)]:
        with pytest.raises(AlignvisError, match="lacks 1 of .*'blocks.1.attn.qkv.weight'. and has 3 that were not"):
            convert(hf["dino"] | {part: torch.zeros(shape)}, DINO, FILE)


def test_a_projection_of_three_axes_is_refused(hf):
    with pytest.raises(AlignvisError, match="was expected"):
        convert(hf["clip"] | {"visual_projection.weight": torch.zeros(2, 3, 4)}, CLIP, FILE)


def test_a_transposed_projection_is_refused(hf):
    stored = as_openai(hf["clip"])
    stored["visual.proj"] = stored["visual.proj"].T
    with pytest.raises(AlignvisError, match="dim 192, and .* dim 512 was expected"):
        convert(stored, CLIP, FILE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(hf, value):
    stored = {name: tensor.clone() for name, tensor in as_dino(hf["dino"]).items()}
    stored["blocks.1.mlp.fc1.weight"][3, 5] = value
    with pytest.raises(AlignvisError, match="'blocks.1.mlp.fc1.weight' is not made of finite numbers"):
        convert(stored, DINO, FILE)


def test_whole_numbers_are_refused(hf):
    with pytest.raises(AlignvisError, match="'norm.bias' is not made of finite numbers"):
        convert(as_dino(hf["dino"]) | {"norm.bias": torch.zeros(192, dtype=torch.int8)}, DINO, FILE)


@pytest.mark.parametrize(
    "stored", [{}, {"state_dict": {}}, {"model": 3}, {"conv1.weight": torch.zeros(2)}, {"teacher": {1: 2}}, {3: FILE}]
)
def test_what_holds_no_network_is_refused(stored):
    with pytest.raises(AlignvisError, match="weights.pth holds no vision transformer"):
        convert(stored, DINO, FILE)


def test_numbers_survive_a_real_file(hf, tmp_path):
    """Through safetensors and back, where tensors may share memory with the file."""
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in hf["clip"].items()}, file)
    again = convert(read_tensors(file), CLIP, file)
    assert all(torch.equal(tensor, again[name]) for name, tensor in convert(hf["clip"], CLIP, FILE).items())
