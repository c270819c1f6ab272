"""What a run took test pictures for, beside its twin: which pictures to show, and what was nearest to each.

Nothing is encoded again: all is read from the similarities that the scores were taken from.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.images.brick import PREFIX, Reader, in_brick
from alignvis.images.pixels import as_picture, decode
from alignvis.retrieval import ranks
from alignvis.runs import read_record, read_scores, stated_path
from alignvis.scoring import read_similarity

MOST = 400  # rows of a figure
CHOSEN, BEST, MEDIAN, WORST, FIRST = "chosen", "best", "median", "worst", "first"


@dataclass(frozen=True)
class Decoded:
    """A scored run and its answers.

    Attributes:
        similarity: (queries, pictures) float32.
        images: ids of the queries and of the pictures, in the order of both.
        ranks: (queries,) int64, of the right picture; 1 is best, and a tie counts against it.
        margins: (queries,) float32, by how much the right picture is more similar than the most similar other one.
    """

    run: Path
    record: dict[str, Any]
    scores: dict[str, Any]
    similarity: NDArray[np.float32]
    images: list[str]
    ranks: NDArray[np.int64]
    margins: NDArray[np.float32]

    @property
    def target(self) -> str:
        """The tensor of the features table that was learned."""
        return self.record["recipe"].get("target", "embeddings")

    @property
    def label(self) -> str:
        """The image encoder, and what of it if that is not its end."""
        return self.record["features"] + ("" if self.target == "embeddings" else f" ({self.target})")


@dataclass(frozen=True)
class Answer:
    """What a run took one response for.

    Attributes:
        rank: of the right picture.
        similarity_to_right: to the right picture.
        nearest: ids of the most similar pictures, first the most similar.
        similarities: to these.
    """

    rank: int
    similarity_to_right: float
    nearest: list[str]
    similarities: list[float]


@dataclass(frozen=True)
class Row:
    """One test picture: why it is shown, and what each run took the response to it for, in the order of the runs."""

    image: str
    why: str
    answers: list[Answer]


@dataclass(frozen=True)
class Showing:
    """Rows of runs on the same test pictures; the first run is the one that the rows were chosen by."""

    runs: list[Decoded]
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """What stands on the figure, for a program to read."""
        about = [
            {
                "run": str(one.run),
                "features": one.record["features"],
                "target": one.target,
                "aligned": one.record["aligned"],
                "seed": one.record["seed"],
                "simulated": one.record["simulated"],
            }
            for one in self.runs
        ]
        rows = [
            {"image": row.image, "why": row.why, "answers": [vars(answer) for answer in row.answers]}
            for row in self.rows
        ]
        return {"n": len(self.runs[0].images), "gallery": len(self.runs[0].images), "runs": about, "rows": rows}


def read_decoded(run: Path) -> Decoded:
    """Read what a scored run answered.

    Raises:
        AlignvisError: when the run is not whole, has no scores, or its similarities are not those that were scored.
    """
    record = read_record(run)
    if not (run / "scores.json").is_file():
        raise AlignvisError(f"{run} has no scores yet; make them with: alignvis eval {run}")
    scores = read_scores(run, record)
    similarity, images = read_similarity(run, record, scores)
    right = similarity.diagonal()
    others = similarity.clone().fill_diagonal_(-np.inf).amax(dim=1) if len(images) > 1 else right - right
    places = ranks(similarity, torch.arange(len(images)))
    return Decoded(run, record, scores, similarity.numpy(), images, places.numpy(), (right - others).numpy())


def show(
    runs: Sequence[Path],
    *,
    queries: Sequence[str] = (),
    best: int = 2,
    median: int = 2,
    worst: int = 2,
    first: int = 0,
    top: int = 5,
) -> Showing:
    """Choose test pictures and say what each run took them for.

    Args:
        runs: scored runs of one subject on the same test pictures: the one to choose by, then its twin or any others.
        queries: ids of test pictures, or parts of ids that only one has; given any, no others are chosen.
        best, median, worst: how many pictures to choose by the rank of the right picture in the first run; equal ranks
            are ordered by how much more similar the right picture is than the best other one, then by id, so that
            nobody chose. A picture is chosen once; where there are fewer, all are.
        first: how many to take from the beginning of the table instead.
        top: how many of the most similar pictures to name.

    Raises:
        AlignvisError: when a run cannot be read, the runs are not of one subject and the same test pictures, or no or
            several test pictures have an id asked for.
    """
    decoded = [read_decoded(Path(run)) for run in runs]
    chief = decoded[0]
    for other in decoded[1:]:
        if any(other.record[key] != chief.record[key] for key in ("dataset", "subject")):
            raise AlignvisError(
                f"{other.run} is of {_whose(other)}, and {chief.run} of {_whose(chief)}; show compares image encoders "
                "on the same responses, so name runs of one subject"
            )
        if set(other.images) != set(chief.images):
            shared = len(set(other.images) & set(chief.images))
            raise AlignvisError(
                f"{other.run} and {chief.run} were asked about other test pictures ({shared} of "
                f"{len(chief.images)} are the same); show runs of one dataset"
            )
    if queries:
        named = [_named(query, chief) for query in queries]
        chosen = [(image, CHOSEN) for image in dict.fromkeys(named)]
    elif first:
        chosen = [(image, FIRST) for image in chief.images[:first]]
    else:
        chosen = _by_rank(chief, best, median, worst)
    if not chosen or top < 1:
        raise AlignvisError("asked for no picture; ask for one or more, with a top of at least 1")
    if len(chosen) > MOST:
        raise AlignvisError(f"asked for {len(chosen)} pictures, and a figure has room for {MOST}; ask for fewer")
    return Showing(decoded, [Row(image, why, [_answer(one, image, top) for one in decoded]) for image, why in chosen])


def _whose(decoded: Decoded) -> str:
    return f"{decoded.record['dataset']}, subject {decoded.record['subject']}"


def _named(query: str, decoded: Decoded) -> str:
    if query in decoded.images:
        return query
    found = [image for image in decoded.images if query in image]
    if len(found) == 1:
        return found[0]
    if not found:
        raise AlignvisError(
            f"no test picture of {decoded.run} has {query!r} in its id; they are called like {decoded.images[0]!r}"
        )
    raise AlignvisError(
        f"{len(found)} test pictures of {decoded.run} have {query!r} in their id ({found[0]!r}, {found[1]!r} ...); "
        "give more of it"
    )


def _by_rank(decoded: Decoded, best: int, median: int, worst: int) -> list[tuple[str, str]]:
    """Best, then median, then worst, each from better to worse."""
    ids = np.array(decoded.images)
    order = np.lexsort((ids, -decoded.margins, decoded.ranks))
    count = len(order)
    best = min(best, count)
    worst = min(worst, count - best)
    between = order[best : count - worst]
    middle = (count - 1) / 2
    near = sorted(range(best, count - worst), key=lambda place: (abs(place - middle), place))[:median]
    chosen = [(order[place], BEST) for place in range(best)]
    chosen += [(order[place], MEDIAN) for place in sorted(near)] if len(between) else []
    chosen += [(order[place], WORST) for place in range(count - worst, count)]
    return [(decoded.images[place], why) for place, why in chosen]


def _answer(decoded: Decoded, image: str, top: int) -> Answer:
    place = decoded.images.index(image)
    row = decoded.similarity[place]
    # Where the right picture ties with others its rank is that of the last of them, and so is its place here.
    order = np.lexsort((np.arange(len(row)) == place, -row))[:top]
    nearest = [decoded.images[column] for column in order]
    return Answer(int(decoded.ranks[place]), float(row[place]), nearest, [float(row[column]) for column in order])


# --- pictures --------------------------------------------------------------------------------------------------------


class Look(Protocol):
    """Gives the pixels of a picture by its id, (height, width, 3) uint8, no edge longer than ``side`` pixels."""

    def __call__(self, image: str, side: int) -> NDArray[np.uint8]: ...


def image_folder(root: Path, run: Path) -> Path:
    """Where the pictures of a run lie: the folder, or NSD's file, of the image set that its features are of.

    Raises:
        AlignvisError: when there is neither.
    """
    record = read_record(run)
    table = stated_path(run, record["inputs"]["features"])
    document = store.read_document(table, "features") if table.is_file() else {}
    name = document.get("image_set", table.parent.name)
    folder = root / "images" / str(name)
    for place in (folder, folder.with_name(f"{folder.name}.hdf5")):
        if place.exists():
            return place
    raise AlignvisError(f"there are no pictures in {folder}, where those of {run} belong; name them with --images")


@contextmanager
def looking(images: Path) -> Iterator[Look]:
    """Open a folder of pictures, or NSD's file of them, to look at single ones.

    A picture has the pixels that the image encoders were given: in colour, without what a camera notes about its
    rotation; it is made smaller, never larger, and keeps its proportions.

    Raises:
        AlignvisError: by the opened, when a picture is missing or broken; the sentence names the folder.
    """
    images = Path(images)
    with Reader() as reader:

        def look(image: str, side: int) -> NDArray[np.uint8]:
            path = images / image
            if in_brick(path):
                if not image.removeprefix(PREFIX).isdecimal():
                    raise AlignvisError(f"{images} holds pictures called like nsd-00000, and {image!r} is none of them")
                picture = as_picture(reader.pixels(path))
            elif Path(image).is_absolute() or ".." in Path(image).parts or not path.is_file():
                raise AlignvisError(
                    f"{images} does not hold the picture {image!r}; name the folder of pictures that this run's "
                    "features were extracted from with --images"
                )
            else:
                picture = decode(path)
            picture.thumbnail((side, side))
            return np.asarray(picture)

        yield look
