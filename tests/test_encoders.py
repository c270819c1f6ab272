import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from alignvis.encoders import ENCODERS, brain_mlp, build
from alignvis.errors import AlignvisError
from tests.published_nice import published_from, randomise

EEG, MEG, FMRI = [(63, 250), (17, 250), (63, 100), (17, 100)], (271, 201), (530, 1)
NEEDS = {"nice": 75, "atms": 2, "eegnet": 32, "eegconformer": 34, "resnet1d": 2, "lstm": 2}  # samples in time
DROPOUT = {
    "nice": [0.5, 0.5],
    "atms": [0.25] * 5 + [0.5] * 2,
    "eegnet": [0.5, 0.5],
    "eegconformer": [0.25] + [0.5] * 8 + [0.5, 0.3],
    "resnet1d": [0.5] * 10,
    "lstm": [],
    "brain-mlp": [0.5] + [0.15] * 4,
    "eegproject": [0.3],
    "linear": [],
}
FIRST_HEAD = {"nice", "atms", "brain-mlp", "eegconformer"}  # those of which the published last layer can be left out


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """4096 wide, the perceptron of fMRI takes seconds to fill; nothing but the speed depends on its width."""
    monkeypatch.setattr(brain_mlp, "WIDTH", 96)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times_of(name: str, times: int = 100) -> int:
    return 128 if name == "resnet1d" else times


def dropouts(module: nn.Module) -> list[nn.Dropout]:
    return [part for part in module.modules() if isinstance(part, nn.Dropout)]


def runs_of(name: str, count: int = 3) -> list[nn.Module]:
    """Encoders of one shape in different states."""
    encoders = [build(name, channels=5, times=times_of(name), dim=8, seed=seed) for seed in range(count)]
    for seed, encoder in enumerate(encoders):
        randomise(encoder, seed)
    return encoders


def stacked(encoders: list[nn.Module]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Copies of all parameters and buffers, with a leading axis for the run."""
    parameters = {
        name: torch.stack([encoder.get_parameter(name).detach() for encoder in encoders]).requires_grad_()
        for name, _ in encoders[0].named_parameters()
    }
    buffers = {
        name: torch.stack([encoder.get_buffer(name) for encoder in encoders]) for name, _ in encoders[0].named_buffers()
    }
    return parameters, buffers


def together(encoder: nn.Module, state: dict[str, torch.Tensor], prepared: torch.Tensor) -> torch.Tensor:
    def one(state: dict[str, torch.Tensor], prepared: torch.Tensor) -> torch.Tensor:
        return functional_call(encoder, state, (prepared,))

    return vmap(one, randomness="different")(state, prepared)


@pytest.mark.parametrize(("channels", "times"), [(63, 250), (17, 100), (5, 77), (271, 201)])
@pytest.mark.parametrize("training", [False, True])
def test_nice_equals_the_published_order(channels, times, training):
    ours = build("nice", channels=channels, times=times, dim=32)
    randomise(ours)
    published = published_from(ours, channels, times, 32)
    for module in (*ours.modules(), *published.modules()):
        module.train(training and not isinstance(module, torch.nn.Dropout))
    responses, target = random(6, channels, times), random(6, 32, seed=1)
    outputs, gradients = [], []
    for module, inputs in ((ours, ours.prepare(responses)), (published, responses)):
        outputs.append(module(inputs))
        (outputs[-1] * target).sum().backward()
        gradients.append(module.project.weight.grad)
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-5 * outputs[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-5 * gradients[1].abs().max()
    for ours_norm, norm in ((ours.temporal_norm, published.features[2]), (ours.spatial_norm, published.features[5])):
        torch.testing.assert_close(ours_norm.running_mean, norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours_norm.running_var, norm.running_var, rtol=1e-3, atol=1e-5)


def test_the_first_filter_learns_the_same_in_both_orders():
    ours = build("nice", channels=4, times=90, dim=8).double().eval()
    published = published_from(ours, 4, 90, 8).double().eval()
    responses = random(3, 4, 90).double()
    ours(ours.prepare(responses)).square().sum().backward()
    published(responses).square().sum().backward()
    expected = published.features[0].weight.grad.view(40, 25)
    torch.testing.assert_close(ours.temporal.weight.grad, expected)


def test_untrained_weights_have_the_published_spread():
    """Fan-in, and with it the initial range, is that of the published convolutions."""
    ours = build("nice", channels=63, times=250, dim=64)
    for layer, fan_in in ((ours.temporal, 25), (ours.spatial, 63 * 40), (ours.mix, 40), (ours.project, 1440)):
        assert layer.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.05)


# --- what holds for every encoder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("channels", "times"), [*EEG, MEG, FMRI, (1, 75), (63, 256), (17, 128)])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("parity", [True, False])
def test_every_encoder_takes_a_shape_or_refuses_it_in_a_sentence(name, channels, times, head, parity):
    def encoder() -> nn.Module:
        return build(name, channels=channels, times=times, dim=33, head=head, parity=parity)

    if times < NEEDS.get(name, 1):
        with pytest.raises(AlignvisError, match=f"the encoder {name} needs at least {NEEDS[name]} .* have {times}; "):
            encoder()
    elif name == "resnet1d" and times % 128:
        with pytest.raises(AlignvisError, match=f"resnet1d needs .* have {times}, "):
            encoder()
    else:
        made = encoder().eval()
        prepared = made.prepare(random(2, channels, times))
        assert made(prepared).shape == (2, 33)


@pytest.mark.parametrize("name", ["atms", "eegnet", "eegconformer", "resnet1d", "lstm"])
def test_fmri_is_sent_to_the_encoders_that_take_it(name):
    with pytest.raises(AlignvisError, match="have 1; choose brain-mlp, eegproject or linear, which take any shape$"):
        build(name, channels=530, times=1, dim=4)


@pytest.mark.parametrize(
    ("times", "lower", "upper"), [(100, 128, 256), (201, 128, 256), (250, 128, 256), (300, 256, 384)]
)
def test_the_residual_network_says_to_which_times_one_can_interpolate(times, lower, upper):
    nearest = f"the nearest are {lower} and {upper}: interpolate with --resample {lower} or --resample {upper}"
    with pytest.raises(AlignvisError, match=f"multiple of 128 .* have {times}, and {nearest}$"):
        build("resnet1d", channels=3, times=times, dim=4)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_done_beforehand_is_linear_and_done_image_by_image(name):
    encoder = build(name, channels=5, times=times_of(name), dim=8)
    first, second = random(4, 5, times_of(name)), random(4, 5, times_of(name), seed=1)
    prepared = encoder.prepare(first)
    torch.testing.assert_close(encoder.prepare(2 * first - second), 2 * prepared - encoder.prepare(second))
    torch.testing.assert_close(encoder.prepare(first[2:3]), prepared[2:3])
    assert not prepared.requires_grad  # it has no parameters


@pytest.mark.parametrize("name", ENCODERS)
def test_an_answer_depends_on_its_own_response_alone(name):
    encoder = build(name, channels=5, times=times_of(name), dim=8).eval()
    prepared = encoder.prepare(random(4, 5, times_of(name)))
    torch.testing.assert_close(encoder(prepared[1:3]), encoder(prepared)[1:3])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (
        build(name, channels=3, times=times_of(name), dim=4, seed=seed).state_dict() for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_head_is_the_published_last_layer_and_nothing_else(name):
    def size(head: bool) -> int:
        encoder = build(name, channels=5, times=times_of(name), dim=8, head=head)
        return sum(weight.numel() for weight in encoder.parameters())

    left_out = {"eegconformer": 32 * 1024 + 1024 + 1024 * 8 + 8 - (32 * 8 + 8)}
    expected = left_out.get(name, 8 * 8 + 8) if name in FIRST_HEAD else 0
    assert size(True) - size(False) == expected


@pytest.mark.parametrize("name", ENCODERS)
def test_dropout_has_the_published_rates_and_every_one_of_them_works(name):
    encoder = build(name, channels=5, times=times_of(name), dim=8)
    prepared = encoder.prepare(random(16, 5, times_of(name)))
    rates = [part.p for part in dropouts(encoder)]
    assert rates == DROPOUT[name]
    for kept, rate in zip(range(-1, len(rates)), (0.0, *rates), strict=True):  # none first, then each alone
        for place, part in enumerate(dropouts(encoder)):
            part.p = rate if place == kept else 0.0
        assert torch.equal(encoder(prepared), encoder(prepared)) is (kept < 0), kept
    encoder.eval()
    assert torch.equal(encoder(prepared), encoder(prepared))


@pytest.mark.parametrize("name", ENCODERS)
def test_half_precision_changes_little(name):
    encoder = build(name, channels=5, times=times_of(name), dim=8)
    for part in dropouts(encoder):
        part.p = 0.0
    prepared = encoder.prepare(random(16, 5, times_of(name)))
    whole = encoder(prepared)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(prepared).float()
    assert (half - whole).norm() < 0.05 * whole.norm()


def test_half_precision_leaves_the_statistics_of_eegnet_alone():
    """They are a difference of sums, in which half precision would leave few digits of a filter that sums to zero."""
    responses, seen = 3 + random(16, 5, 100), []
    for half in (False, True):
        encoder = build("eegnet", channels=5, times=100, dim=8)
        with torch.no_grad():
            encoder.temporal.weight -= encoder.temporal.weight.mean(3, keepdim=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            encoder(responses)
        seen.append(encoder.temporal_norm.running_var)
    torch.testing.assert_close(*seen, rtol=1e-5, atol=0)


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(AlignvisError, match="no brain encoder is called 'nise'; there are: nice, atms, .*, linear$"):
        build("nise", channels=3, times=80, dim=4)


# --- many runs side by side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_runs_side_by_side_answer_as_they_do_alone(name):
    encoders = [encoder.eval() for encoder in runs_of(name)]
    prepared = torch.stack([encoders[0].prepare(random(4, 5, times_of(name), seed=seed)) for seed in range(3)])
    parameters, buffers = stacked(encoders)
    outputs = together(encoders[0], parameters | buffers, prepared)
    for output, encoder, inputs in zip(outputs, encoders, prepared, strict=True):
        expected = encoder(inputs)
        assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_runs_side_by_side_learn_as_they_do_alone(name):
    encoders = runs_of(name)
    for encoder in encoders:
        encoder.double().train()
        for part in dropouts(encoder):
            part.p = 0.0
    prepared = torch.stack([encoders[0].prepare(random(4, 5, times_of(name), seed=seed).double()) for seed in range(3)])
    target = random(4, 8, seed=9).double()
    parameters, buffers = stacked(encoders)
    before = copy.deepcopy(buffers)
    (together(encoders[0], parameters | buffers, prepared) * target).sum().backward()
    for run, (encoder, inputs) in enumerate(zip(encoders, prepared, strict=True)):
        (encoder(inputs) * target).sum().backward()
        largest = max(value.grad.abs().max() for value in encoder.parameters())
        for key, value in encoder.named_parameters():
            assert (parameters[key].grad[run] - value.grad).abs().max() <= 1e-9 * largest, key
        for key, value in encoder.named_buffers():
            torch.testing.assert_close(buffers[key][run], value)
            assert not torch.equal(buffers[key][run], before[key][run]), key


@pytest.mark.parametrize("name", [name for name in DROPOUT if DROPOUT[name]])
def test_runs_side_by_side_drop_out_apart(name):
    encoder = runs_of(name, 1)[0].train()
    prepared = encoder.prepare(random(4, 5, times_of(name)))
    parameters, buffers = stacked([encoder, encoder])
    first, second = together(encoder, parameters | buffers, torch.stack([prepared, prepared]))
    assert not torch.equal(first, second)


def test_runs_side_by_side_start_from_noise_of_their_own():
    encoder = build("lstm", channels=5, times=20, dim=8, parity=True).eval()
    prepared = encoder.prepare(random(4, 5, 20))
    first, second = together(encoder, stacked([encoder, encoder])[0], torch.stack([prepared, prepared]))
    assert not torch.equal(first, second)
