"""The network against transformers, position rules against the interpolation formula, and what a swap would cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images import catalogue
from alignvis.images.checkpoints import convert
from alignvis.images.encoder import network
from alignvis.images.vit import Architecture, ViT
from alignvis.images.weights import read_tensors
from tests.vit_files import embed, pictures, random_model, relative, write

EXACT = 2e-6  # relative; float32 arithmetic in another order


def ours(file: Path, architecture: Architecture) -> ViT:
    return network(architecture, convert(read_tensors(file), architecture, file)).eval().requires_grad_(False)


def embeddings(vit: ViT, pixels: Tensor) -> Tensor:
    return vit(pixels)["embeddings"]


def narrow(architecture: Architecture) -> Architecture:
    return replace(architecture, width=192, heads=3, depth=2)


def shallow(architecture: Architecture, depth: int = 2) -> Architecture:
    return replace(architecture, depth=depth)


@pytest.mark.parametrize(
    "architecture",
    [
        shallow(catalogue.CLIP_B32),
        shallow(catalogue.CLIP_B16),
        shallow(catalogue.CLIP_L14),
        shallow(catalogue.OPEN_B32),
        shallow(catalogue.OPEN_B16),
        shallow(catalogue.OPEN_L14),
        shallow(catalogue.OPEN_H14),
        replace(catalogue.DINO_B16, eps=1e-12),
        shallow(replace(catalogue.DINO_B8, eps=1e-12)),
        replace(catalogue.DINO_B16, depth=3, output="prenorm"),
        shallow(replace(catalogue.DINOV2_B14, resize="size"), 3),
        shallow(replace(catalogue.DINOV2_L14, resize="size")),
        replace(catalogue.DINOV2_B14, depth=2, resize="size", output="prenorm"),
        # With so large an eps no norm can hide that it has another one.
        replace(narrow(catalogue.CLIP_B32), eps=0.5),
        replace(narrow(catalogue.DINO_B16), eps=0.5),
    ],
    ids=lambda a: f"{a.activation}-{a.patch}-{a.width}x{a.depth}-{a.output}-{a.eps}",
)
def test_equals_transformers(architecture, tmp_path):
    model, pixels = random_model(architecture), pictures(224)
    theirs = embed(model, pixels, architecture.output)
    assert theirs.shape == (2, architecture.dim)
    assert relative(embeddings(ours(write(model, tmp_path), architecture), pixels), theirs) <= EXACT


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (narrow(catalogue.CLIP_B32), {"activation": "gelu"}),
        (narrow(catalogue.OPEN_B32), {"activation": "quick_gelu"}),
        (narrow(catalogue.CLIP_B32), {"heads": 4}),
        (narrow(catalogue.CLIP_B32), {"eps": 1e-3}),
        (replace(narrow(catalogue.DINO_B16), eps=1e-12), {"output": "prenorm"}),
        (replace(narrow(catalogue.DINOV2_B14), resize="size"), {"resize": "offset"}),
    ],
    ids=lambda a: "" if isinstance(a, Architecture) else "-".join(map(str, next(iter(a.items())))),
)
def test_a_wrong_choice_would_show(right, wrong, tmp_path):
    model, pixels = random_model(right), pictures(224)
    theirs = embed(model, pixels, right.output)
    assert relative(embeddings(ours(write(model, tmp_path), replace(right, **wrong)), pixels), theirs) > 50 * EXACT


def test_the_two_published_eps_can_be_told_apart_where_tokens_are_faint(tmp_path):
    """1e-5 and 1e-6 differ by 7e-6 on ordinary tokens; on faint ones, by much more."""
    architecture = narrow(catalogue.CLIP_B32)
    model = random_model(architecture)
    with torch.no_grad():
        for part in (model.vision_model.embeddings.class_embedding, *model.vision_model.embeddings.parameters()):
            part *= 1e-2
    file, pixels = write(model, tmp_path), pictures(224)
    theirs = embed(model, pixels, "projected")
    assert relative(embeddings(ours(file, architecture), pixels), theirs) <= EXACT
    assert relative(embeddings(ours(file, replace(architecture, eps=1e-6)), pixels), theirs) > 50 * EXACT


def test_at_the_stored_grid_no_rule_changes_the_table(tmp_path):
    architecture = narrow(catalogue.DINOV2_B14)
    model, pixels = random_model(architecture), pictures(518, count=1)
    theirs, file = embed(model, pixels, "norm"), write(model, tmp_path)
    for rule in ("offset", "size"):
        assert relative(embeddings(ours(file, replace(architecture, resize=rule)), pixels), theirs) <= EXACT


def keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.75, as PyTorch uses it; written out as in the paper (1981), eq. 4."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def slow_resize(table: NDArray[np.float64], new: int, factor: float) -> NDArray[np.float64]:
    """(side, side, width) to (new, new, width) in float64, tap by tap."""
    side = len(table)
    matrix = np.zeros((new, side))
    for row in range(new):
        centre = (row + 0.5) / factor - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[row, min(max(tap, 0), side - 1)] += keys(np.array(centre - tap))
    return np.einsum("ai,bj,ijw->abw", matrix, matrix, table)


@pytest.mark.parametrize("new", [16, 24, 40])
@pytest.mark.parametrize("rule", ["offset", "size"])
def test_position_rules_follow_the_interpolation_formula(rule, new):
    architecture = Architecture(14, 6, 1, 1, 37, resize=rule)
    vit = ViT(architecture)
    vit.pos_embed.data = torch.randn(1, 1 + 37**2, 6, generator=torch.Generator().manual_seed(0))
    found = vit.positions(new, new)[0]
    factor = (new + 0.1) / 37 if rule == "offset" else new / 37
    table = vit.pos_embed[0, 1:].detach().double().reshape(37, 37, 6).numpy()
    assert torch.equal(found[0], vit.pos_embed[0, 0])
    np.testing.assert_allclose(found[1:].detach(), slow_resize(table, new, factor).reshape(-1, 6), atol=2e-5)


def test_the_offset_rule_equals_a_model_whose_table_was_resized_by_hand(tmp_path):
    """Meta's DINOv2 at 224 pixels: transformers with the table that the formula gives."""
    stored = narrow(catalogue.DINOV2_B14)
    model = random_model(stored)
    table = model.embeddings.position_embeddings.data
    grid = slow_resize(table[0, 1:].double().reshape(37, 37, -1).numpy(), 16, 16.1 / 37)
    resized = random_model(stored, side=224)
    resized.load_state_dict(
        {
            **model.state_dict(),
            "embeddings.position_embeddings": torch.cat(
                [table[:, :1], torch.from_numpy(grid).float().reshape(1, 256, -1)], dim=1
            ),
        }
    )
    pixels = pictures(224)
    found = embeddings(ours(write(model, tmp_path), stored), pixels)
    assert relative(found, embed(resized, pixels, "norm")) <= EXACT
    assert relative(found, embed(model, pixels, "norm")) > 1e-3  # transformers' own rule is another one


@pytest.mark.parametrize("rule", ["offset", "size"])
def test_rows_and_columns_are_not_swapped(rule):
    vit = ViT(Architecture(14, 4, 1, 1, 4, resize=rule))
    vit.pos_embed.data[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)  # channel 0 is the row
    vit.pos_embed.data[0, 1:, 1] = torch.arange(4.0).repeat(4)  # channel 1 is the column
    table = vit.positions(2, 8)[0, 1:].detach().unflatten(0, (2, 8))
    assert (table[0, :, 0] < table[1, :, 0]).all() and (table[:, 0, 1] < table[:, 7, 1]).all()
    assert torch.allclose(table[:, :1, 0].expand(2, 8), table[:, :, 0], atol=1e-6)


def test_clip_refuses_another_size():
    with pytest.raises(AlignvisError, match="reads pictures of 64 x 64 pixels, and was given 96 x 64"):
        ViT(Architecture(32, 8, 1, 1, 2))(torch.zeros(1, 3, 96, 64))


def every_token(vit: ViT, pixels: Tensor) -> Tensor:
    """The slow twin of forward: all tokens through all blocks, the last norm over all of them."""
    tokens = vit.tokens(pixels)
    for block in vit.blocks:
        tokens = block(tokens)
    return vit.norm(tokens)[:, 0]


def test_computing_only_the_class_token_at_the_end_changes_nothing(tmp_path):
    architecture = narrow(catalogue.DINOV2_B14)
    vit, pixels = ours(write(random_model(architecture), tmp_path), architecture), pictures(224)
    assert relative(embeddings(vit, pixels), every_token(vit, pixels)) <= EXACT


def test_one_picture_does_not_see_the_others(tmp_path):
    architecture = narrow(catalogue.CLIP_B32)
    vit, pixels = ours(write(random_model(architecture), tmp_path), architecture), pictures(224, count=3)
    assert relative(torch.cat([embeddings(vit, pixel[None]) for pixel in pixels]), embeddings(vit, pixels)) <= EXACT


# --- inner layers ----------------------------------------------------------------------------------------------------

FAMILIES = {
    "clip": replace(narrow(catalogue.CLIP_B32), depth=3),
    "dino": replace(narrow(catalogue.DINO_B16), depth=3),
    "dinov2": replace(narrow(catalogue.DINOV2_B14), depth=3, resize="size"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_what_leaves_the_blocks_in_transformers(name, tmp_path):
    """Seen by hooks, as `hidden_states` of transformers differs in its places from version to version."""
    architecture = FAMILIES[name]
    model, pixels = random_model(architecture), pictures(224)
    vit = ours(write(model, tmp_path), architecture)
    kinds = ("ViTLayer", "Dinov2Layer", "CLIPEncoderLayer")
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    assert len(blocks) == 3
    left: list[Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _, __, out: left.append(out[0] if isinstance(out, tuple) else out))
    theirs = embed(model, pixels, architecture.output)
    found = vit(pixels, (1, 2, 3))
    assert set(found) == {"embeddings"} | {f"layer.{k}.{part}" for k in (1, 2, 3) for part in ("class", "patches")}
    assert relative(found["embeddings"], theirs) <= EXACT
    for number, tokens in enumerate(left, 1):
        assert relative(found[f"layer.{number}.class"], tokens[:, 0]) <= EXACT
        assert relative(found[f"layer.{number}.patches"], tokens[:, 1:].mean(1)) <= 5 * EXACT


def test_asking_for_layers_changes_no_embedding_and_gives_those_alone(tmp_path):
    architecture = FAMILIES["clip"]
    vit, pixels = ours(write(random_model(architecture), tmp_path), architecture), pictures(224)
    alone = vit(pixels)
    assert list(alone) == ["embeddings"]
    inner = vit(pixels, [2])
    assert set(inner) == {"embeddings", "layer.2.class", "layer.2.patches"}
    assert torch.equal(inner["embeddings"], alone["embeddings"])
    assert relative(vit(pixels, [3])["embeddings"], alone["embeddings"]) <= EXACT


def test_the_patch_variant_is_class_token_and_mean_patch_before_the_norm(tmp_path):
    architecture = replace(FAMILIES["dino"], output="patches")
    model, pixels = random_model(architecture), pictures(224)
    found = ours(write(model, tmp_path), architecture)(pixels, [3])
    assert architecture.dim == 384 and found["embeddings"].shape == (2, 384)
    assert torch.equal(found["embeddings"], torch.cat([found["layer.3.class"], found["layer.3.patches"]], dim=1))
    assert relative(found["embeddings"][:, :192], embed(model, pixels, "prenorm")) <= EXACT


def test_a_stored_projection_is_left_alone_where_another_output_is_asked_for(tmp_path):
    projected = narrow(catalogue.CLIP_B32)
    model, pixels = random_model(projected), pictures(224)
    file = write(model, tmp_path)
    for output, theirs in (("norm", model(pixels)), ("prenorm", None)):
        architecture = replace(projected, output=output)
        assert architecture.dim == 192
        found = embeddings(ours(file, architecture), pixels)
        if theirs is not None:
            assert relative(found, model.vision_model(pixels).pooler_output) <= EXACT
            assert relative(found @ model.visual_projection.weight.T, theirs.image_embeds) <= EXACT
        else:
            assert relative(model.vision_model.post_layernorm(found) @ model.visual_projection.weight.T,
                            model(pixels).image_embeds) <= EXACT  # fmt: skip
