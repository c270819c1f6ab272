"""What is trained, and what becomes of it when it is trained."""

from dataclasses import replace

import pytest
import torch

from alignvis.decoder import Decoder
from alignvis.loss import info_nce
from alignvis.pairs import Pairs
from alignvis.recipe import Recipe
from alignvis.training import fit

SHAPE = {"channels": 4, "times": 10, "dim": 8}
SHORT = Recipe(batch=32, epochs=6, rate=0.01, schedule="constant")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoder(name: str = "linear", seed: int = 0, shape: dict = SHAPE, **changes) -> Decoder:
    return Decoder(name, **shape, recipe=replace(SHORT, **changes), seed=seed)


def trained(network: Decoder, train: Pairs, held_out: Pairs, recipe: Recipe) -> tuple[list[dict], dict]:
    kept: dict[str, torch.Tensor] = {}
    (course,) = fit([network], train, held_out, recipe, [0], finish=lambda course, state: kept.update(state))
    return course.history, kept


def planted(n: int, seed: int = 0) -> Pairs:
    features = random(n, 8, seed=seed)
    return Pairs.of(features @ random(8, 40, seed=99) + 0.5 * random(n, 40, seed=seed + 50), features)


def test_without_a_projector_images_are_left_as_they_are():
    network, embeddings = decoder(), random(3, 8)
    brain, image, scale = network(random(3, 40), embeddings)
    assert image is embeddings and brain.shape == (3, 8)
    assert scale.item() == pytest.approx(25)
    assert [name for name, _ in network.named_parameters()] == ["brain.map.weight", "brain.map.bias"]


@pytest.mark.parametrize("name", ["linear", "eegproject"])
def test_a_projector_is_a_linear_map_of_the_images_to_the_shared_dimensions(name):
    network, embeddings = decoder(name, projector=5).eval(), random(3, 8)
    brain, image, _ = network(network.brain.prepare(random(3, 4, 10)), embeddings)
    assert brain.shape == image.shape == (3, 5)
    torch.testing.assert_close(image, embeddings @ network.image.weight.T + network.image.bias)
    assert network.image.weight.shape == (5, 8)


def test_the_seed_decides_the_first_weights_and_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    states = [decoder("nice", seed, {**SHAPE, "times": 100}, projector=5).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for key in ("image.weight", "image.bias", "brain.spatial.weight"):
        assert not torch.equal(states[0][key], states[2][key])


def test_the_head_can_be_left_away():
    shape = {**SHAPE, "times": 100}
    whole, without = decoder("nice", shape=shape), decoder("nice", shape=shape, head=False)
    missing = set(whole.state_dict()) - set(without.state_dict())
    assert missing == {"brain.head.weight", "brain.head.bias"} and not set(without.state_dict()) - set(
        whole.state_dict()
    )
    prepared = whole.brain.prepare(random(3, 4, 100))
    brain, _, _ = without.eval()(prepared, random(3, 8))
    assert brain.shape == (3, 8)
    torch.testing.assert_close(whole.eval().brain(prepared), brain @ whole.brain.head.weight.T + whole.brain.head.bias)


def test_parity_repeats_a_published_mistake():
    """The published LSTM draws its first states anew at every call, so the same response has two answers."""
    responses = random(3, 4, 10)
    for parity in (False, True):
        network = decoder("lstm", parity=parity).eval()
        first, second = (network(network.brain.prepare(responses), random(3, 8))[0] for _ in range(2))
        assert torch.equal(first, second) is not parity


def test_a_fixed_scale_is_one_over_the_temperature_whatever_that_is():
    for temperature in (0.001, 0.04, 2.0):
        network = decoder(temperature=temperature)
        assert network(random(3, 40), random(3, 8))[2].item() == pytest.approx(1 / temperature)
        assert "log_scale" not in dict(network.named_parameters()) and "log_scale" in network.state_dict()


@pytest.mark.parametrize(("temperature", "expected"), [(0.04, 25), (0.011, 1 / 0.011), (0.001, 100)])
def test_a_learned_scale_begins_at_one_over_the_temperature_and_at_100_at_most(temperature, expected):
    network = decoder(scale="learned", temperature=temperature)
    assert network(random(3, 40), random(3, 8))[2].item() == pytest.approx(expected)


def test_a_learned_scale_that_was_at_its_largest_can_come_down_again():
    """Shuffled pairs: whoever is wrong had better not be sure."""
    train = planted(128)
    recipe = replace(SHORT, scale="learned", scale_rate=0.1)
    network = decoder(scale="learned", temperature=0.001)
    _, kept = trained(network, replace(train, features=train.features.roll(1, 1)), planted(40, seed=1), recipe)
    assert kept["log_scale"].exp() < 80


def test_a_fixed_scale_never_moves_and_a_learned_one_does():
    for scale in ("fixed", "learned"):
        recipe = replace(SHORT, scale=scale, scale_rate=0.02)
        _, kept = trained(decoder(scale=scale), planted(128), planted(40, seed=1), recipe)
        start = decoder().log_scale
        assert torch.equal(kept["log_scale"], start) is (scale == "fixed")
    recipe = replace(SHORT, scale="learned", scale_rate=0.0)
    _, kept = trained(decoder(scale="learned"), planted(128), planted(40, seed=1), recipe)
    assert torch.equal(kept["log_scale"], start)  # it does not move at the rate of the others, nor by their decay


def test_a_scale_that_would_run_away_stays_at_100():
    """Pictures that are told apart without an error want an ever larger scale."""
    features = random(96, 8)
    easy = Pairs.of(features @ random(8, 40, seed=99), features)
    recipe = replace(SHORT, scale="learned", scale_rate=0.3, epochs=40, rate=0.02)
    history, kept = trained(decoder(scale="learned"), easy, easy, recipe)
    network = decoder(scale="learned")
    network.load_state_dict(kept)
    brain, image, scale = network(easy.responses[0], features)
    assert scale.item() == pytest.approx(100)
    held_out = [
        info_nce(b, v, 100.0).item() * len(b) / 96 for b, v in zip(brain.split(64), image.split(64), strict=True)
    ]
    best = min(row["held_out_loss"] for row in history)
    assert best == pytest.approx(sum(held_out), rel=1e-4)  # the loss is judged by the scale that was reached


def test_the_learned_scale_is_adamw_with_a_group_of_its_own():
    """Rate of its own, not warmed up nor scheduled; no decay; the norm that is clipped is that of both groups."""
    recipe = replace(
        SHORT, scale="learned", scale_rate=0.03, decay=0.5, clip=0.05, schedule="cosine", warmup=1, epochs=3,
        projector=5, patience=9,
    )  # fmt: skip
    train, ours, theirs = planted(64), decoder(scale="learned", projector=5), decoder(scale="learned", projector=5)
    history, kept = trained(ours, train, train, recipe)
    assert history[-1]["best"]
    own = [theirs.log_scale]
    others = [value for name, value in theirs.named_parameters() if name != "log_scale"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.5}, {"params": own, "weight_decay": 0.0, "lr": 0.03}]
    )
    generator, step = torch.Generator().manual_seed(0), 0
    for _ in range(3):
        for rows in torch.randperm(64, generator=generator).split(32):
            optimizer.param_groups[0]["lr"] = recipe.rate_at(step, 6, 2, [])
            brain, image, scale = theirs(train.responses[0][rows], train.features[0][rows])
            optimizer.zero_grad()
            info_nce(brain, image, scale).backward()
            assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.05) > 0.05
            optimizer.step()
            step += 1
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert abs(kept["log_scale"] - decoder().log_scale) > 0.05


def test_the_image_side_is_trained():
    recipe = replace(SHORT, projector=6)
    network = decoder(projector=6)
    history, kept = trained(network, planted(256), planted(60, seed=1), recipe)
    assert (kept["image.weight"] - network.image.weight).abs().max() > 0.01
    assert history[-1]["held_out_top1"] > 0.5


def mean_only(n: int, seed: int) -> Pairs:
    """What the brain knows is the mean over an embedding's features, the one thing that centring takes away."""
    known, unknown = random(n, 1, seed=seed), random(n, 8, seed=seed + 10)
    features = 3 * known + unknown - unknown.mean(dim=1, keepdim=True)
    return Pairs.of(known @ random(1, 40, seed=99), features)


def test_a_projector_lets_be_learned_what_cannot_be_without():
    found = {}
    for projector in (0, 4):
        recipe = replace(SHORT, projector=projector, epochs=12, rate=0.02)
        history, _ = trained(decoder(projector=projector), mean_only(512, 0), mean_only(64, 1), recipe)
        found[projector] = max(row["held_out_top1"] for row in history), min(row["held_out_loss"] for row in history)
    assert found[0][0] < 0.1 and found[0][1] > 4.1  # log(64) = 4.16 is what chance costs
    assert found[4][0] > 0.2 and found[4][1] < 3
