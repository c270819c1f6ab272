"""The published recipe as we run it, against the published loop written out, on the same simulated subject."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alignvis import store
from alignvis.averaging import average
from alignvis.recipe import RECIPES
from tests.known_answer import Recording, make_recording, make_subject
from tests.published_loop import Shown, published_fit, published_top1, write_embeddings

IMAGES, SEEDS = 1280, range(5)
RECIPE = replace(RECIPES["alignvis"], rate=2e-3, epochs=10)  # for both alike: seventy times fewer steps than published


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Recording:
    """As many times as give NICE six outputs a filter."""
    subject = make_subject(noise=0.3, times=100)
    return make_recording(tmp_path_factory.mktemp("loops"), subject, images=IMAGES, repetitions=4)


@pytest.fixture(scope="module")
def shown(recording) -> tuple[Shown, Shown]:
    """What the published loop reads, training and test pictures: in double precision.

    A bias before a BatchNorm changes nothing, so its gradient is rounding noise. In single precision AdamW scales that
    noise up to full steps, the running means follow too late, and at this rate the published layer order loses two
    points in a hundred. Ours folds the first BatchNorm into its filters, where that gradient is zero.
    """
    files = write_embeddings(recording.folder / "embeddings", recording.embeddings)
    parts = (recording.train, files[:IMAGES]), (recording.test, files[IMAGES:])
    train, test = (Shown(responses, paths, torch.float64) for responses, paths in parts)
    return train, test


def test_both_are_fed_the_same_responses(recording, shown):
    recording.score("linear", replace(RECIPE, epochs=1))
    (path,) = recording.folder.glob("linear-*/responses.safetensors")
    ours = average(store.load_responses(path), "train", RECIPE, lambda responses: responses)
    theirs = torch.stack([shown[0][image][0] for image in range(IMAGES)])
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_both_loops_reach_the_same_score(recording, shown):
    """Five seeds of each, which share their first weights and nothing else: no difference in a paired t-test."""
    scores = []
    for seed in SEEDS:
        encoder = published_fit(shown[0], rate=RECIPE.rate, epochs=RECIPE.epochs, seed=seed)
        scores.append((recording.score("nice", RECIPE, seed=seed)["top1"], published_top1(encoder, shown[1])))
    ours, theirs = np.array(scores).T
    difference, error = (ours - theirs).mean(), (ours - theirs).std(ddof=1) / len(SEEDS) ** 0.5
    ceiling, _ = recording.ceiling()
    print(f"ours {ours}, mean {ours.mean():.4f}; published {theirs}, mean {theirs.mean():.4f}")
    print(f"difference {difference:+.4f} ± {error:.4f}; ceiling {ceiling:.3f}; chance 0.0025")
    assert abs(difference) < 4 * error < 0.08
    assert 0.7 < min(ours.min(), theirs.min()) and max(ours.mean(), theirs.mean()) < ceiling
