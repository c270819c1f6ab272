"""A recording that tells pictures apart in one channel and one window of time, and nowhere else."""

from pathlib import Path

import numpy as np

from alignvis.recipe import Recipe
from alignvis.recordings.brain import ELECTRODES, drives, make_brain
from alignvis.train_runs import train_run
from tests.tables import image_ids, write_features, write_responses

CHANNELS = ["Fz", "Cz", "T7", "Pz", "Oz"]
CHANNEL, WINDOW = 4, slice(40, 60)  # Oz, 0.4 to 0.6 s at 100 Hz
TIMES, DIM = 100, 6
RECIPE = Recipe(batch=50, epochs=15, rate=1e-2, schedule="cosine", validation="concept", normalisation="none")


def hidden(
    root: Path, *, gain: float = 1.0, noise: float = 0.1, common: float = 0.2, tests: int = 40, twin: bool = False
) -> Path:
    """A root with responses/tiny/sub-01 and features of "plain", and with ``twin`` of "plain_noalign" too.

    Args:
        gain: of what tells pictures apart; at 0 there is nothing to find.
        noise: standard deviation of every value of a trial.
        common: size of a wave in all channels that is the same for all pictures.
    """
    rng = np.random.default_rng(5)
    ids = image_ids(30, 10), image_ids(tests, 1, "test_images")
    embeddings = rng.standard_normal((len(ids[0]) + tests, DIM))
    window = np.arange(WINDOW.stop - WINDOW.start)
    courses = np.sin(np.pi * np.outer(np.arange(1, DIM + 1), window + 0.5) / len(window))
    signal = np.zeros((len(embeddings), 1, len(CHANNELS), TIMES))
    signal[:, 0, CHANNEL, WINDOW] = gain * embeddings @ courses
    signal += common * np.sin(np.arange(TIMES) / 9)
    train = signal[: len(ids[0])] + noise * rng.standard_normal((len(ids[0]), 2, len(CHANNELS), TIMES))
    test = signal[len(ids[0]) :] + noise * rng.standard_normal((tests, 4, len(CHANNELS), TIMES))
    write_responses(root / "responses/tiny/sub-01.safetensors", train, test, ids, channels=CHANNELS)
    about = {"encoder": "plain", "aligned": True, "twin": "plain_noalign"}
    write_features(root / "features/tiny/plain.safetensors", embeddings, ids[0] + ids[1], **about)
    if twin:
        noisy = embeddings + rng.standard_normal(embeddings.shape)
        about = {"encoder": "plain_noalign", "aligned": False, "twin": "plain"}
        write_features(root / "features/tiny/plain_noalign.safetensors", noisy, ids[0] + ids[1], **about)
    return root


def trained(root: Path, encoder: str, name: str = "", features: str = "plain", recipe: Recipe = RECIPE, seed: int = 0):
    """Train one run on it; its folder."""
    run = root / "runs" / (name or encoder)
    tables = root / "responses/tiny/sub-01.safetensors", root / f"features/tiny/{features}.safetensors"
    train_run(*tables, run, encoder=encoder, recipe=recipe, recipe_name="hidden", seed=seed)
    return run


def simulated_brain(root: Path, *, images: int = 400, tests: int = 60, noise: float = 1.0, seed: int = 0) -> Path:
    """A root as `hidden` makes it, in which the simulator's own brain answers, at 63 electrodes and 250 Hz.

    It answers 50 to 300 ms after onset, through bumps around C, CP, P, PO and O electrodes. Embeddings are its factors.
    """
    factors = 6
    rng = np.random.default_rng([seed, 9])
    brain = make_brain(factors, noise, 2.0, np.random.default_rng(seed))
    ids = image_ids(images // 10, 10), image_ids(tests, 1, "test_images")
    latent = rng.standard_normal((images + tests, factors))
    courses = np.zeros((len(brain.courses), 1000))
    courses[:, : brain.courses.shape[1]] = brain.courses
    signal = np.einsum("is,sc,st->ict", drives(latent), brain.patterns, courses[:, ::4])[:, None]

    def recorded(clean: np.ndarray, repetitions: int) -> np.ndarray:
        drawn = rng.standard_normal((len(clean), repetitions, *clean.shape[2:]), dtype=np.float32)
        return clean + np.einsum("dc,irct->irdt", brain.mixing.astype("f4"), drawn)

    tables = recorded(signal[:images], 2), recorded(signal[images:], 4)
    about = {"channels": list(ELECTRODES), "sfreq": 250.0}
    write_responses(root / "responses/tiny/sub-01.safetensors", *tables, ids, **about)
    write_features(root / "features/tiny/plain.safetensors", latent, ids[0] + ids[1], encoder="plain")
    return root
