"""Every brain encoder against the published layer order, and the published oddities that can be asked for."""

import pytest
import torch
from torch import nn

from alignvis.encoders import brain_mlp, build
from tests.published_encoders import published_name, twin_of
from tests.published_nice import randomise

# The published EEGNet asks for "same" padding around filters of even length.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

EEG, MEG, FMRI = [(63, 250), (17, 250), (63, 100), (17, 100)], [(271, 201)], [(530, 1)]
SHAPES = {
    "atms": EEG + MEG,
    "eegnet": [*EEG, *MEG, (5, 40)],  # fewer samples than the filters are long
    "eegconformer": [*EEG, *MEG, (5, 34)],
    "resnet1d": [(63, 256), (17, 128), (3, 2560), (271, 128)],
    "lstm": EEG + MEG,
    "brain-mlp": EEG + MEG + FMRI,
    "eegproject": EEG + MEG + FMRI,
    "linear": EEG + MEG + FMRI,
}
EARLY = {
    "atms": ("token", "embed.weight", "attend.0.queries.weight"),
    "eegnet": ("temporal.weight", "temporal_norm.weight", "spatial.weight"),
    "eegconformer": ("temporal.weight", "temporal.bias", "spatial.weight", "blocks.0.0.1.queries.weight"),
    "resnet1d": ("first.weight", "blocks.1.widen.weight"),
    "lstm": ("cell.weight_ih", "cell.weight_hh", "cell.bias_hh"),
    "brain-mlp": ("first.0.weight",),
    "eegproject": ("project.weight",),
    "linear": ("map.weight",),
}
FAN_IN = {
    "eegnet": {"temporal": 64, "spatial": 63, "late": 16, "mix": 16, "head": 112},
    "eegconformer": {"temporal": 10, "spatial": 63 * 40, "mix": 40, "project.0": 1760, "project.6": 32, "head.1": 1024},
    "atms": {"embed": 250, "attend.0.queries": 250, "attend.0.output": 248, "think.0": 250, "think.3": 256},
    "lstm": {"project": 128, "head": 128},
    "eegproject": {"project": 63 * 250, "residual.1": 32},
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """4096 wide, the perceptron of fMRI takes seconds to fill; nothing but the speed depends on its width."""
    monkeypatch.setattr(brain_mlp, "WIDTH", 96)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def without_dropout(module: nn.Module, training: bool) -> nn.Module:
    for part in module.modules():
        part.train(training and not isinstance(part, nn.Dropout))
    return module


def pair(name: str, channels: int, times: int, training: bool, parity: bool = False) -> tuple[nn.Module, nn.Module]:
    ours = build(name, channels=channels, times=times, dim=32, parity=parity)
    randomise(ours)
    twin = twin_of(name, ours, channels, times, 32, parity)
    return without_dropout(ours, training), without_dropout(twin, training)


@pytest.mark.parametrize(("name", "channels", "times"), [(name, *shape) for name in SHAPES for shape in SHAPES[name]])
@pytest.mark.parametrize("training", [False, True])
def test_every_encoder_equals_the_published_order(name, channels, times, training):
    ours, twin = pair(name, channels, times, training)
    responses = random(6, channels, times) + 0.5
    with torch.no_grad():
        output, expected = ours(ours.prepare(responses)), twin(responses)
    assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
    buffers = {published_name(key): value for key, value in ours.named_buffers()}
    for key, value in twin.named_buffers():
        torch.testing.assert_close(buffers[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_every_encoder_learns_as_the_published_order_does(name, training):
    channels, times = (5, 128) if name != "brain-mlp" else (40, 1)
    ours, twin = (module.double() for module in pair(name, channels, times, training))
    responses, target = random(6, channels, times).double() + 0.5, random(6, 32, seed=1).double()
    (ours(ours.prepare(responses)) * target).sum().backward()
    (twin(responses) * target).sum().backward()
    expected = {key: value.grad for key, value in twin.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected.values())
    for key, value in ours.named_parameters():
        gradient, theirs = value.grad, expected[published_name(key)]
        difference = gradient.view(theirs.shape) - theirs
        assert difference.abs().max() <= 1e-9 * largest, key
        assert gradient.abs().max() > 0 or key not in EARLY[name]


@pytest.mark.parametrize("name", FAN_IN)
def test_untrained_weights_have_the_published_spread(name):
    """Fan-in, and with it the initial range, is that of the published layers."""
    encoder = build(name, channels=63, times=250, dim=32)
    for layer, fan_in in FAN_IN[name].items():
        assert encoder.get_submodule(layer).weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.06), layer


def test_untrained_recurrent_weights_have_the_published_spread():
    cell = build("lstm", channels=63, times=250, dim=32).cell
    for weight in cell.parameters():
        assert weight.abs().max().item() == pytest.approx(128**-0.5, rel=0.06)


def test_the_learned_token_starts_as_the_published_one():
    token = torch.stack([build("atms", channels=1, times=2, dim=2, seed=seed).token.detach() for seed in range(20)])
    assert token.mean().abs() < 0.05 and abs(token.std() - 1) < 0.05


def test_the_perceptron_is_4096_wide(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        encoder = brain_mlp.BrainMLP(530, 1, 32)
    assert encoder.first[0].weight.shape == (4096, 530) and encoder.project.weight.shape == (32, 4096)
    assert [block[0].weight.shape for block in encoder.blocks] == [(4096, 4096)] * 4


# --- what the published code does by mistake -------------------------------------------------------------------------


def test_atms_loses_the_last_channel_in_parity_alone():
    ours, twin = pair("atms", 7, 100, training=False, parity=True)
    responses = random(3, 7, 100)
    tokens = ours.tokens(responses)
    torch.testing.assert_close(tokens, twin.tokens(responses))
    torch.testing.assert_close(ours(ours.prepare(responses)), twin(responses), rtol=1e-4, atol=1e-5)

    sane = build("atms", channels=7, times=100, dim=32).eval()
    sane.load_state_dict(ours.state_dict())
    channels = sane.tokens(responses)
    assert tokens.shape == channels.shape == (3, 7, 250)
    torch.testing.assert_close(tokens[:, 1:], channels[:, :-1])  # the learned token first, the last channel gone


def test_every_channel_of_atms_has_its_own_token_except_in_parity():
    """Attention moves a little of every channel to all tokens, but a channel's own token answers it most."""
    responses = random(1, 7, 100)
    for parity, answering in ((False, [0, 1, 2, 3, 4, 5, 6]), (True, [1, 2, 3, 4, 5, 6])):
        encoder = build("atms", channels=7, times=100, dim=32, parity=parity).eval()
        with torch.no_grad():
            change = [
                (
                    encoder.tokens(responses + 9 * torch.eye(7)[channel][:, None] * random(100, seed=1))
                    - encoder.tokens(responses)
                )
                .norm(dim=2)
                .argmax()
                .item()
                for channel in range(7)
            ]
        assert change[: len(answering)] == answering


def test_the_conformer_takes_a_log_softmax_in_parity_alone():
    ours, twin = pair("eegconformer", 7, 100, training=False, parity=True)
    responses = random(3, 7, 100)
    torch.testing.assert_close(ours(responses), twin(responses), rtol=1e-4, atol=1e-5)
    sane = build("eegconformer", channels=7, times=100, dim=32).eval()
    sane.load_state_dict(ours.state_dict())
    assert (ours(responses) - sane(responses)).abs().max() > 1e-2


def test_the_recurrent_network_starts_from_noise_in_parity_alone():
    responses = random(3, 7, 20)
    for parity, same in ((False, True), (True, False)):
        encoder = build("lstm", channels=7, times=20, dim=32, parity=parity).eval()
        prepared = encoder.prepare(responses)
        assert torch.equal(encoder(prepared), encoder(prepared)) is same


def test_the_noise_has_mean_0_and_variance_1():
    encoder = build("lstm", channels=1, times=2, dim=2, parity=True)
    torch.manual_seed(0)
    start = encoder.start((1000, 128))
    assert start.mean().abs() < 0.01 and abs(start.std() - 1) < 0.01
