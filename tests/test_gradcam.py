"""Grad-CAM against a slow twin: one query at a time, through the published layer order and its hooks."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from alignvis.asking import Asked
from alignvis.decoder import Decoder
from alignvis.explanations import gradcam as module
from alignvis.explanations.gradcam import gradcam, why_not
from alignvis.recipe import Recipe
from tests.published_encoders import twin_of
from tests.published_nice import published_from, randomise

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
CENTRES = {  # samples, of 128: by hand from the published sizes of filters, averages and padding
    "nice": np.arange(11) * 5 + (25 - 1) / 2 + (51 - 1) / 2,
    "atms": (np.arange(36) * 5 + 37) * 127 / 249,
    "eegnet": np.arange(128) + 0.5,
    "eegconformer": np.arange(119) + 4.5,
    "resnet1d": np.arange(128.0),
}


def asked_of(name: str, recipe: Recipe, queries: int = 4, channels: int = 3, times: int = 128) -> Asked:
    decoder = Decoder(name, channels=channels, times=times, dim=12, recipe=recipe)
    randomise(decoder.brain)
    with torch.inference_mode():  # as `ask` makes it
        gallery = decoder.eval().image(torch.randn(queries, 12, generator=torch.Generator().manual_seed(2)))
    record = {"encoder": name, "seed": 0}
    nothing = {entry.name: None for entry in fields(Asked)}
    about = {"run": Path("run"), "record": record, "recipe": recipe, "decoder": decoder, "gallery": gallery}
    return Asked(**nothing | about | {"device": torch.device("cpu")})


def slow(asked: Asked, treated: torch.Tensor) -> np.ndarray:
    """Written out: one query after the other, the layer caught by a hook, every step interpolated by numpy."""
    name, ours, dim = asked.record["encoder"], asked.decoder.brain, asked.gallery.shape[1]
    about = (ours, *treated.shape[1:], dim)
    twin = (published_from(*about) if name == "nice" else twin_of(name, *about)).eval()
    layer = {"nice": lambda: twin.features[4], "resnet1d": lambda: twin.blocks[0]}.get(name, lambda: twin.spatial)()
    caught = []

    def catch(module, inputs):
        caught.append(inputs[0].detach().requires_grad_())
        return (caught[-1],) * len(inputs)

    layer.register_forward_pre_hook(catch)
    maps = []
    for response, picture in zip(treated, asked.gallery.clone(), strict=True):
        vector = twin(response[None])[0]
        if asked.recipe.centre:
            vector, picture = vector - vector.mean(), picture - picture.mean()
        if asked.recipe.sides == "both":
            vector = vector / vector.norm()
        if asked.recipe.sides != "none":
            picture = picture / picture.norm()
        (vector * picture).sum().backward()
        planes, gradient = caught[-1].detach()[0], caught[-1].grad[0]
        if planes.ndim == 2:
            planes, gradient = planes[:, None], gradient[:, None]
        total = torch.zeros(planes.shape[1:])
        for plane, slope in zip(planes, gradient, strict=True):
            total += slope.mean() * plane
        rows = [np.interp(np.arange(treated.shape[2]), CENTRES[name], row) for row in total.clamp(min=0).numpy()]
        maps.append(rows)
    return np.array(maps)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), Recipe(projector=7), Recipe(sides="image", centre=False), Recipe(sides="none", projector=5)],
    ids=["published", "projector", "image side", "no side"],
)
@pytest.mark.parametrize("name", CENTRES)
def test_the_map_is_the_slow_twins(name, recipe, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50_000)  # some queries at a time, and not all
    asked = asked_of(name, recipe)
    treated = torch.randn(4, 3, 128, generator=torch.Generator().manual_seed(1))
    ours, expected = gradcam(asked, treated), slow(asked, treated)
    assert ours.shape == (4, 1 if name == "resnet1d" else 3, 128) and ours.dtype == np.float32
    assert (ours >= 0).all() and ((expected > 0).any() or recipe.sides == "none")
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-4 * expected.max() + 1e-9)


def test_a_query_does_not_depend_on_those_beside_it_nor_on_how_many_are_taken_together(monkeypatch):
    asked, told = asked_of("nice", Recipe(), queries=7), []
    treated = torch.randn(7, 3, 128, generator=torch.Generator().manual_seed(1))
    together = gradcam(asked, treated, lambda done, total, text: told.append((done, total)))
    assert told == [(1, 7), (7, 7)]  # the first tells how large the feature maps are
    monkeypatch.setattr(module, "CHUNK", 1)
    alone = gradcam(asked, treated)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-5 * alone.max())
    assert all(value.grad is None for value in asked.decoder.parameters())  # nothing is left behind


def test_who_has_none_says_why():
    assert why_not(asked_of("nice", Recipe())) is None and why_not(asked_of("atms", Recipe())) is None
    assert "no convolution over time" in why_not(asked_of("linear", Recipe()))
    assert "loses the last channel" in why_not(asked_of("atms", Recipe(parity=True)))
    assert why_not(asked_of("eegconformer", Recipe(parity=True))) is None
