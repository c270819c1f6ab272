"""One batch through many encoders against each encoder by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alignvis.errors import AlignvisError
from alignvis.images.align import Affine
from alignvis.images.blur import blur, blur_matrix
from alignvis.images.embed import Fetch, Pass, agreement, inference, named, sizes, to_unit
from alignvis.images.encoder import Branch, ImageEncoder, Row, Shelf, build
from alignvis.images.vit import Architecture

CPU = torch.device("cpu")
HALF, OTHER = ((0.5,) * 3, (0.5,) * 3), ((0.4,) * 3, (0.2,) * 3)
TINY = Architecture(32, 64, 3, 2, 7)
WIDE = replace(TINY, width=128)


def row(id: str, geometry: str, *branches: Branch) -> Row:
    dim = sum(branch.architecture.dim for branch in branches)
    return Row(id, "none", False, dim, geometry, branches, "MIT", "none")


def branch(architecture: Architecture = TINY, statistics=HALF) -> Branch:
    return Branch(architecture, (), statistics)


@pytest.fixture
def encoders() -> list[ImageEncoder]:
    """A plain one, the same behind an affine map, a pair of networks of which it knows one, another geometry."""
    shelf = Shelf()
    made = [
        build(row("plain", "clip", branch()), Path(), shelf=shelf),
        build(row("mapped", "clip", branch()), Path(), shelf=shelf),
        build(row("pair", "clip", branch(), branch(WIDE, OTHER)), Path(), shelf=shelf),
        build(row("small", "squash-bilinear-224", branch()), Path(), shelf=shelf),
    ]
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    made[1].transform = Affine(weights, torch.ones(64), 0.3, 2.0)
    return made


def pictures(count: int = 3) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return {name: torch.rand(count, 3, 224, 224, generator=draw) for name in ("clip", "squash-bilinear-224")}


def alone(encoder: ImageEncoder, sharp: Tensor, layers, sigmas) -> dict[str, Tensor]:
    """The slow twin: every blur and every network by itself."""
    found = {}
    for sigma in (0, *sigmas):
        seen = blur(sharp, blur_matrix(224, sigma)) if sigma else sharp
        parts = []
        for network, each in zip(encoder.networks, encoder.row.branches, strict=True):
            mean, std = (torch.tensor(values)[:, None, None] for values in each.statistics)
            parts.append(network.body((seen - mean) / std, layers))
        front = f"blur.{sigma:g}." if sigma else ""
        for layer in layers:
            for kind in ("class", "patches"):
                name = f"layer.{layer}.{kind}"
                found[front + name] = torch.cat([part[name] for part in parts], dim=1)
        embeddings = torch.cat([part["embeddings"] for part in parts], dim=1)
        if encoder.transform is not None:
            t = encoder.transform
            embeddings = (embeddings - t.mean) / t.std @ t.weights + t.bias
        found[front.removesuffix(".") or "embeddings"] = embeddings
    return found


def test_together_they_give_what_each_gives_alone(encoders):
    layers, sigmas, sharp = [[1, 3], [], [2], [1]], [1.0, 4.5], pictures()
    through = Pass(encoders, layers, sigmas, CPU, "fp32")
    with inference("fp32"):
        together = through(sharp, [0, 1, 2, 3])
    for encoder, chosen, found in zip(encoders, layers, together, strict=True):
        expected = alone(encoder, sharp[encoder.geometry], chosen, sigmas)
        assert found.keys() == expected.keys() == sizes(encoder, chosen, sigmas).keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, atol=1e-5), (encoder.row.id, name)
            assert found[name].shape == (3, sizes(encoder, chosen, sigmas)[name])
    assert not torch.allclose(together[0]["blur.1"], together[0]["embeddings"], atol=1e-3)


def test_some_of_them_can_be_asked(encoders):
    through = Pass(encoders, [[]] * 4, [], CPU, "fp32")
    with inference("fp32"):
        everyone, two = through(pictures(), [0, 1, 2, 3]), through(pictures(), [3, 1])
    assert torch.equal(two[0]["embeddings"], everyone[3]["embeddings"])
    assert torch.equal(two[1]["embeddings"], everyone[1]["embeddings"])


def test_what_they_share_is_computed_once_a_blur(encoders, monkeypatch):
    shared = encoders[0].networks[0]
    assert encoders[1].networks[0] is shared and encoders[2].networks[0] is shared
    assert encoders[3].networks[0] is shared  # the same network, shown other pictures
    calls = []
    monkeypatch.setattr(type(shared.body), "forward", _counted(type(shared.body).forward, calls))
    with inference("fp32"):
        Pass(encoders, [[]] * 4, [2.0], CPU, "fp32")(pictures(), [0, 1, 2, 3])
    # sharp and blurred: once for the first three, once for the other geometry, once for the second of the pair
    assert len(calls) == 2 * 3


def _counted(forward, calls):
    def counted(self, *words):
        calls.append(self)
        return forward(self, *words)

    return counted


def test_encoders_that_differ_in_what_is_asked_of_them_do_not_mix(encoders):
    """The same network, asked for layer 1 by one encoder and for layer 2 by another."""
    through = Pass(encoders[:2], [[1], [2]], [], CPU, "fp32")
    with inference("fp32"):
        one, two = through(pictures(), [0, 1])
    assert {"layer.1.class", "layer.1.patches"} == set(one) - {"embeddings"}
    assert {"layer.2.class", "layer.2.patches"} == set(two) - {"embeddings"}


def test_half_precision_is_near_and_leaves_the_encoders_alone(encoders):
    before = {name: tensor.clone() for name, tensor in encoders[2].state_dict().items()}
    halved = Pass(encoders, [[]] * 4, [], CPU, "bf16")
    with inference("bf16"):
        rough = halved(pictures(), [0, 1, 2, 3])
    with inference("fp32"):
        fine = Pass(encoders, [[]] * 4, [], CPU, "fp32")(pictures(), [0, 1, 2, 3])
    assert all(torch.equal(before[name], tensor) for name, tensor in encoders[2].state_dict().items())
    assert halved.encoders[0].networks[0] is halved.encoders[1].networks[0]  # what is shared stays shared
    near = agreement(halved, encoders, pictures())
    for one, two, stated in zip(rough, fine, near, strict=True):
        assert one["embeddings"].dtype == torch.float32 and not torch.equal(one["embeddings"], two["embeddings"])
        cosines = nn.functional.cosine_similarity(one["embeddings"], two["embeddings"], dim=1)
        assert stated == pytest.approx(cosines.min().item(), abs=1e-6) and 0.999 < stated < 1


def test_an_affine_map_is_not_rounded_to_half():
    shelf = Shelf()
    plain, mapped = (build(row(name, "clip", branch()), Path(), shelf=shelf) for name in ("a", "b"))
    mapped.transform = Affine(torch.eye(64), torch.zeros(64), 0.0, 1.0)
    with inference("bf16"):
        one, two = Pass([plain, mapped], [[], []], [], CPU, "bf16")(pictures(), [0, 1])
    assert torch.equal(one["embeddings"], two["embeddings"])


@pytest.mark.parametrize(
    ("name", "sigma", "called"),
    [
        ("embeddings", 0.0, "embeddings"),
        ("embeddings", 3.0, "blur.3"),
        ("embeddings", 0.5, "blur.0.5"),
        ("layer.4.class", 0.0, "layer.4.class"),
        ("layer.4.class", 9.0, "blur.9.layer.4.class"),
    ],
)
def test_names(name, sigma, called):
    assert named(name, sigma) == called


def test_pixels_become_shares_of_white():
    pixels = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    found = to_unit(pixels.numpy(), CPU)
    assert found.shape == (2, 3, 4, 5) and found.is_contiguous() and found.dtype == torch.float32
    assert found[1, 2, 3, 4].item() == pytest.approx(pixels[1, 3, 4, 2].item() / 255)
    overshooting = torch.tensor([-7.5, 260.0, 0.0]).reshape(1, 1, 1, 3)
    assert to_unit(overshooting.numpy(), CPU).flatten().tolist() == pytest.approx([-7.5 / 255, 260 / 255, 0])


def test_memory_that_runs_out_is_a_sentence(encoders, monkeypatch):
    def hungry(self, *words):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(encoders[0].networks[0].body), "forward", hungry)
    with pytest.raises(AlignvisError, match="ran out of memory on 3 pictures at a time; choose a smaller --batch"):
        Pass(encoders, [[]] * 4, [], CPU, "fp32")(pictures(), [0])


def test_a_result_comes_to_the_host_as_it_is():
    result = {"embeddings": torch.randn(3, 4), "blur.2": torch.randn(3, 4)}
    for name, array in Fetch(result).wait().items():
        assert torch.equal(torch.from_numpy(array), result[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks what the GPU does")
def test_the_host_never_waits_inside_a_batch(encoders):
    through = Pass(encoders, [[1]] * 4, [2.0], torch.device("cuda"), "bf16")
    inputs = {name: tensor.cuda() for name, tensor in pictures().items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        with inference("bf16"):
            results = [Fetch(result) for result in through(inputs, [0, 1, 2, 3])]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(array.shape[0] == 3 for result in results for array in result.wait().values())
