"""A subject whose best possible score is known: a linear answer to latent factors, in white Gaussian noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.recipe import Recipe
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from tests.tables import image_ids, write_features, write_responses

FACTORS = 8
TESTS = 400  # test pictures, each of a concept of its own
TRAIN_REPETITIONS = 4


@dataclass(frozen=True)
class Subject:
    """What is known of a simulated subject.

    A trial's response is z·T + noise. The templates T are orthonormal, slow, and sum to zero over time in every
    channel; factors z have length one; embeddings are factors turned into a larger space in which every vector sums to
    zero. So nothing that the published treatment of responses and embeddings takes away was signal, and the likeliest
    picture is the one whose embedding has the largest correlation with the best reading of a response.

    Attributes:
        templates: (factors, channels, times).
        turn: (factors, dim).
        noise: standard deviation of one sample of one trial.
    """

    templates: NDArray[np.float64]
    turn: NDArray[np.float64]
    noise: float
    seed: int

    def best_top1(self, latent: NDArray[np.float64], repetitions: int, draws: int = 50) -> tuple[float, float]:
        """Share of pictures named by whoever knows templates, noise and factors, and the share's standard error.

        As `recordings.ceiling`: a reading of the mean of n trials is z + N(0, noise² / n), and the nearest z is named.
        The standard error is that of as many test pictures as there are, and of the Monte Carlo.
        """
        generator = np.random.default_rng([self.seed, repetitions])
        hits = np.zeros(len(latent))
        for _ in range(draws):
            read = latent + self.noise / repetitions**0.5 * generator.standard_normal(latent.shape)
            hits += named(read, latent)
        share = float(hits.mean() / draws)
        return share, float(np.sqrt(share * (1 - share) / len(latent) * (1 + 1 / draws)))


def named(read: NDArray[np.float64], latent: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each row of ``read`` is nearest to its own row of ``latent``; both have rows of length one, or nearly."""
    closeness = read @ latent.T - (latent**2).sum(axis=1) / 2
    return closeness.argmax(axis=1) == np.arange(len(latent))


def make_subject(*, noise: float, channels: int = 4, times: int = 24, dim: int = 24, seed: int = 0) -> Subject:
    """Draw a subject: its templates are mixtures of the channels' two slowest sines."""
    generator = np.random.default_rng([seed, 0])
    phase = 2 * np.pi * np.arange(times) / times
    slow = np.stack([np.sin(phase), np.cos(phase)]) * (2 / times) ** 0.5
    mixing = np.linalg.qr(generator.standard_normal((2 * channels, FACTORS)))[0].T.reshape(FACTORS, channels, 2)
    basis = generator.standard_normal((dim, FACTORS))
    turn = np.linalg.qr(basis - basis.mean(axis=0))[0].T
    return Subject(mixing @ slow, turn, noise, seed)


def factors(pictures: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw pictures: (pictures, factors) of length one, ten to a concept, as alike as in the project's simulations."""
    centre = generator.standard_normal((-(-pictures // 10), FACTORS)).repeat(10, axis=0)[:pictures]
    latent = centre + 0.7 * generator.standard_normal((pictures, FACTORS))
    return latent / np.linalg.norm(latent, axis=1, keepdims=True)


@dataclass(frozen=True)
class Recording:
    """Tables of one subject in one folder, cut as asked for.

    Attributes:
        train, test: (pictures, repetitions, channels, times).
        embeddings: (train and test pictures, dim).
        latent: (test pictures, factors).
    """

    folder: Path
    subject: Subject
    train: NDArray[np.float32]
    test: NDArray[np.float32]
    embeddings: NDArray[np.float64]
    latent: NDArray[np.float64]

    def score(
        self,
        encoder: str,
        recipe: Recipe,
        *,
        images: int | None = None,
        repetitions: int | None = None,
        seed: int = 0,
        shuffled: bool = False,
    ) -> dict[str, Any]:
        """Train on the first so many training pictures, and be asked with so many test repetitions: files to score.

        Args:
            shuffled: give every training picture the embedding of another one.
        """
        train, test = self.train[:images], self.test[:, :repetitions]
        ids = image_ids(len(train) // 10, 10), image_ids(len(test), 1, "test_images")
        rows = np.arange(len(train))
        rows = np.random.default_rng([seed, 3]).permutation(rows) if shuffled else rows
        known = np.concatenate([self.embeddings[rows], self.embeddings[len(self.train) :]])
        order = np.random.default_rng(4).permutation(len(known))  # rows are joined by id, never by position
        name = f"{encoder}-{len(train)}-{test.shape[1]}-{seed}-{shuffled}"
        features = write_features(
            self.folder / name / "features.safetensors", known[order], [[*ids[0], *ids[1]][row] for row in order]
        )
        channels = [f"E{channel}" for channel in range(train.shape[2])]
        responses = write_responses(self.folder / name / "responses.safetensors", train, test, ids, channels=channels)
        run = self.folder / name / "run"
        train_run(responses, features, run, encoder=encoder, recipe=recipe, seed=seed)
        return evaluate_run(run)

    def ceiling(self, repetitions: int | None = None) -> tuple[float, float]:
        """Best top-1 with so many test repetitions, and its standard error."""
        return self.subject.best_top1(self.latent, repetitions or self.test.shape[1])

    def best_possible(self, repetitions: int | None = None) -> float:
        """Top-1 on these very trials of whoever knows templates and factors: free of the luck of the draw."""
        mean = self.test[:, :repetitions].mean(axis=1)
        return float(named(np.einsum("pct,kct->pk", mean, self.subject.templates), self.latent).mean())


def make_recording(folder: Path, subject: Subject, *, images: int, repetitions: int) -> Recording:
    """Show training pictures four times each and test pictures ``repetitions`` times each."""
    generator = np.random.default_rng([subject.seed, 1])
    shown, asked = factors(images, generator), factors(10 * TESTS, generator)[::10]

    def responses(latent: NDArray[np.float64], repetitions: int) -> NDArray[np.float32]:
        signal = np.einsum("pk,kct->pct", latent, subject.templates)[:, None]
        shape = (len(latent), repetitions, *signal.shape[2:])
        return (signal + subject.noise * generator.standard_normal(shape)).astype("f4")

    embeddings = np.concatenate([shown, asked]) @ subject.turn
    return Recording(
        folder, subject, responses(shown, TRAIN_REPETITIONS), responses(asked, repetitions), embeddings, asked
    )
