"""The two halves of convolutional brain encoders, against the whole and against the published layer order."""

import pytest
import torch

from alignvis.encoders import ENCODERS, brain_mlp, build
from alignvis.encoders.convolutional import Convolutional
from tests.published_encoders import twin_of
from tests.published_nice import published_from, randomise

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
SHAPES = {
    "nice": [(63, 250), (17, 100), (5, 77), (271, 201)],
    "atms": [(63, 250), (17, 100)],
    "eegnet": [(63, 250), (5, 40), (271, 201)],
    "eegconformer": [(63, 250), (17, 100), (5, 34)],
    "resnet1d": [(63, 256), (17, 128)],
}
WIDTHS = {"nice": 75, "eegnet": 64, "eegconformer": 10, "resnet1d": 17}  # samples that a step sees
CASES = [(name, *shape) for name, shapes in SHAPES.items() for shape in shapes]


def encoder_of(name: str, channels: int, times: int):
    ours = build(name, channels=channels, times=times, dim=16)
    randomise(ours)
    return ours.eval()


def responses_of(channels: int, times: int) -> torch.Tensor:
    return torch.randn(3, channels, times, generator=torch.Generator().manual_seed(1)) + 0.3


@pytest.mark.parametrize(("name", "channels", "times"), CASES)
def test_the_second_half_goes_on_where_the_first_ends(name, channels, times):
    encoder, responses = encoder_of(name, channels, times), responses_of(channels, times)
    prepared = encoder.prepare(responses)
    with torch.no_grad():
        planes = encoder.planes(prepared)
        torch.testing.assert_close(encoder.from_planes(planes), encoder(prepared), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(encoder.from_planes(planes.flip(2, 3)), encoder(prepared), atol=1e-2)
    assert planes.shape[0] == 3 and planes.shape[2] == (1 if name == "resnet1d" else channels)
    assert planes.shape[3] == len(encoder.centres)


def published_planes(name: str, twin, responses: torch.Tensor) -> torch.Tensor:
    """What the published order's convolution over channels takes in, caught by a hook."""
    layer = {"nice": lambda: twin.features[4], "resnet1d": lambda: twin.blocks[0]}.get(name, lambda: twin.spatial)()
    caught = []
    layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        twin(responses)
    return caught[0] if caught[0].ndim == 4 else caught[0][:, :, None]


@pytest.mark.parametrize(("name", "channels", "times"), CASES)
def test_feature_maps_are_those_of_the_published_order(name, channels, times):
    ours, responses = encoder_of(name, channels, times), responses_of(channels, times)
    published = published_from if name == "nice" else lambda *about: twin_of(name, *about)
    twin = published(ours, channels, times, 16).eval()
    with torch.no_grad():
        planes = ours.planes(ours.prepare(responses))
    torch.testing.assert_close(planes, published_planes(name, twin, responses), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WIDTHS)
def test_a_step_sees_so_many_samples_around_its_centre_and_one_channel(name):
    """A sample that changes is seen at the steps whose centres lie within half a width of it, and at no others."""
    channels, times = 3, 256
    encoder, responses = encoder_of(name, channels, times), responses_of(channels, times)
    with torch.no_grad():
        before = encoder.planes(encoder.prepare(responses))
        for sample in (0, 1, 61, 128, 200, 254, 255):
            changed = responses.clone()
            changed[:, 1, sample] += 5
            seen = (encoder.planes(encoder.prepare(changed)) - before).abs().amax(dim=(0, 1)) > 1e-5  # channels, steps
            near = (encoder.centres - sample).abs() <= (WIDTHS[name] - 1) / 2
            assert torch.equal(seen[0 if name == "resnet1d" else 1], near), sample
            assert name == "resnet1d" or not seen[[0, 2]].any()


def test_the_steps_of_atms_are_laid_out_over_the_response_and_say_what_they_are():
    encoder, nice = build("atms", channels=3, times=100, dim=8), build("nice", channels=3, times=250, dim=8)
    torch.testing.assert_close(encoder.centres, nice.centres * 99 / 249)
    assert "trust occlusion" in encoder.centres_note and not nice.centres_note


def test_which_encoders_have_feature_maps(monkeypatch):
    monkeypatch.setattr(brain_mlp, "WIDTH", 8)
    have = {name for name in ENCODERS if isinstance(build(name, channels=3, times=128, dim=8), Convolutional)}
    assert have == set(SHAPES)
