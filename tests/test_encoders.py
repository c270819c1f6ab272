import pytest
import torch

from alignvis.encoders import ENCODERS, build
from alignvis.errors import AlignvisError
from tests.published_nice import published_from, randomise


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("off", ["dropout", "residual.2"])
def test_nice_drops_out_both_of_its_planes_and_of_its_residual(off):
    encoder = build("nice", channels=3, times=80, dim=4)
    encoder.get_submodule(off).p = 0.0
    prepared = encoder.prepare(random(8, 3, 80))
    assert not torch.equal(encoder(prepared), encoder(prepared))
    encoder.eval()
    assert torch.equal(encoder(prepared), encoder(prepared))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("channels", "times", "dim"), [(63, 250, 16), (17, 100, 3), (1, 75, 1)])
def test_every_encoder_has_the_one_signature(name, channels, times, dim):
    encoder = build(name, channels=channels, times=times, dim=dim)
    responses = random(5, channels, times)
    prepared = encoder.prepare(responses)
    assert encoder(prepared).shape == (5, dim)
    torch.testing.assert_close(encoder.prepare(responses[2:3]), prepared[2:3])  # row by row


@pytest.mark.parametrize("name", ENCODERS)
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build(name, channels=3, times=80, dim=4, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_response_that_is_too_short_is_refused_with_the_numbers():
    with pytest.raises(AlignvisError, match="at least 75 samples in time and these responses have 74"):
        build("nice", channels=3, times=74, dim=4)
    with pytest.raises(AlignvisError, match="no brain encoder is called 'nise'; there are: nice, linear"):
        build("nise", channels=3, times=80, dim=4)
