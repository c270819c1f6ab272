from dataclasses import replace
from math import cos, pi

import pytest
import torch
from torch import nn

from alignvis.decoder import Decoder
from alignvis.errors import AlignvisError
from alignvis.loss import info_nce
from alignvis.pairs import Pairs
from alignvis.recipe import LOWEST_RATE, Recipe, published_rate
from alignvis.retrieval import ranks, similarity, top_k
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
        AlignvisError, match="20 images are left to train on and a batch takes 32; choose a smaller --batch"
    ):
        fit(linear(), planted(20), planted(10), SHORT, seed=0)


def test_training_that_diverges_is_told():
    train = planted(64)
    with pytest.raises(AlignvisError, match="not finite in epoch 0: training diverged"):
        fit(linear(), Pairs.of(train.responses[0] * torch.inf, train.features[0]), planted(20, seed=1), SHORT, seed=0)
