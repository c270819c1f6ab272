"""DreamSim's merge against peft; gLocal's maps against published figures and real human similarity."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor

from alignvis.errors import AlignvisError
from alignvis.images import catalogue, sources
from alignvis.images.align import Affine, read_adapter, read_transform
from alignvis.images.vit import Architecture
from tests.vit_files import adapted

ARCHITECTURE = Architecture(16, 48, 3, 3, 2)
SMALL = [ARCHITECTURE, replace(ARCHITECTURE, width=96), ARCHITECTURE]


@pytest.mark.parametrize(("rank", "alpha"), [(16, 1.0), (16, 32), (4, 0.5)])
def test_the_merge_equals_peft(tmp_path, rank, alpha):
    model = adapted(tmp_path, SMALL, rank, alpha)
    deltas = read_adapter(tmp_path, SMALL)
    assert [len(delta) for delta in deltas] == [3, 3, 3]
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
    for branch, (delta, architecture) in enumerate(zip(deltas, SMALL, strict=True)):
        for block in range(3):
            layer = model.base_model.model.extractor_list[branch].model.blocks[block].attn.qkv
            merged = layer.weight + delta[f"blocks.{block}.attn.qkv.weight"]
            ours = F.linear(x[:, : architecture.width], merged, layer.bias)
            theirs = layer(x[:, : architecture.width])
            assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
            assert (ours - layer.base_layer(x[:, : architecture.width])).norm() > 1e-3 * theirs.norm()


def test_alpha_and_rank_come_from_the_config(tmp_path):
    """The published adapters differ in alpha only there: 1 in the ensemble, 32 in the single DINO."""
    adapted(tmp_path / "one", SMALL[:1], alpha=1.0)
    adapted(tmp_path / "many", SMALL[:1], alpha=32.0)
    (one,), (many,) = read_adapter(tmp_path / "one", SMALL[:1]), read_adapter(tmp_path / "many", SMALL[:1])
    name = "blocks.0.attn.qkv.weight"
    down, up = (
        load_file(tmp_path / "one" / "adapter_model.safetensors")[
            f"base_model.model.extractor_list.0.model.blocks.0.attn.qkv.lora_{part}.weight"
        ]
        for part in "AB"
    )
    torch.testing.assert_close(one[name], 0.0625 * up @ down)
    torch.testing.assert_close(many[name], 2.0 * up @ down)


@pytest.fixture
def adapter(tmp_path) -> Path:
    adapted(tmp_path, SMALL[:1])
    return tmp_path


def change_config(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("target_modules", ["qkv", "proj"]),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("use_dora", True),
        ("use_rslora", True),
        ("rank_pattern", {"blocks.0": 8}),
        ("alpha_pattern", {"blocks.0": 8}),
        ("modules_to_save", ["proj"]),
        ("r", 0),
        ("r", True),
        ("r", "16"),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
    ],
)
def test_an_adapter_that_asks_for_another_formula_is_refused(adapter, key, value):
    change_config(adapter, **{key: value})
    with pytest.raises(AlignvisError, match=rf"adapter_config.json (says .*{key} = |is not .*NaN is no number)"):
        read_adapter(adapter, SMALL[:1])


def test_what_newer_versions_of_peft_add_is_ignored(adapter):
    change_config(adapter, something_new={"a": 1})
    assert len(read_adapter(adapter, SMALL[:1])[0]) == 3


def test_names_from_a_live_model_are_accepted(adapter):
    expected = read_adapter(adapter, SMALL[:1])[0]
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): each for name, each in load_file(file).items()}, file)
    found = read_adapter(adapter, SMALL[:1])[0]
    assert all(torch.equal(found[name], delta) for name, delta in expected.items())


def test_the_adapters_of_dreamsim_0_1_are_refused(adapter, tmp_path):
    """Told by their pickle, by their config, or by A having twice the rows."""
    too_old = "is an adapter of DreamSim 0.1, .* DreamSim 0.2: https"
    tensors = load_file(adapter / "adapter_model.safetensors")
    twice = {name: torch.cat([each, each]) if "lora_A" in name else each for name, each in tensors.items()}
    save_file(twice, adapter / "adapter_model.safetensors")
    with pytest.raises(AlignvisError, match=too_old):
        read_adapter(adapter, SMALL[:1])
    save_file(tensors, adapter / "adapter_model.safetensors")
    change_config(adapter, enable_lora=[True, False, True])
    with pytest.raises(AlignvisError, match=too_old):
        read_adapter(adapter, SMALL[:1])
    old = tmp_path / "old"
    old.mkdir()
    (old / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(AlignvisError, match=too_old):
        read_adapter(old, SMALL[:1])


def test_tensors_missing_left_over_or_misshapen_are_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    for change, sentence in [
        ({first: None}, "does not adapt blocks.0.attn.qkv of branch 0"),
        (
            {"base_model.model.extractor_list.0.model.norm.weight": torch.ones(48)},
            "which no adapter of DreamSim 0.2 has",
        ),
        ({first.replace("_list.0", "_list.1"): tensors[first].clone()}, "adapts blocks.0.attn.qkv of branch 1"),
        ({first.replace("blocks.0", "blocks.3"): tensors[first].clone()}, "adapts blocks.3.attn.qkv of branch 0"),
        ({first: tensors[first][:8].clone()}, "with r = 16 from adapter_config.json"),
        ({first: tensors[first] * float("nan")}, "not made of finite numbers"),
    ]:
        save_file({name: each for name, each in (tensors | change).items() if each is not None}, file)
        with pytest.raises(AlignvisError, match=sentence):
            read_adapter(adapter, SMALL[:1])


def test_the_adapter_of_the_ensemble_is_not_one_of_a_single(tmp_path):
    adapted(tmp_path, [ARCHITECTURE] * 3)
    with pytest.raises(AlignvisError, match="branch 1, which this encoder does not have"):
        read_adapter(tmp_path, [ARCHITECTURE])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AlignvisError, match="adapter_config.json"):
        read_adapter(tmp_path, SMALL)


# --- gLocal ----------------------------------------------------------------------------------------------------------

PUBLISHED = {  # folder, source, and y[0], y[1], y[-1], |y| for x = sin(0), sin(1), ...
    "clip_ViT-L/14/visual": (sources.GLOCAL_CLIP_L14, 0.0016465, 0.1430237, 0.0761383, 3.4052273),
    "OpenCLIP_ViT-L-14_laion2b_s32b_b82k/visual": (sources.GLOCAL_L14_2B, 0.0124010, 0.1597384, 0.0714140, 2.9224639),
    "dino-vit-base-p16/norm": (sources.GLOCAL_DINO_B16, 0.0040403, 0.0399016, 0.0310163, 0.6807825),
    "dinov2-vit-base-p14/norm": (sources.GLOCAL_V2_B_HOSTED, 0.0040403, 0.0399016, 0.0310163, 0.6807825),
}


def transform(shared_data: Path, model: str) -> Affine:
    return read_transform(shared_data / "glocal" / model / "transform.npz", 768, PUBLISHED[model][0].sha256)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_maps_give_the_known_figures(shared_data, model):
    affine = transform(shared_data, model)
    y = affine(torch.sin(torch.arange(768.0, dtype=torch.float64)).float()[None])[0]
    assert y.dtype == torch.float32
    found = [y[0].item(), y[1].item(), y[-1].item(), y.norm().item()]
    np.testing.assert_allclose(found, PUBLISHED[model][1:], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_maps_equal_the_formula_in_double_precision(shared_data, model):
    with np.load(shared_data / "glocal" / model / "transform.npz") as file:
        weights, mean, std = (file[name].astype(np.float64) for name in ("weights", "mean", "std"))
        bias = file["bias"].astype(np.float64) if "bias" in file else 0.0
    x = np.random.default_rng(0).normal(mean, std, (20, 768))
    expected = (x - mean) / std @ weights + bias
    found = transform(shared_data, model)(torch.from_numpy(x).float()).numpy()
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    # The matrix is nearly symmetric, so no similarity would show that it was transposed; the numbers do.
    transposed = (x - mean) / std @ weights.T + bias
    assert np.linalg.norm(found - transposed) > 1e-2 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def clip_and_people(shared_data) -> tuple[Tensor, NDArray[np.float64]]:
    """Real CLIP ViT-L/14 features of 200 pictures, and how similar people find the 200 concepts."""
    features = np.load(shared_data / "clip-features" / "clip_feature_maps_test.npy")[:, 0].astype(np.float32)
    stems = (shared_data / "clip-features" / "things_eeg2_test200_image_stems.txt").read_text().split()
    concepts = (shared_data / "things" / "unique_id.txt").read_text().split()
    rows = [concepts.index(stem.rsplit("_", 1)[0]) for stem in stems]
    people = np.loadtxt(shared_data / "things" / "spose_embedding_66d_sorted.txt")[rows]
    # They were stored with length 1; 19.238 is the length that the map's own mean and std imply.
    return torch.from_numpy(features) * 19.238, cosines(people)


def cosines(rows: NDArray) -> NDArray[np.float64]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]


def test_real_features_become_more_human(shared_data, clip_and_people):
    features, people = clip_and_people
    aligned = transform(shared_data, "clip_ViT-L/14/visual")(features)
    assert len(people) == 19_900
    assert spearmanr(cosines(features.numpy()), people)[0] == pytest.approx(0.39047, abs=2e-5)
    assert spearmanr(cosines(aligned.numpy()), people)[0] == pytest.approx(0.85275, abs=2e-5)


def test_no_similarity_shows_a_transposed_map(shared_data, clip_and_people):
    """Which is why the figures above are compared number by number."""
    features, people = clip_and_people
    affine = transform(shared_data, "clip_ViT-L/14/visual")
    right = affine(features)
    affine.weights = affine.weights.T
    wrong = affine(features)
    assert 0.10 < ((wrong - right).norm() / right.norm()).item() < 0.16
    assert spearmanr(cosines(wrong.numpy()), people)[0] > 0.84


@pytest.mark.parametrize("model", list(PUBLISHED)[1:])
def test_the_map_of_another_model_gains_nothing(shared_data, clip_and_people, model):
    features, people = clip_and_people
    wrong = transform(shared_data, model)(features)
    assert spearmanr(cosines(wrong.numpy()), people)[0] < 0.42


def test_the_map_of_another_model_is_refused(shared_data):
    file = shared_data / "glocal" / "dino-vit-base-p16" / "norm" / "transform.npz"
    with pytest.raises(AlignvisError, match=r"is the transform of DINO ViT-B/16 \(sha256 2bcb.* CLIP ViT-L/14 "):
        read_transform(file, 768, sources.GLOCAL_CLIP_L14.sha256)


def test_the_hosted_file_is_not_taken_for_the_one_that_was_fitted_to_dinov2(shared_data):
    """The file hosted for DINOv2 is DINO's to the byte; the row for the original refuses it, the other one warns."""
    hosted = shared_data / "glocal" / "dinov2-vit-base-p14" / "norm" / "transform.npz"
    with pytest.raises(AlignvisError, match=r"is the transform of DINO ViT-B/16 .* that of DINOv2 ViT-B/14 "):
        read_transform(hosted, 768, sources.GLOCAL_V2_B.sha256)
    rows = catalogue.CATALOGUE
    assert rows["gLocal_dinov2-vit-base-p14"].transform.sha256 == sources.GLOCAL_DINO_B16.sha256
    assert "copy of the one for DINO ViT-B/16" in rows["gLocal_dinov2-vit-base-p14"].warning
    assert rows["gLocal_dinov2-vit-base-p14_original"].transform.sha256.startswith("9cf041b79d8c4e16")
    assert [id for id, row in rows.items() if row.warning and row.aligned] == ["gLocal_dinov2-vit-base-p14"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": np.zeros((4, 3), np.float32)}, "arrays of shapes"),
        ({"bias": np.zeros(3, np.float32)}, "arrays of shapes"),
        ({"mean": np.zeros(4)}, "arrays of shapes"),
        ({"std": None}, "arrays of shapes"),
        ({"more": np.zeros(1)}, "arrays of shapes"),
        ({"std": np.float32(0)}, "standard deviation of 0"),
        ({"std": np.float32(-1)}, "standard deviation of -1"),
        ({"mean": np.float64("nan")}, "not finite"),
        ({"weights": np.full((4, 4), np.inf, np.float32)}, "not finite"),
        ({"weights": np.zeros((4, 4), np.int64)}, "not finite"),
    ],
)
def test_a_map_that_cannot_be_is_refused(tmp_path, change, sentence):
    whole = {"weights": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32), "mean": np.float64(0), "std": 1.0}
    np.savez(tmp_path / "whole.npz", **whole)
    assert torch.equal(read_transform(tmp_path / "whole.npz", 4, "").weights, torch.eye(4))
    file = tmp_path / "transform.npz"
    np.savez(file, **{name: each for name, each in (whole | change).items() if each is not None})
    with pytest.raises(AlignvisError, match=sentence):
        read_transform(file, 4, "")


def test_a_pickle_in_a_map_is_refused(tmp_path):
    np.savez(tmp_path / "transform.npz", weights=np.array([{}], object))
    with pytest.raises(AlignvisError):
        read_transform(tmp_path / "transform.npz", 4, "")


def test_copies_of_a_map_are_known_by_content(shared_data, tmp_path):
    file = tmp_path / "renamed.npz"
    shutil.copy(shared_data / "glocal" / "clip_ViT-L" / "14" / "visual" / "transform.npz", file)
    assert read_transform(file, 768, sources.GLOCAL_CLIP_L14.sha256).bias.abs().sum() == 0
