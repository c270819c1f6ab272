"""Every row against what was published, and encoders built from files of every kind against transformers and peft."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignvis.errors import AlignvisError
from alignvis.images import sources
from alignvis.images.catalogue import CATALOGUE, CLIP_STATISTICS, HALF, IMAGENET, Row, load
from alignvis.images.convnext import ConvNeXt
from alignvis.images.encoder import Branch, Shelf, build
from alignvis.images.levit import LeViT
from alignvis.images.pixels import GEOMETRIES
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture
from alignvis.images.weights import sha256
from tests.vit_files import adapted, as_dino, as_dreamsim, as_openai, embed, random_model, read, relative, write

EXACT = 2e-6

# id: embedding length, activation, eps, statistics, output, geometry; from the published scripts and configurations
PUBLISHED = {
    "CLIP_ViT-B32_noalign": (512, "quick_gelu", 1e-5, CLIP_STATISTICS, "projected", "hf-clip"),
    "CLIP_ViT-L14_noalign": (768, "quick_gelu", 1e-5, CLIP_STATISTICS, "projected", "hf-clip"),
    "DINO_ViT-B16_noalign": (768, "gelu", 1e-12, IMAGENET, "norm", "squash-bilinear-224"),
    "DINO_ViT-B8_noalign": (768, "gelu", 1e-12, IMAGENET, "norm", "squash-bilinear-224"),
    "DINOv2_ViT-B14_noalign": (768, "gelu", 1e-6, IMAGENET, "norm", "bicubic-256-crop-224"),
    "DINOv2_ViT-L14_noalign": (1024, "gelu", 1e-6, IMAGENET, "norm", "bicubic-256-crop-224"),
    "dinov2_vit-l-14_noalign": (1024, "gelu", 1e-6, IMAGENET, "norm", "bicubic-256-crop-224"),
    "OpenCLIP_ViT-B32_laion400m_noalign": (512, "quick_gelu", 1e-5, CLIP_STATISTICS, "projected", "clip"),
    "OpenCLIP_ViT-L14_laion400m_noalign": (768, "gelu", 1e-5, CLIP_STATISTICS, "projected", "clip"),
    "OpenCLIP_ViT-L14_laion2b_noalign": (768, "gelu", 1e-5, HALF, "projected", "clip"),
    "OpenCLIP_ViT-H14_laion2b_noalign": (1024, "gelu", 1e-5, CLIP_STATISTICS, "projected", "clip"),
    "dreamsim_dino_vitb16": (768, "gelu", 1e-6, IMAGENET, "prenorm", "squash-bicubic-224"),
    "dreamsim_dinov2_vitb14": (768, "gelu", 1e-6, IMAGENET, "prenorm", "squash-bicubic-224"),
    "dreamsim_synclr_vitb16": (768, "gelu", 1e-6, IMAGENET, "prenorm", "squash-bicubic-224"),
    "dreamsim_clip_vitb32": (512, "quick_gelu", 1e-5, CLIP_STATISTICS, "projected", "squash-bicubic-224"),
    "dreamsim_open_clip_vitb32": (512, "gelu", 1e-5, CLIP_STATISTICS, "projected", "squash-bicubic-224"),
    "gLocal_clip_vit-l-14": (768, "quick_gelu", 1e-5, CLIP_STATISTICS, "projected", "clip"),
    "gLocal_openclip_vit-l-14_laion400m_e32": (768, "gelu", 1e-5, CLIP_STATISTICS, "projected", "clip"),
    "gLocal_openclip_vit-l-14_laion2b_s32b_b82k": (768, "gelu", 1e-5, HALF, "projected", "clip"),
    "gLocal_dino-vit-base-p16": (768, "gelu", 1e-6, IMAGENET, "norm", "shortest-bilinear-224"),
    "gLocal_dino-vit-base-p8": (768, "gelu", 1e-6, IMAGENET, "norm", "shortest-bilinear-224"),
    "gLocal_dinov2-vit-base-p14": (768, "gelu", 1e-6, IMAGENET, "norm", "shortest-bilinear-224"),
    "gLocal_dinov2-vit-large-p14": (1024, "gelu", 1e-6, IMAGENET, "norm", "shortest-bilinear-224"),
}
# The same for the others, of the harmonised file and of its unaligned twin.
TF, TIMM = "squash-tf-bicubic-224", "shortest-{}-crop-224"
CONVOLUTIONAL = {
    "gLocal_clip_rn50": (1024, ClipResNet(), CLIP_STATISTICS, "clip"),
    "gLocal_clip_rn50_noalign": (1024, ClipResNet(), CLIP_STATISTICS, "clip"),
    "harmonization_resnet50": (2048, ResNetV2(), IMAGENET, TF),
    "harmonization_resnet50_noalign": (2048, ResNet(), IMAGENET, TIMM.format("bicubic-235")),
    "harmonization_convnext": (768, ConvNeXt(), IMAGENET, TF),
    "harmonization_convnext_noalign": (768, ConvNeXt(), IMAGENET, TIMM.format("bicubic-235")),
    "harmonization_levit": (384, LeViT(output="norm"), IMAGENET, TF),
    "harmonization_levit_noalign": (384, LeViT(output="mean"), IMAGENET, TIMM.format("bicubic-248")),
    "harmonization_vgg16": (4096, VGG(), IMAGENET, TF),
    "harmonization_vgg16_noalign": (4096, VGG(), IMAGENET, TIMM.format("bilinear-256")),
}
TRANSFORMS = {  # the beginning of the sha256 of the transform of each of gLocal's models
    "clip_vit-l-14": "4d9f969b1cac5334",
    "clip_rn50": "81fc831f60c43ded",
    "openclip_vit-l-14_laion2b_s32b_b82k": "38ac3e412c0b42fc",
    "openclip_vit-l-14_laion400m_e32": "1c34c877528ea375",
    "dino-vit-base-p16": "2bcb2d77346fbaec",
    "dino-vit-base-p8": "583ff8178d769e68",
    "dinov2-vit-base-p14": "2bcb2d77346fbaec",
    "dinov2-vit-base-p14_original": "9cf041b79d8c4e16",
    "dinov2-vit-large-p14": "b3da393252d7d840",
}
ALIGNED = [id for id in PUBLISHED if not id.endswith("_noalign")]


def facts(row: Row) -> tuple:
    (branch,) = row.branches
    network = branch.architecture
    return row.dim, network.activation, network.eps, branch.statistics, network.output, row.geometry


@pytest.mark.parametrize("id", PUBLISHED)
def test_a_row_says_what_was_published(id):
    assert facts(CATALOGUE[id]) == PUBLISHED[id]


def test_the_harmonised_transformer_and_its_twin():
    published = (768, "gelu", 1e-6, IMAGENET, "norm", TF), (768, "gelu", 1e-6, HALF, "norm", TIMM.format("bicubic-248"))
    rows = CATALOGUE["harmonization_vitb16"], CATALOGUE["harmonization_vitb16_noalign"]
    assert tuple(facts(row) for row in rows) == published


@pytest.mark.parametrize("id", CONVOLUTIONAL)
def test_a_convolutional_row_says_what_was_published(id):
    row = CATALOGUE[id]
    (branch,) = row.branches
    assert (row.dim, branch.architecture, branch.statistics, row.geometry) == CONVOLUTIONAL[id]


def test_every_published_name_is_an_id():
    harmonised = [f"harmonization_{name}" for name in ("vitb16", "resnet50", "convnext", "levit", "vgg16")]
    dreamsim = [f"dreamsim_{name}" for name in ("clip_vitb32", "open_clip_vitb32", "dino_vitb16", "dinov2_vitb14",
                                                "synclr_vitb16", "ensemble")]  # fmt: skip
    glocal = [f"gLocal_{name}" for name in TRANSFORMS if not name.endswith("_original")]
    names = [*harmonised, *dreamsim, *glocal]
    names += [f"{name}_noalign" for name in names]
    names += [id for id in PUBLISHED if id.endswith("_noalign")]
    names += ["dreamsim_clip_vitb32_768", "dreamsim_dino_vitb16_patch", "dreamsim_dinov2_vitb14_patch"]
    assert set(names) <= set(CATALOGUE) and len(set(names)) == 2 * 19 + 11 + 3


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_of_glocals_models_takes_its_own_transform(name):
    assert CATALOGUE[f"gLocal_{name}"].transform.sha256.startswith(TRANSFORMS[name])


@pytest.mark.parametrize(
    "name", ["dino-vit-base-p16", "dino-vit-base-p8", "dinov2-vit-base-p14", "dinov2-vit-large-p14"]
)
def test_the_preprocessing_that_the_transforms_were_fitted_to_is_offered_too(name):
    published, fitted = CATALOGUE[f"gLocal_{name}"], CATALOGUE[f"gLocal_{name}_resize-256"]
    assert fitted.geometry == "shortest-bilinear-256-crop-224" and fitted.branches == published.branches
    own = "dinov2-vit-base-p14_original" if name == "dinov2-vit-base-p14" else name
    assert fitted.transform.sha256.startswith(TRANSFORMS[own]) and fitted.warning is None


def test_uncertain_origins_say_so():
    unsure = {id for id, row in CATALOGUE.items() if row.uncertain}
    assert {"dreamsim_clip_vitb32_768", "harmonization_resnet50", "harmonization_vgg16_noalign", "CLIP_ViT-L14_noalign",
            "OpenCLIP_ViT-H14_laion2b_noalign", "gLocal_dino-vit-base-p16"} <= unsure  # fmt: skip
    for id in ("vitb16", "resnet50", "convnext", "levit", "vgg16"):  # these twins differ in more than the alignment
        assert f"harmonization_{id} differs" in CATALOGUE[f"harmonization_{id}_noalign"].warning


def test_the_two_readings_of_a_name_without_a_script_differ_in_the_norm_alone():
    one, two = CATALOGUE["dreamsim_clip_vitb32_768"], CATALOGUE["dreamsim_clip_vitb32_768_last-layer"]
    assert (one.dim, two.dim) == (768, 768) and one.adapter == two.adapter == CATALOGUE["dreamsim_clip_vitb32"].adapter
    outputs = [row.branches[0].architecture.output for row in (one, two)]
    assert outputs == ["prenorm", "norm"]


@pytest.mark.parametrize("id", ALIGNED)
def test_a_twin_differs_by_the_alignment_alone(id):
    row, twin = CATALOGUE[id], CATALOGUE[f"{id}_noalign"]
    assert (row.aligned, row.twin, twin.aligned, twin.twin) == (True, twin.id, False, row.id)
    assert facts(row) == facts(twin) and row.branches == twin.branches
    assert (row.adapter is None) != (row.transform is None) and twin.adapter is twin.transform is None


def test_the_ensemble_joins_dino_clip_and_open_clip_in_this_order():
    for id in ("dreamsim_ensemble", "dreamsim_ensemble_noalign"):
        row = CATALOGUE[id]
        assert row.dim == 1792 and [branch.architecture.dim for branch in row.branches] == [768, 512, 512]
        assert [branch.architecture.activation for branch in row.branches] == ["gelu", "quick_gelu", "gelu"]
        assert [branch.statistics for branch in row.branches] == [IMAGENET, CLIP_STATISTICS, CLIP_STATISTICS]
        assert [branch.architecture.output for branch in row.branches] == ["prenorm", "projected", "projected"]
        assert {branch.architecture.patch for branch in row.branches} == {16}


def test_every_row_is_consistent():
    for id, row in CATALOGUE.items():
        assert row.id == id and "/" not in id
        assert row.geometry in GEOMETRIES
        if row.branches:
            assert row.dim == sum(branch.architecture.dim for branch in row.branches)
        for branch in row.branches:
            side = GEOMETRIES[row.geometry].crop
            if not isinstance(branch.architecture, Architecture):
                assert side == 224 and branch.architecture.depth in (3, 4, 5)
                continue
            assert side % branch.architecture.patch == 0
            assert (
                branch.architecture.grid == side // branch.architecture.patch or branch.architecture.resize != "never"
            )
        assert row.twin is None or CATALOGUE[row.twin].aligned != row.aligned
        assert all(source.url.startswith("https://") for source in row.sources)
    assert CATALOGUE["OpenCLIP_ViT-H14_laion2b_noalign"].branches[0].architecture.heads == 16
    assert CATALOGUE["dreamsim_synclr_vitb16"].sources[0].member == "synclr_vit_b_16.pth"


def test_one_name_stands_for_one_file():
    every = {source for row in CATALOGUE.values() for source in row.sources}
    names: dict[str, tuple] = {}
    for source in every:
        assert names.setdefault(source.file, (source.url, source.member)) == (source.url, source.member)
        if source.sha256 is not None:
            assert set(source.sha256) <= set("0123456789abcdef") and len(source.sha256) in (8, 16, 64)
    assert sources.OPENAI_L14.sha256 in sources.OPENAI_L14.url
    assert sources.B16_E31.sha256 == "00efa78f"


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("dreamsim_synclr", "no image encoder is called 'dreamsim_synclr'; did you mean dreamsim_synclr_vitb16"),
        ("clip_vit-b32_NOALIGN", "did you mean CLIP_ViT-B32_noalign"),
        ("glocal_dino-vit-base-p16", "did you mean gLocal_dino-vit-base-p16"),
        ("zzz", "`alignvis list` shows them all"),
    ],
)
def test_an_unknown_id_is_told_its_neighbours(id, sentence, tmp_path):
    with pytest.raises(AlignvisError, match=sentence):
        load(id, tmp_path)


# --- without files ---------------------------------------------------------------------------------------------------


def photos(side: int = 224, count: int = 2, seed: int = 0) -> Tensor:
    """(count, 3, side, side) in [0, 1]."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_untrained_network_is_always_the_same_one_and_sees_pictures(tmp_path):
    first, second = (load("untrained_vit", tmp_path) for _ in range(2))
    embeddings = first(photos(count=3))
    assert embeddings.shape == (3, 192) and torch.equal(embeddings, second(photos(count=3)))
    unit = nn.functional.normalize(embeddings - embeddings.mean(dim=1, keepdim=True), dim=1)
    assert (unit @ unit.T).fill_diagonal_(0).max() < 0.99
    known = first.networks[0].body.blocks[5].mlp.fc2.weight[0, :3]
    np.testing.assert_allclose(known, [0.02308017, 0.00115362, -0.00152705], rtol=1e-5)
    assert first.provenance == [] and not any(tmp_path.iterdir())


def test_lowlevel_needs_no_file(tmp_path):
    encoder = load("lowlevel", tmp_path)
    assert encoder(photos(96)).shape == (2, encoder.row.dim) and encoder.geometry == "lowlevel"
    assert not any(tmp_path.iterdir())


# --- from files ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No other program's cache on this machine has a say."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    monkeypatch.chdir(tmp_path)


def short(row: Row, **changes: object) -> Row:
    """A row with networks of two narrow blocks; what the row says beside that stays."""
    changes = {"width": 192, "heads": 3, "depth": 2} | changes
    branches = tuple(replace(branch, architecture=replace(branch.architecture, **changes)) for branch in row.branches)
    return replace(row, branches=branches, dim=sum(branch.architecture.dim for branch in branches))


def expected(model: nn.Module, branch: Branch, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in branch.statistics)
    return embed(model, (pixels - mean) / std, branch.architecture.output)


def put(tensors: dict, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, file)
    return file


@pytest.mark.parametrize("container", ["official", "Hugging Face"])
def test_a_whole_encoder_is_loaded_by_its_id(tmp_path, container):
    row = CATALOGUE["CLIP_ViT-B32_noalign"]
    model = random_model(row.branches[0].architecture)
    file = write(model, tmp_path / "hub")
    if container == "official":
        half = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in as_openai(read(file)).items()}
        half["visual.positional_embedding"] = as_openai(read(file))["visual.positional_embedding"]
        file = put(half, tmp_path / "weights" / "clip" / "ViT-B-32.pt")
        encoder = load(row.id, tmp_path / "weights", download=False)
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.shape != (50, 768):
                parameter.data = parameter.data.half().float()
    else:
        encoder = load(row.id, tmp_path / "weights", given=tmp_path / "hub", download=False)
    pixels = photos()
    found = encoder(pixels)
    assert found.shape == (2, 512) and found.dtype == torch.float32
    assert relative(found, expected(model, row.branches[0], pixels)) <= EXACT
    assert (encoder.row, encoder.geometry) == (row, "hf-clip")
    assert encoder.provenance == [{"file": file.name, "sha256": sha256(file)}]
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())


def adapt(model: nn.Module, adapter: nn.Module, branch: int) -> nn.Module:
    """Add to transformers' separate q, k and v what peft says the adapter adds to the three together."""
    layers = model.vision_model.encoder.layers if hasattr(model, "vision_model") else blocks_of(model)
    for block, layer in enumerate(layers):
        qkv = adapter.base_model.model.extractor_list[branch].model.blocks[block].attn.qkv
        parts = [module for name, module in layer.named_modules() if name.split(".")[-1] in QKV]
        for part, delta in zip(
            sorted(parts, key=lambda part: order(layer, part)), qkv.get_delta_weight("default").chunk(3), strict=True
        ):
            part.weight.data = part.weight.data + delta
    return model


QKV = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}


def order(layer: nn.Module, part: nn.Module) -> int:
    return next(QKV[name.split(".")[-1]] for name, module in layer.named_modules() if module is part)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in ("ViTLayer", "Dinov2Layer")]


@pytest.fixture
def ensemble(tmp_path) -> tuple[list[nn.Module], nn.Module]:
    """Three random networks and an adapter of all three, laid where DreamSim's archive is unpacked to."""
    row, weights = short(CATALOGUE["dreamsim_ensemble"]), tmp_path / "weights"
    models = [random_model(branch.architecture, seed) for seed, branch in enumerate(row.branches)]
    files = [read(write(model, tmp_path / f"hub{seed}")) for seed, model in enumerate(models)]
    put(as_dino(files[0]), weights / "dino" / "dino_vitbase16_pretrain.pth")
    put({"state_dict": as_dreamsim(files[1])}, weights / "dreamsim" / "clip_vitb16_pretrain.pth.tar")
    put({"state_dict": as_dreamsim(files[2])}, weights / "dreamsim" / "open_clip_vitb16_pretrain.pth.tar")
    adapter = adapted(weights / "dreamsim" / "ensemble_lora", [branch.architecture for branch in row.branches])
    return models, adapter


@pytest.mark.parametrize("id", ["dreamsim_ensemble", "dreamsim_ensemble_noalign"])
def test_dreamsims_ensemble_equals_transformers_with_peft(tmp_path, ensemble, id):
    models, adapter = ensemble
    row, pixels = short(CATALOGUE[id]), photos()
    if row.aligned:
        models = [adapt(model, adapter, branch) for branch, model in enumerate(models)]
    theirs = torch.cat(
        [expected(model, branch, pixels) for model, branch in zip(models, row.branches, strict=True)], dim=1
    )
    encoder = build(row, tmp_path / "weights", download=False)
    assert relative(encoder(pixels), theirs) <= EXACT
    names = ["dino_vitbase16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"]
    names += ["adapter_config.json", "adapter_model.safetensors"] if row.aligned else []
    assert [file["file"] for file in encoder.provenance] == names


def test_the_adapter_changes_the_embedding(tmp_path, ensemble):
    plain, aligned = (
        build(short(CATALOGUE[id]), tmp_path / "weights", download=False)(photos())
        for id in ("dreamsim_ensemble_noalign", "dreamsim_ensemble")
    )
    assert relative(aligned, plain) > 1e-3


@pytest.mark.parametrize("id", ["dreamsim_dino_vitb16", "dreamsim_dinov2_vitb14", "dreamsim_synclr_vitb16"])
def test_dreamsims_singles_take_the_class_token_before_the_norm(tmp_path, id):
    row = short(CATALOGUE[id])
    branch = replace(row.branches[0], architecture=replace(row.branches[0].architecture, resize="size"))
    row = replace(row, branches=(branch,))  # transformers resizes the table of DINOv2 to the size
    model = random_model(branch.architecture)
    official = as_dino(read(write(model, tmp_path / "hub")))
    if "synclr" in id:
        official = {"model": {f"module.visual.{name}": tensor for name, tensor in official.items()}}
    put(official, tmp_path / "weights" / row.sources[0].file)
    adapter = adapted(tmp_path / "weights" / row.adapter.file, [branch.architecture], alpha=32.0)
    pixels = photos()
    theirs = expected(adapt(model, adapter, 0), branch, pixels)
    assert relative(build(row, tmp_path / "weights", download=False)(pixels), theirs) <= EXACT


@pytest.mark.parametrize(
    ("id", "original"),
    [("dreamsim_clip_vitb32", sources.OPENAI_B32), ("dreamsim_open_clip_vitb32", sources.B32_E31)],
)
def test_dreamsims_clip_can_be_built_from_the_original(tmp_path, id, original):
    """OpenCLIP's with the exact GELU, whatever it was trained with."""
    row = short(CATALOGUE[f"{id}_noalign"])
    model = random_model(row.branches[0].architecture)
    put(as_openai(read(write(model, tmp_path / "hub"))), tmp_path / "weights" / original.file)
    encoder, pixels = build(row, tmp_path / "weights", download=False), photos()
    assert relative(encoder(pixels), expected(model, row.branches[0], pixels)) <= EXACT
    assert encoder.provenance[0]["file"] == Path(original.file).name


def test_what_is_given_goes_before_what_lies_in_weights(tmp_path):
    row = short(CATALOGUE["dreamsim_clip_vitb32_noalign"])
    model, other = (random_model(row.branches[0].architecture, seed) for seed in range(2))
    given, weights, pixels = tmp_path / "given", tmp_path / "weights", photos()
    put(as_openai(read(write(other, tmp_path / "other"))), weights / sources.OPENAI_B32.file)
    tensors = as_openai(read(write(model, tmp_path / "hub")))
    theirs = expected(model, row.branches[0], pixels)
    original = put(tensors, given / "ViT-B-32.pt")
    assert relative(build(row, weights, given=given, download=False)(pixels), theirs) <= EXACT
    assert relative(build(row, weights, given=original, download=False)(pixels), theirs) <= EXACT
    original.unlink()
    put(
        {"state_dict": as_dreamsim(read(tmp_path / "hub" / "model.safetensors"))},
        given / "clip_vitb32_pretrain.pth.tar",
    )
    assert relative(build(row, weights, given=given, download=False)(pixels), theirs) <= EXACT


@pytest.mark.parametrize(
    ("id", "changes", "transform"),
    [
        ("gLocal_clip_vit-l-14", {}, "clip_ViT-L/14/visual"),
        ("gLocal_openclip_vit-l-14_laion2b_s32b_b82k", {}, "OpenCLIP_ViT-L-14_laion2b_s32b_b82k/visual"),
        ("gLocal_dino-vit-base-p16", {"width": 768, "heads": 12, "depth": 1}, "dino-vit-base-p16/norm"),
        ("gLocal_dinov2-vit-base-p14", {"width": 768, "heads": 12, "depth": 1}, "dinov2-vit-base-p14/norm"),
    ],
)
def test_glocal_is_its_network_and_its_map(tmp_path, shared_data, id, changes, transform):
    row, pixels = short(CATALOGUE[id], **changes), photos()
    assert row.transform.file == f"glocal/{transform}/transform.npz"
    kept = tmp_path / "weights" / row.transform.file
    kept.parent.mkdir(parents=True)
    shutil.copy(shared_data / row.transform.file, kept)
    model = random_model(row.branches[0].architecture)
    base = write(model, tmp_path / "hub")
    plain = build(replace(row, transform=None), tmp_path / "weights", given=base, download=False)(pixels)
    if row.branches[0].architecture.resize == "never":
        assert relative(plain, expected(model, row.branches[0], pixels)) <= EXACT
    with np.load(kept) as file:
        y = (plain.numpy() - file["mean"]) / file["std"] @ file["weights"] + (file["bias"] if "bias" in file else 0)
    encoder = build(row, tmp_path / "weights", given=base, download=False)
    found = encoder(pixels)
    assert found.dtype == torch.float32 and relative(found, torch.from_numpy(y)) <= EXACT
    assert encoder.provenance[1] == {"file": "transform.npz", "sha256": sha256(kept)}
    assert (encoder.row.warning is not None) == (id == "gLocal_dinov2-vit-base-p14")


def test_the_map_of_another_model_stops_the_build(tmp_path, shared_data):
    row = short(CATALOGUE["gLocal_clip_vit-l-14"])
    base = write(random_model(row.branches[0].architecture), tmp_path / "hub")
    kept = tmp_path / "weights" / row.transform.file
    kept.parent.mkdir(parents=True)
    shutil.copy(shared_data / "glocal" / "OpenCLIP_ViT-L-14_laion2b_s32b_b82k" / "visual" / "transform.npz", kept)
    with pytest.raises(
        AlignvisError, match="is the transform of OpenCLIP ViT-L/14 laion2b.* CLIP ViT-L/14 .* expected"
    ):
        build(row, tmp_path / "weights", given=base, download=False)


# --- what the user gives ---------------------------------------------------------------------------------------------


def test_the_archive_of_a_single_gives_its_members_and_the_rest_is_looked_for(tmp_path):
    row = short(CATALOGUE["dreamsim_dino_vitb16"])
    model = random_model(row.branches[0].architecture)
    put(as_dino(read(write(model, tmp_path / "hub"))), tmp_path / "weights" / row.sources[0].file)
    adapter = adapted(tmp_path / "dino_vitb16_single_lora", [row.branches[0].architecture])
    archive = tmp_path / "dreamsim_dino_vitb16_checkpoint.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("dino_vitb16_pretrain.pth", b"only a student")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            file.write(tmp_path / "dino_vitb16_single_lora" / name, f"dino_vitb16_single_lora/{name}")
    pixels = photos()
    found = build(row, tmp_path / "weights", given=archive, download=False)(pixels)
    assert relative(found, expected(adapt(model, adapter, 0), row.branches[0], pixels)) <= EXACT


def test_one_file_is_not_enough_for_the_ensemble(tmp_path, ensemble):
    file = tmp_path / "weights" / "dreamsim" / "clip_vitb16_pretrain.pth.tar"
    with pytest.raises(AlignvisError, match="dreamsim_ensemble_noalign is made of several files, and .* is one"):
        build(short(CATALOGUE["dreamsim_ensemble_noalign"]), tmp_path / "weights", given=file, download=False)


def test_files_of_the_hub_cannot_be_mixed_up_in_the_ensemble(tmp_path, ensemble):
    """OpenAI's and OpenCLIP's ViT-B/16 have the same shapes, and on the hub the same name."""
    folder = tmp_path / "given"
    shutil.copytree(tmp_path / "hub1", folder)
    shutil.copy(tmp_path / "weights" / "dino" / "dino_vitbase16_pretrain.pth", folder)
    with pytest.raises(AlignvisError, match="does not hold"):
        build(short(CATALOGUE["dreamsim_ensemble_noalign"]), tmp_path / "weights", given=folder, download=False)


def test_nothing_found_is_a_sentence(tmp_path):
    with pytest.raises(AlignvisError, match="ViT-B-32.pt"):
        load("CLIP_ViT-B32_noalign", tmp_path, download=False)


def test_the_file_of_another_model_is_refused(tmp_path):
    row = short(CATALOGUE["CLIP_ViT-B32_noalign"])
    base = write(random_model(short(CATALOGUE["CLIP_ViT-B16_noalign"]).branches[0].architecture), tmp_path / "hub")
    (tmp_path / "hub" / "config.json").unlink()
    with pytest.raises(AlignvisError, match="holds a vision transformer with patch 16, .* and patch 32,"):
        build(row, tmp_path / "weights", given=base, download=False)


def test_the_activation_in_the_configuration_must_fit(tmp_path):
    """The weights of OpenAI's and LAION's ViT-B/32 have the same shapes; only the configuration tells GELUs apart."""
    row = short(CATALOGUE["CLIP_ViT-B32_noalign"])
    laion = replace(row.branches[0].architecture, activation="gelu")
    folder = write(random_model(laion), tmp_path / "hub").parent
    with pytest.raises(AlignvisError, match="config.json says activation gelu, and quick_gelu was expected"):
        build(row, tmp_path / "weights", given=folder, download=False)
    whole = {"vision_config": json.loads((folder / "config.json").read_text())}
    (folder / "config.json").write_text(json.dumps(whole))
    with pytest.raises(AlignvisError, match="config.json says activation gelu, and quick_gelu was expected"):
        build(row, tmp_path / "weights", given=folder, download=False)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_cfg": {"quick_gelu": True}}, "activation quick_gelu, and gelu was expected"),
        ({"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}, "mean .0.5, 0.5, 0.5., and .0.48"),
        ({"model_cfg": {}, "preprocess_cfg": {"mean": 0.5}}, "mean 0.5, and .0.48"),
        ({"model_cfg": {}, "preprocess_cfg": {"std": [0.5, 0.5, 0.5]}}, "std .0.5, 0.5, 0.5., and .0.26"),
        ([], "open_clip_config.json"),
        ({"model_cfg": 3}, "open_clip_config.json"),
    ],
)
def test_open_clips_configuration_must_fit(tmp_path, config, sentence):
    row = short(CATALOGUE["OpenCLIP_ViT-B32_laion2b_noalign"])
    hub = write(random_model(row.branches[0].architecture), tmp_path / "hub")
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(hub, folder / "open_clip_model.safetensors")
    said = folder / "open_clip_config.json"
    said.write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {"mean": list(CLIP_STATISTICS[0])}}))
    build(row, tmp_path / "weights", given=folder, download=False)
    said.write_text(json.dumps(config))
    with pytest.raises(AlignvisError, match=sentence):
        build(row, tmp_path / "weights", given=folder, download=False)


def test_sharing_pictures_is_safe(tmp_path):
    """Encoders of the same geometry get the same pictures, so none may change them."""
    pixels = photos()
    kept = pixels.clone()
    load("untrained_vit", tmp_path)(pixels)
    assert torch.equal(pixels, kept)


# --- what encoders share ---------------------------------------------------------------------------------------------


def test_a_low_rank_twin_shares_all_weights_that_it_does_not_change(tmp_path, ensemble):
    shelf = Shelf()
    plain, aligned = (
        build(short(CATALOGUE[id]), tmp_path / "weights", download=False, shelf=shelf)
        for id in ("dreamsim_ensemble_noalign", "dreamsim_ensemble")
    )
    for one, two in zip(plain.networks, aligned.networks, strict=True):
        assert one is not two
        theirs = dict(two.named_parameters())
        for name, tensor in one.named_parameters():
            assert (tensor.data_ptr() == theirs[name].data_ptr()) == (not name.endswith("qkv.weight")), name
    alone = build(short(CATALOGUE["dreamsim_ensemble"]), tmp_path / "weights", download=False)
    assert torch.equal(alone(photos()), aligned(photos()))
    assert not torch.equal(plain(photos()), aligned(photos()))


def test_an_affine_twin_and_the_part_of_an_ensemble_are_the_same_network(tmp_path, ensemble):
    shelf, weights = Shelf(), tmp_path / "weights"
    whole = build(short(CATALOGUE["dreamsim_ensemble_noalign"]), weights, download=False, shelf=shelf)
    dino = build(short(CATALOGUE["dreamsim_dino_vitb16_noalign"]), weights, download=False, shelf=shelf)
    assert dino.networks[0] is whole.networks[0]
    row = short(CATALOGUE["gLocal_dino-vit-base-p16_noalign"])
    one, two = (build(row, weights, download=False, shelf=shelf) for _ in range(2))
    assert one.networks[0] is two.networks[0] and one.networks[0] is not dino.networks[0]  # it ends elsewhere
