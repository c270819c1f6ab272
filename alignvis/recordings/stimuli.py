"""The image set of a simulated THINGS-EEG2: invented concepts, the published tree and lists, drawn pictures."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignvis.files import whole_file
from alignvis.progress import Progress
from alignvis.recordings.drawing import FACTORS, jpeg, paint
from alignvis.recordings.eeg2_files import IMAGE_FOLDERS, PARTS

EXEMPLARS = 10  # pictures of one training concept
SPREAD = 0.7  # of the pictures of a concept around it; concepts have spread 1
SIZES = ((256, 256), (320, 256), (256, 340), (300, 300))  # width, height


@dataclass(frozen=True)
class Pictures:
    """What there is to show.

    Attributes:
        concepts, things, files: by part ("train", "test"), one string a picture, as in image_metadata.npy.
        latent: by part, (pictures, factors), mean 0 and variance 1 over the training pictures.
        target: (factors,) of the catch picture, which is shown but not published.
    """

    concepts: dict[str, list[str]]
    things: dict[str, list[str]]
    files: dict[str, list[str]]
    latent: dict[str, NDArray[np.float64]]
    target: NDArray[np.float64]

    def ids(self, part: str) -> list[str]:
        """Image ids: paths below the image folder."""
        return [
            f"{IMAGE_FOLDERS[part]}/{name}/{file}"
            for name, file in zip(self.concepts[part], self.files[part], strict=True)
        ]

    def metadata(self) -> dict[str, list[str]]:
        """What image_metadata.npy holds: six lists."""
        lists = {}
        for part in PARTS:
            lists[f"{part}_img_concepts"] = self.concepts[part]
            lists[f"{part}_img_concepts_THINGS"] = self.things[part]
            lists[f"{part}_img_files"] = self.files[part]
        return lists

    def factors(self) -> dict[str, list[float]]:
        """The latent factors of every picture by image id."""
        return {
            image: row for part in PARTS for image, row in zip(self.ids(part), self.latent[part].tolist(), strict=True)
        }


def make_pictures(concepts: int, test: int, generator: np.random.Generator) -> Pictures:
    """Draw factors and names of `concepts` x `EXEMPLARS` training pictures and of `test` pictures of other concepts."""
    centre = generator.standard_normal((concepts + test, len(FACTORS)))
    rows = {"train": np.repeat(np.arange(concepts), EXEMPLARS), "test": concepts + np.arange(test)}
    latent = {
        part: centre[concept] + SPREAD * generator.standard_normal((len(concept), len(FACTORS)))
        for part, concept in rows.items()
    }
    mean, spread = latent["train"].mean(axis=0), latent["train"].std(axis=0)
    latent = {part: (values - mean) / spread for part, values in latent.items()}
    target = generator.standard_normal(len(FACTORS))

    words = invent_words(concepts + test, generator)
    # The alphabet numbers concepts, as in THINGS; the shift keeps each THINGS number apart from the split's own.
    number = {word: test + rank for rank, word in enumerate(sorted(words), 1)}
    split = {"train": (sorted(words[:concepts]), EXEMPLARS), "test": (sorted(words[concepts:]), 1)}
    names, things, files = {}, {}, {}
    for part, (vocabulary, each) in split.items():
        names[part] = [f"{row:05d}_{word}" for row, word in enumerate(vocabulary, 1) for _ in range(each)]
        things[part] = [f"{number[word]:05d}_{word}" for word in vocabulary for _ in range(each)]
        files[part] = [
            f"{word}_01b.jpg" if n == 1 else f"{word}_{n:02d}s.jpg" for word in vocabulary for n in range(1, each + 1)
        ]
    return Pictures(names, things, files, latent, target)


def write_pictures(folder: Path, pictures: Pictures, seed: int, progress: Progress) -> None:
    """Draw every picture that is not there yet below the image folder; `seed` decides the grain alone."""
    factors = pictures.factors()

    def draw(index: int, image: str) -> None:
        if not (folder / image).is_file():
            # Each has a generator of its own, so that a continued call draws what an uninterrupted one would have.
            generator = np.random.default_rng([seed, 0, 0, 1 + index])
            picture = paint(np.array(factors[image]), *SIZES[index % len(SIZES)], generator)
            with whole_file(folder / image) as partial:
                partial.write_bytes(jpeg(picture))

    # Closing the map drops the pictures that no thread has begun, so that an interrupted call ends at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool, closing(pool.map(draw, range(len(factors)), factors)) as drawn:
        for done, _ in enumerate(drawn, 1):
            progress(done, len(factors), "drawing pictures")


def invent_words(count: int, generator: np.random.Generator) -> list[str]:
    """Invent distinct words, in no order."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(generator.choice(syllables, 3))] = None
    return list(words)
