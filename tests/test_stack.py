"""Runs that step together are the runs that step alone."""

from dataclasses import replace

import pytest
import torch

from alignvis.decoder import Decoder
from alignvis.encoders import ENCODERS, brain_mlp
from alignvis.errors import AlignvisError
from alignvis.loss import info_nce
from alignvis.pairs import Pairs
from alignvis.recipe import Recipe
from alignvis.stack import Stack
from alignvis.training import Course, fit

SHAPE = {"channels": 5, "times": 128, "dim": 6}
RECIPE = Recipe(batch=16, epochs=3, rate=2e-3, schedule="cosine", patience=9)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """4096 wide, the perceptron of fMRI takes gigabytes a copy; nothing but speed and memory depends on its width."""
    monkeypatch.setattr(brain_mlp, "WIDTH", 96)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoders(name: str, runs: int, recipe: Recipe = RECIPE, dropout: bool = False) -> list[Decoder]:
    made = [Decoder(name, **SHAPE, recipe=recipe, seed=seed) for seed in range(runs)]
    for module in (module for decoder in made for module in decoder.modules()):
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    return made


def pairs(name: str, runs: int, images: int = 60, tables: int = 2) -> tuple[Pairs, Pairs]:
    """Runs on two recordings and three tables of embeddings, each with a split of its own."""
    prepare = decoders(name, 1)[0].brain.prepare
    features = random(3, images, 6, seed=1)
    mixing = random(6, 5 * 128, seed=2)
    responses = torch.stack([(f @ mixing).view(images, 5, 128) for f in features[:tables]])
    responses = responses + random(*responses.shape, seed=3)
    rows = torch.stack([torch.randperm(images, generator=torch.Generator().manual_seed(run)) for run in range(runs)])
    brains = torch.arange(runs)[:, None] % tables
    whole = Pairs(
        torch.stack([prepare(table) for table in responses]), features, brains, torch.arange(runs) % 3, rows[:, :40]
    )
    return whole, replace(whole, rows=rows[:, 40:])


def trained(networks, train, held_out, recipe=RECIPE, seeds=None, **options) -> tuple[list[Course], dict[int, dict]]:
    states: dict[int, dict] = {}
    torch.manual_seed(0)
    courses = fit(
        networks,
        train,
        held_out,
        recipe,
        seeds or list(range(len(networks))),
        finish=lambda course, state: states.update({course.run: state}),
        **options,
    )
    return courses, states


@pytest.mark.parametrize("name", ENCODERS)
def test_each_step_of_a_stack_is_each_runs_own_step(name):
    """Equal to rounding without dropout, for every architecture: weights and statistics after four steps.

    In float64: a gradient that is zero but for rounding, like that of a bias before a normalisation, has a sign that
    is chance, and in float32 AdamW follows it.
    """
    networks = [network.double() for network in decoders(name, 3)]
    train, _ = pairs(name, 3)
    together, alone = Stack(networks), [Stack([network]) for network in networks]
    rate = torch.tensor([1e-3, 2e-3, 5e-4])
    for responses, features in [*train.batches(16, [torch.Generator().manual_seed(run) for run in range(3)])] * 2:
        responses, features = responses.double(), features.double()
        for stack, runs in ((together, slice(0, 3)), *((one, slice(run, run + 1)) for run, one in enumerate(alone))):
            brain, image, scale = stack(responses[runs], features[runs])
            info_nce(brain, image, scale).sum().backward()
            stack.step(rate[runs], decay=0.1, clip=1.0, rate_apart=1e-3)
    for run, one in enumerate(alone):
        before = networks[run].state_dict()
        for key, value in one.state_dict(0).items():
            torch.testing.assert_close(together.state_dict(run)[key], value, rtol=1e-6, atol=1e-8, msg=f"{name} {key}")
        assert any(not torch.equal(before[key], value) for key, value in one.state_dict(0).items())


@pytest.mark.parametrize("name", ["nice", "linear", "eegproject"])
def test_each_run_of_a_stack_goes_the_way_that_it_goes_alone(name):
    """The whole loop: order of images, rate, losses, best epoch."""
    networks = decoders(name, 3)
    train, held_out = pairs(name, 3)
    together, states = trained(networks, train, held_out)
    for run, network in enumerate(networks):
        one = torch.tensor([run])
        (alone,), state = trained([network], train.keep(one), held_out.keep(one), seeds=[run])
        assert [row["best"] for row in together[run].history] == [row["best"] for row in alone.history]
        for key in ("rate", "loss", "held_out_loss"):
            ours, theirs = ([row[key] for row in course.history] for course in (together[run], alone))
            assert ours == pytest.approx(theirs, rel=2e-3)
        for key in (key for key in state[0] if "bias" not in key):
            torch.testing.assert_close(states[run][key], state[0][key], rtol=2e-2, atol=2e-3, msg=f"{name} {key}")
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_dropout_is_drawn_apart_for_every_run_and_follows_the_same_distribution():
    """Three equal runs get different masks; the mean output over draws is that of one alone."""
    networks = [decoders("nice", 1, dropout=True)[0] for _ in range(3)]
    stack, alone = Stack(networks), Stack(networks[:1])
    train, _ = pairs("nice", 3)
    responses, features = next(train.batches(16, [torch.Generator().manual_seed(0) for _ in range(3)]))
    responses, features = (part[:1].expand(3, *part.shape[1:]) for part in (responses, features))
    with torch.no_grad():
        first = stack(responses, features)[0]
        assert not torch.equal(first[0], first[1])
        many = torch.stack([stack(responses, features)[0] for _ in range(60)]).flatten(0, 1)
        single = torch.stack([alone(responses[:1], features[:1])[0][0] for _ in range(180)])
    spread = (many.var(dim=0) / 180 + single.var(dim=0) / 180).sqrt()
    scores = (many.mean(dim=0) - single.mean(dim=0)) / spread
    assert scores.square().mean().item() == pytest.approx(1, abs=0.6)  # differences are of the size that chance has
    assert (many.std(dim=0) / single.std(dim=0)).mean().item() == pytest.approx(1, abs=0.05)


def test_a_run_that_diverges_does_not_disturb_the_others():
    networks = decoders("eegproject", 3)
    train, held_out = pairs("eegproject", 3)
    broken = replace(train, features=train.features.clone())
    broken.features[1, 5] = torch.inf  # only run 1 learns this table
    courses, states = trained(networks, broken, replace(held_out, features=broken.features))
    assert "not finite in epoch 1" in courses[1].failure and len(courses[1].history) == 1
    whole, expected = trained(networks, train, held_out)
    for run in (0, 2):
        assert courses[run].failure is None and courses[run].history == whole[run].history
        assert all(torch.equal(states[run][key], expected[run][key]) for key in expected[run])


def test_a_run_that_stops_early_leaves_and_the_others_go_on():
    networks = decoders("linear", 3)
    train, held_out = pairs("linear", 3)
    hopeless = replace(train, features=train.features.clone())
    noise = replace(held_out, features=train.features.clone())
    noise.features[1] = random(*noise.features[1].shape, seed=9)  # run 1 is judged on noise, and gets worse
    recipe = replace(RECIPE, epochs=12, patience=2, rate=1e-2, schedule="constant")
    courses, states = trained(networks, hopeless, noise, recipe)
    assert len(courses[1].history) < 12
    assert {len(courses[run].history) for run in (0, 2)} != {len(courses[1].history)}
    for run in range(3):
        one = torch.tensor([run])
        (alone,), state = trained([networks[run]], hopeless.keep(one), noise.keep(one), recipe, seeds=[run])
        assert len(alone.history) == len(courses[run].history)
        best = [row["epoch"] for row in alone.history if row["best"]]
        assert best == [row["epoch"] for row in courses[run].history if row["best"]]
        assert all(torch.allclose(states[run][key], state[0][key], rtol=1e-3, atol=1e-5) for key in state[0])


def test_the_optimiser_is_torchs_adamw_with_a_rate_of_its_own_for_each_run():
    networks = decoders("linear", 2)
    stack = Stack(networks)
    rates = torch.tensor([1e-2, 3e-3])
    optimizers = [
        torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.3)
        for network, rate in zip(networks, rates.tolist(), strict=True)
    ]
    train, _ = pairs("linear", 2)
    generators = [torch.Generator().manual_seed(run) for run in range(2)]
    for responses, features in train.batches(16, generators):
        brain, image, _ = stack(responses, features)
        (100 * (brain - image).square().sum(dim=(1, 2))).sum().backward()
        stack.step(rates, decay=0.3, clip=1.0, rate_apart=0.0)
        for run, network in enumerate(networks):
            brain, image, _ = network(responses[run], features[run])
            (100 * (brain - image).square().sum()).backward()
            assert torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0) > 1
            optimizers[run].step()
            optimizers[run].zero_grad()
    for run, network in enumerate(networks):
        for key, value in stack.state_dict(run).items():
            torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-5, atol=1e-6)


def test_going_on_from_what_was_saved_gives_the_same_bytes():
    networks = decoders("nice", 1, dropout=True)
    train, held_out = pairs("nice", 1)
    saved = {}

    def save(stack, courses):
        if len(courses[0].history) == 2:
            course = courses[0]
            saved["state"] = {key: value.clone() for key, value in stack.state(0).items()}
            saved["random"] = torch.get_rng_state()
            saved["course"] = replace(course, history=list(course.history), generator=torch.Generator())
            saved["course"].generator.set_state(course.generator.get_state())

    recipe = replace(RECIPE, epochs=5)
    (whole,), expected = trained(networks, train, held_out, recipe, save=save)
    torch.set_rng_state(saved["random"])
    states: dict[int, dict] = {}
    (again,) = fit(
        networks,
        train,
        held_out,
        recipe,
        [0],
        finish=lambda course, state: states.update({0: state}),
        resume=[(saved["state"], saved["course"])],
    )
    assert again.history == whole.history
    assert all(torch.equal(states[0][key], expected[0][key]) for key in expected[0])


def test_too_few_images_for_a_batch_are_refused():
    train, held_out = pairs("linear", 2)
    with pytest.raises(AlignvisError, match="40 images are left to train on and a batch takes 64"):
        fit(decoders("linear", 2), train, held_out, replace(RECIPE, batch=64), [0, 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks what the GPU does")
def test_the_host_waits_once_an_epoch():
    train, held_out = (side.to("cuda") for side in pairs("nice", 3))
    modes = []

    def watch(course):
        modes.append(course.run)

    original = Stack.step

    def step(self, *arguments, **options):
        torch.cuda.set_sync_debug_mode("error")
        original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "step", step)
        patch.setattr(Stack, "train", lambda self, training=True: torch.cuda.set_sync_debug_mode("default"))
        fit(decoders("nice", 3), train, held_out, RECIPE, [0, 1, 2], device="cuda", report=watch)
    torch.cuda.set_sync_debug_mode("default")
    assert modes
