from dataclasses import replace
from math import cos, pi

import pytest
import torch
from torch import nn

from alignvis.decoder import Decoder
from alignvis.errors import AlignvisError
from alignvis.loss import LOSSES, info_nce, soft_clip
from alignvis.pairs import Pairs
from alignvis.recipe import LOWEST_RATE, Recipe, published_rate
from alignvis.retrieval import ranks, similarity, top_k
from alignvis.stack import Stack
from alignvis.training import Course
from alignvis.training import fit as fit_stack

MIXING = torch.randn(8, 40, generator=torch.Generator().manual_seed(99))
SHORT = Recipe(batch=32, epochs=6, rate=0.01, schedule="cosine")


def planted(n: int, seed: int = 0, noise: float = 0.5) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 8, generator=generator)
    return Pairs.of(features @ MIXING + noise * torch.randn(n, 40, generator=generator), features)


def decoder(seed: int = 0, recipe: Recipe = SHORT) -> Decoder:
    return Decoder("linear", channels=4, times=10, dim=8, recipe=recipe, seed=seed)


def linear(seed: int = 0) -> nn.Module:
    return decoder(seed).brain


def fit(encoder: nn.Module, train: Pairs, held_out: Pairs, recipe: Recipe, seed: int) -> list[dict]:
    """One run; the encoder is left with its best weights."""
    network, kept = decoder(recipe=recipe), {}
    network.brain = encoder
    courses = fit_stack(
        [network], train, held_out, recipe, [seed], finish=lambda course, state: kept.update(state), device="cpu"
    )
    if courses[0].failure:
        raise AlignvisError(courses[0].failure)
    network.load_state_dict(kept)
    return courses[0].history


def test_what_is_planted_is_found():
    encoder, held_out = linear(), planted(100, seed=1)
    history = fit(encoder, planted(512), held_out, SHORT, seed=0)
    assert history[-1]["held_out_top1"] > 0.8
    assert history[-1]["loss"] < history[0]["loss"]
    with torch.inference_mode():
        places = ranks(similarity(encoder(held_out.responses[0]), held_out.features[0]), torch.arange(100))
    assert top_k(places, 1) == max(history, key=lambda row: -row["held_out_loss"])["held_out_top1"]


def test_shuffled_pairs_stay_at_chance():
    train = planted(512)
    history = fit(
        linear(), Pairs.of(train.responses[0], train.features[0].roll(1, 0)), planted(100, seed=1), SHORT, seed=0
    )
    assert max(row["held_out_top1"] for row in history) < 0.1


def test_the_best_epoch_is_kept_and_it_is_the_one_with_the_lowest_held_out_loss():
    """Noise is learned by heart here, so the held-out loss turns up again and the last weights are not the best."""
    encoder, train, held_out = linear(), planted(64, noise=30), planted(64, seed=1, noise=30)
    recipe = replace(SHORT, rate=0.03, epochs=25)
    history = fit(encoder, train, held_out, recipe, seed=0)
    losses = [row["held_out_loss"] for row in history]
    assert losses.index(min(losses)) < len(losses) - 1
    with torch.inference_mode():
        kept = info_nce(encoder(held_out.responses[0]), held_out.features[0], 1 / recipe.temperature).item()
    assert kept == pytest.approx(min(losses), rel=1e-5)
    assert [row["best"] for row in history] == [
        loss < min([float("inf"), *losses[:i]]) for i, loss in enumerate(losses)
    ]


def test_training_stops_when_patience_ends():
    recipe = replace(SHORT, rate=0.05, epochs=60, patience=3)
    history = fit(linear(), planted(64, noise=30), planted(64, seed=1, noise=30), recipe, seed=0)
    best = max(row["epoch"] for row in history if row["best"])
    assert history[-1]["epoch"] == best + 3 < 59


def test_the_held_out_loss_is_over_64_candidates_whatever_is_held_out():
    """150 images are judged as 64 + 64 + 22, each image with the same weight."""
    encoder, held_out = linear(), planted(150, seed=1)
    row = fit(encoder, planted(64), held_out, replace(SHORT, epochs=1), seed=0)[0]
    with torch.inference_mode():
        brain = encoder(held_out.responses[0])
    parts = [(64, slice(0, 64)), (64, slice(64, 128)), (22, slice(128, 150))]
    expected = sum(n * info_nce(brain[s], held_out.features[0][s], 25.0).item() for n, s in parts) / 150
    assert row["held_out_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches():
    encoder, train = linear(), planted(64)
    with torch.inference_mode():
        brain = encoder(train.responses[0])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).split(32)
    expected = sum(info_nce(brain[rows], train.features[0][rows], 25.0).item() for rows in order) / 2
    row = fit(encoder, train, planted(20, seed=1), replace(SHORT, epochs=1, rate=1e-9, schedule="published"), seed=0)[0]
    assert row["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_loop_is_adamw_written_out():
    """Two steps of one batch each, with torch's pieces called one by one."""
    train, recipe = planted(32), replace(SHORT, epochs=2, decay=0.3, clip=0.01)
    ours, theirs = linear(), linear()
    history = fit(ours, train, planted(10, seed=1), replace(recipe, patience=9), seed=0)
    assert history[-1]["best"]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.3)
    for step in range(2):
        order = torch.randperm(32, generator=generator)
        optimizer.param_groups[0]["lr"] = LOWEST_RATE + (0.01 - LOWEST_RATE) * (1 + cos(pi * step / 2)) / 2
        loss = info_nce(theirs(train.responses[0][order]), train.features[0][order], 25.0)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in theirs.parameters()]).norm()
        assert norm > 0.01
        for p in theirs.parameters():
            p.grad *= 0.01 / norm
        optimizer.step()
    torch.testing.assert_close(ours.map.weight, theirs.map.weight, rtol=1e-5, atol=1e-7)


def test_the_schedule_reaches_the_optimizer():
    history = fit(linear(), planted(64), planted(20, seed=1), replace(SHORT, schedule="published"), seed=0)
    assert history[0]["rate"] == SHORT.rate
    for before, after in zip(history, history[1:], strict=False):
        assert after["rate"] == published_rate(0, [before["held_out_loss"]], SHORT)


def test_the_seed_decides_the_order_of_the_images():
    results = []
    for seed in (0, 0, 1):
        encoder = linear()
        fit(encoder, planted(128), planted(20, seed=1), SHORT, seed=seed)
        results.append(encoder.map.weight)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_dropout_works_while_training_and_never_while_scoring():
    class Counting(nn.Dropout):
        modes: list[bool] = []

        def forward(self, x):
            self.modes.append(self.training)
            return super().forward(x)

    encoder = nn.Sequential(nn.Linear(40, 8), Counting())
    fit(encoder, planted(64), planted(20, seed=1), replace(SHORT, epochs=2), seed=0)
    assert Counting.modes == [True, True, False] * 2


def test_a_batch_larger_than_the_data_is_refused_with_the_numbers():
    with pytest.raises(
        AlignvisError, match="20 images are left to train on and a batch takes 32; choose --batch 20 or less"
    ):
        fit(linear(), planted(20), planted(10), SHORT, seed=0)


def test_training_that_diverges_is_told():
    train = planted(64)
    with pytest.raises(AlignvisError, match="not finite in epoch 1: training diverged"):
        fit(linear(), Pairs.of(train.responses[0] * torch.inf, train.features[0]), planted(20, seed=1), SHORT, seed=0)


def first_epoch(recipe: Recipe, train: Pairs, held_out: Pairs) -> tuple[dict, nn.Module]:
    """One epoch at a rate that changes nothing, and the encoder as it began."""
    recipe = replace(recipe, epochs=1, rate=1e-12, schedule="constant")
    return fit(linear(), train, held_out, recipe, seed=0)[0], linear()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sides", ["both", "image", "none"])
@pytest.mark.parametrize("centre", [True, False])
def test_the_objective_that_is_asked_for_is_the_one_that_is_used(loss, sides, centre):
    """In training and on what is held out; temperature, sides and centring as the recipe says."""
    recipe = replace(SHORT, loss=loss, sides=sides, centre=centre, temperature=0.5)
    train, held_out = planted(32), planted(40, seed=1)
    row, encoder = first_epoch(recipe, train, held_out)
    function = {"infonce": info_nce, "softclip": soft_clip}[loss]
    with torch.inference_mode():
        for key, pairs in (("loss", train), ("held_out_loss", held_out)):
            expected = function(encoder(pairs.responses[0]), pairs.features[0], 2.0, sides, centre).item()
            assert row[key] == pytest.approx(expected, rel=1e-4), key
        similarities = similarity(encoder(held_out.responses[0]), held_out.features[0], sides, centre)
    assert row["held_out_top1"] == top_k(ranks(similarities, torch.arange(40)), 1)


@pytest.mark.parametrize("changes", [{"loss": "softclip"}, {"sides": "image"}, {"centre": False}, {"scale": "learned"}])
def test_what_is_planted_is_found_by_other_objectives_too(changes):
    history = fit(linear(), planted(512), planted(100, seed=1), replace(SHORT, **changes), seed=0)
    assert history[-1]["held_out_top1"] > 0.8


@pytest.mark.parametrize(("batch", "subjects", "steps"), [(32, 1, 3), (33, 1, 3), (100, 1, 1), (32, 2, 6)])
def test_an_epoch_has_as_many_steps_as_batches_and_rates_rise_with_them(monkeypatch, batch, subjects, steps):
    """100 images; the rate rises over one and a half epochs under half a cosine over all of them."""
    rates, original = [], Stack.step

    def spy(self, rate, decay, clip, rate_apart):
        rates.append((rate.item(), decay, clip, rate_apart))
        original(self, rate, decay, clip, rate_apart)

    monkeypatch.setattr(Stack, "step", spy)
    one = planted(100)
    train = replace(one, responses=one.responses.expand(2, -1, -1), brains=torch.arange(subjects)[None])
    recipe = replace(SHORT, batch=batch, epochs=4, warmup=1.5, decay=0.2, clip=3.0, scale_rate=0.5, rate=1e-3)
    history = fit(linear(), train, planted(20, seed=1), recipe, seed=0)
    cosine = [LOWEST_RATE + (1e-3 - LOWEST_RATE) * (1 + cos(pi * i / (4 * steps))) / 2 for i in range(4 * steps)]
    expected = [rate * min(1, (i + 1) / (1.5 * steps)) for i, rate in enumerate(cosine)]
    assert [row[0] for row in rates] == pytest.approx(expected)
    assert {row[1:] for row in rates} == {(0.2, 3.0, 0.5)}
    assert [row["rate"] for row in history] == pytest.approx(expected[steps - 1 :: steps])


def test_the_plateau_hears_of_the_held_out_losses():
    recipe = replace(SHORT, rate=0.02, epochs=30, schedule="plateau")
    history = fit(linear(), planted(64, noise=30), planted(64, seed=1, noise=30), recipe, seed=0)
    losses = [row["held_out_loss"] for row in history]
    assert [row["rate"] for row in history] == pytest.approx(
        [recipe.rate_at(0, 1, 1, losses[:epoch]) for epoch in range(len(losses))]
    )
    assert history[-1]["rate"] < 0.02


def test_decay_takes_from_every_weight_a_share_of_the_rate():
    """Steps of two runs that differ in nothing else differ by that alone, as long as the steps are the first."""
    kept = []
    for decay in (0.0, 0.5):
        encoder = linear()
        fit(encoder, planted(32), planted(20, seed=1), replace(SHORT, epochs=1, decay=decay, patience=9), seed=0)
        kept.append(encoder.map.weight)
    torch.testing.assert_close(kept[0] - kept[1], 0.01 * 0.5 * linear().map.weight, rtol=1e-3, atol=1e-6)


def test_a_gradient_below_the_norm_is_left_as_it_is():
    train, ours, theirs = planted(32), linear(), linear()
    fit(ours, train, train, replace(SHORT, epochs=3, schedule="constant", clip=1e4), seed=0)
    generator, optimizer = (
        torch.Generator().manual_seed(0),
        torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.1),
    )
    for _ in range(3):
        order = torch.randperm(32, generator=generator)
        optimizer.zero_grad()
        info_nce(theirs(train.responses[0][order]), train.features[0][order], 25.0).backward()
        optimizer.step()
    torch.testing.assert_close(ours.map.weight, theirs.map.weight, rtol=1e-4, atol=1e-6)


def test_patience_by_hand():
    """Of losses 3, 2, 2, 4 and so on, epoch 1 is the best; an equal loss is no better."""
    course, ends = Course(0, 9, torch.Generator()), []
    for loss in (3.0, 2.0, 2.0, 4.0, 2.5):
        course.add(1e-3, 1.0, loss, 0.5)
        ends.append([course.ended(patience) for patience in (1, 2, 3, 4)])
    assert [row["best"] for row in course.history] == [True, True, False, False, False]
    assert ends == [
        [False, False, False, False],
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]
    for loss in (1.0, 3.0, 3.0, 3.0):
        course.add(1e-3, 1.0, loss, 0.5)
    assert course.ended(30) and course.failure is None  # nine epochs are all there are


@pytest.mark.parametrize(("loss", "held_out"), [(float("nan"), 1.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_a_course_that_leaves_the_numbers_has_failed(loss, held_out):
    course = Course(0, 9, torch.Generator())
    course.add(1e-3, 1.0, 2.0, 0.5)
    course.add(1e-3, loss, held_out, 0.5)
    assert course.ended(30) and "not finite in epoch 2" in course.failure


def repeated(n: int, seed: int = 0, repetitions: int = 4, noise: float = 1.5, mixed: str | None = None) -> Pairs:
    """The same images seen several times; averaged beforehand unless they are to be mixed."""
    one = planted(n, seed, noise=0)
    noisy = one.responses[:, :, None] + noise * torch.randn(
        1, n, repetitions, 40, generator=torch.Generator().manual_seed(seed + 5)
    )
    return replace(one, responses=noisy if mixed else noisy.mean(dim=2), mixed=mixed)


def test_repetitions_that_are_mixed_anew_teach_something_else_and_the_same():
    weights, held_out_losses = {}, {}
    for mixed in (None, "subset", "pairs"):
        encoder = linear()
        held_out = repeated(100, seed=1, mixed=mixed)
        history = fit(encoder, repeated(512, mixed=mixed), held_out, SHORT, seed=0)
        assert history[-1]["held_out_top1"] > 0.7
        weights[mixed] = encoder.map.weight
        held_out_losses[mixed], _ = first_epoch(SHORT, repeated(64, mixed=mixed), held_out)
    assert not torch.allclose(weights[None], weights["subset"], atol=1e-3)
    assert not torch.allclose(weights["subset"], weights["pairs"], atol=1e-3)
    # every choice is made on the mean of all repetitions, however they are mixed for training
    losses = [row["held_out_loss"] for row in held_out_losses.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    trained_on = [row["loss"] for row in held_out_losses.values()]
    assert len({round(loss, 3) for loss in trained_on}) == 3


def test_what_several_subjects_held_out_is_the_mean_over_them():
    """The third table is of a subject that this run does not learn from, and is never looked at."""
    tables = torch.stack([planted(90, seed, noise).responses[0] for seed, noise in ((1, 0.0), (1, 2.0), (1, 0.0))])
    tables[2] = torch.nan
    one = planted(90, 1)
    held_out = replace(one, responses=tables, brains=torch.tensor([[0, 1]]))
    encoder = linear()
    history = fit(encoder, replace(held_out, rows=held_out.rows[:, :64]), held_out, replace(SHORT, epochs=2), seed=0)
    assert history[-1]["best"]
    losses, shares = [], []
    with torch.inference_mode():
        for table in tables[:2]:
            brain = encoder(table)
            parts = [
                info_nce(brain[s], one.features[0][s], 25.0) * n for n, s in ((64, slice(64)), (26, slice(64, 90)))
            ]
            losses.append(sum(parts).item() / 90)
            shares.append(top_k(ranks(similarity(brain, one.features[0]), torch.arange(90)), 1))
    assert history[-1]["held_out_loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert history[-1]["held_out_top1"] == pytest.approx(sum(shares) / 2) and shares[0] != shares[1]
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def test_streamed_training_is_training():
    results = []
    for streamed in (False, True):
        encoder = linear()
        history = fit(encoder, replace(planted(128), streamed=streamed), planted(20, seed=1), SHORT, seed=0)
        results.append((encoder.map.weight, history))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
