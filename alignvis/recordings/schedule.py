"""When which picture is shown: the published design at any size."""

import math

import numpy as np
from numpy.typing import NDArray

from alignvis.recordings.ceiling import SEQUENCE
from alignvis.recordings.trials import TARGET

SESSIONS = 4


def concept_halves(concepts: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Deal the training concepts to the four sessions: the first two share them out, and again the last two.

    Returns:
        For each session the codes of its pictures, rising.
    """
    sessions = []
    for _ in range(SESSIONS // 2):
        shuffled = generator.permutation(concepts)
        for half in np.array_split(shuffled, 2):
            sessions.append((np.sort(half)[:, None] * 10 + np.arange(1, 11)).ravel())
    return sessions


def sequences(
    codes: NDArray[np.int64], repetitions: int, spare: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Order one file's trials: every picture `repetitions` times, in random order, in sequences of twenty.

    What is over in the last sequences shows some pictures again, none more than `spare` times if there are enough
    pictures; one sequence in nine holds the catch picture, never first. With the published numbers of pictures this
    gives the published numbers of sequences.

    Returns:
        (sequences, 20) codes.
    """
    wanted = repetitions * len(codes)
    # A hundredth of the trials is extra, and a tenth of a trial in each sequence is the catch picture.
    count = math.ceil(1.01 * wanted / (SEQUENCE - 0.1))
    targets = max(1, round(count / 9))
    extra = SEQUENCE * count - wanted - targets
    again = [generator.permutation(codes) for _ in range(math.ceil(extra / len(codes)))]
    if spare > len(again):
        again = [generator.permutation(np.repeat(codes, spare))]
    trials = generator.permutation(np.concatenate([np.repeat(codes, repetitions), *again])[: wanted + extra])
    order = np.zeros((count, SEQUENCE), dtype=np.int64)
    order[generator.choice(count, targets, replace=False), generator.integers(1, SEQUENCE, targets)] = TARGET
    order[order == 0] = trials
    return order
