"""The Natural Scenes Dataset as downloaded -> a responses table.

Allen et al. (2022), "A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence",
doi:10.1038/s41593-021-00962-x. A subject's betas, one an image and voxel, are read a session at a time.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.progress import Progress, silent
from alignvis.recordings.filling import PARTS, Block, about, check_dtype, check_sources, fill, is_there, summary
from alignvis.recordings.nsd_files import Betas, Design, find_betas, find_design, open_betas, read_design
from alignvis.recordings.sources import describe

COLUMNS = 1024  # voxels that are z-scored at a time, in double precision
SCALED = (0.5, 2.0)  # between these the spread of z-scored betas lies, and their mean below the first
PARTS_TEXT = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class Part:
    """What becomes of the trials of one part.

    Attributes:
        images: (images,) ascending, their rows in the stimulus file.
        trials: (used,) ascending, the numbers of the trials that are used.
        rows, slots: (used,) the image and the repetition of the table that each of them goes into.
        counts: (images, repetitions) trials that a response is the mean of.
        sessions: (images, repetitions) the session of a response's trials; 0 where they are of several.
        last: (images, repetitions) the session of the last of them.
        left_out: images with too few trials.
    """

    images: NDArray[np.int64]
    trials: NDArray[np.int64]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    counts: NDArray[np.uint8]
    sessions: NDArray[np.uint8]
    last: NDArray[np.int64]
    left_out: int


def dataset_name(raw: Path, subject: int) -> str:
    """What a subject's table is filed under: simulated recordings never stand among real ones."""
    with open_betas(find_betas(Path(raw), subject)) as betas:
        return _name(betas)


def prepare(
    raw: Path,
    *,
    subject: int,
    out: Path,
    sessions: Sequence[int] | None = None,
    zscore: bool = True,
    repetitions: tuple[int, int] | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Turn one subject's betas into a responses table: one time, voxels for channels.

    A row is an image, in the order of the stimulus file, and by default the mean of its one to three trials
    (``train.trials`` and ``test.trials`` say of how many). The test images are those that all subjects were to see.

    Args:
        raw: the folder that holds subjNN_nsdgeneral.hdf5 and nsd_expdesign.mat, or folders with them.
        out: the table to write.
        sessions: which to use; all that the file has if not given. 1 to 37 are those of the first release.
        zscore: take off each voxel's mean over the training trials of its session and divide by their standard
            deviation, since scanner and subject differ from day to day; otherwise betas are taken as they are.
        repetitions: keep so many single trials of each (training, test) image, the earliest, instead of their mean;
            images with fewer are left out.
        dtype: "float16" or "float32".
        overwrite: replace a table that is there; otherwise one made with the same options is kept.

    Returns:
        What `filling.summary` returns.

    Raises:
        AlignvisError: when a table made with other options is in the way, when a file is missing or not of this
            dataset, when a beta is not finite, when sessions are asked for that are not there.

    Source: files and order of trials of github.com/MedARC-AI/fMRI-reconstruction-NSD, which neither z-scores within
        sessions nor says how many trials a mean has.
    """
    begun = time.monotonic()
    raw, out = Path(raw), Path(out)
    check_dtype(dtype)
    if repetitions is not None and not all(1 <= count <= 255 for count in repetitions):
        raise AlignvisError(f"--repetitions has to be 1 to 255 of each, not {repetitions[0]} {repetitions[1]}")
    with open_betas(find_betas(raw, subject)) as betas:
        chosen = _chosen(betas, sessions)
        keep = None if repetitions is None else [int(count) for count in repetitions]
        asked = {"sessions": chosen, "zscore": zscore, "repetitions": keep, "dtype": dtype}
        if is_there(out, asked, overwrite):
            check_sources(out, [betas.path, find_design(raw)])
            return summary(out, True, begun, [])
        design = read_design(find_design(raw), subject)
        parts = _parts(betas, design, chosen, repetitions)
        unit = "session standard deviations" if zscore else "betas as given"
        document = about(_name(betas), subject, unit, betas.simulated, asked) | {
            "channels": [f"voxel-{voxel:05d}" for voxel in range(betas.voxels)],
            "sfreq": None,
            "tmin": None,
            **{f"{name}_images": [f"nsd-{row:05d}" for row in part.images.tolist()] for name, part in parts.items()},
            "parameters": _parameters(betas, zscore, repetitions),
            "sources": describe([betas.path, design.path], raw),
        }
        reader = _Reader(betas, design, parts, zscore)
        fill(
            out,
            document,
            {name: part.sessions for name, part in parts.items()},
            (betas.voxels, 1),
            _blocks(parts, chosen),
            reader.read,
            dtype=dtype,
            sources=[betas.path, design.path],
            progress=progress,
            beside={f"{name}.trials": part.counts.sum(axis=1, dtype=np.uint8) for name, part in parts.items()},
        )
    return summary(out, False, begun, [*_left_out(parts, design, repetitions), *reader.warnings()])


def _name(betas: Betas) -> str:
    return "nsd-simulated" if betas.simulated else "nsd"


def _chosen(betas: Betas, sessions: Sequence[int] | None) -> list[int]:
    """The sessions to use, ascending."""
    chosen = list(range(1, betas.sessions + 1)) if sessions is None else sorted(int(number) for number in sessions)
    if not chosen or len(set(chosen)) < len(chosen) or not 1 <= chosen[0] <= chosen[-1] <= betas.sessions:
        raise AlignvisError(
            f"{betas.path} has the sessions 1 to {betas.sessions}, and {chosen} were asked for; name some of them, "
            "each once"
        )
    return chosen


# --- which trial goes where ------------------------------------------------------------------------------------------


def _parts(betas: Betas, design: Design, chosen: Sequence[int], repetitions: tuple[int, int] | None) -> dict[str, Part]:
    """Sort the trials of some sessions into training and test, image by image."""
    if len(design.rows) < betas.stored.shape[0]:
        raise AlignvisError(
            f"{betas.path} has {betas.stored.shape[0]} trials, and {design.path} tells of {len(design.rows)}; these "
            "are not of the same experiment"
        )
    trials = np.concatenate([np.arange(betas.per_session) + (number - 1) * betas.per_session for number in chosen])
    parts = {}
    for name, count in zip(PARTS, repetitions or (None, None), strict=True):
        some = trials[design.shared[trials] == (name == "test")]
        parts[name] = _part(some, design.rows[some], some // betas.per_session + 1, count)
        if not len(parts[name].images):
            raise AlignvisError(
                f"{betas.path}: the sessions {chosen[0]} to {chosen[-1]} showed no {PARTS_TEXT[name]} image "
                f"{'at all' if count is None else f'{count} times'}; choose more sessions or fewer repetitions"
            )
    return parts


def _part(
    trials: NDArray[np.int64], pictures: NDArray[np.int64], sessions: NDArray[np.int64], keep: int | None
) -> Part:
    """Give every trial its place; without `keep`, all trials of an image have the same one."""
    every, image, shown = np.unique(pictures, return_inverse=True, return_counts=True)
    order = np.argsort(image, kind="stable")
    nth = np.empty(len(trials), np.int64)  # how often an image had been shown before
    nth[order] = np.arange(len(trials)) - np.repeat(np.cumsum(shown) - shown, shown)
    enough = shown >= (keep or 1)
    used = enough[image] & (nth < (keep or len(trials)))
    rows = (np.cumsum(enough) - 1)[image[used]]
    slots = nth[used] if keep else np.zeros(used.sum(), np.int64)
    shape = (int(enough.sum()), keep or 1)
    counts, first, last = np.zeros(shape, np.int64), np.full(shape, 2**31), np.zeros(shape, np.int64)
    np.add.at(counts, (rows, slots), 1)
    np.minimum.at(first, (rows, slots), sessions[used])
    np.maximum.at(last, (rows, slots), sessions[used])
    alone = np.where(first == last, last, 0)
    return Part(
        every[enough],
        trials[used],
        rows,
        slots,
        np.minimum(counts, 255).astype(np.uint8),
        alone.astype(np.uint8),
        last,
        int((~enough).sum()),
    )


def _blocks(parts: Mapping[str, Part], chosen: Sequence[int]) -> list[Block]:
    """A response is complete, and written, with the session of its last trial."""
    blocks = []
    for session in chosen:
        for name, part in parts.items():
            rows, slots = np.nonzero(part.last == session)
            if len(rows):
                blocks.append(Block(name, rows, slots, session, f"{PARTS_TEXT[name]} images of session {session}"))
    return blocks


# --- values ----------------------------------------------------------------------------------------------------------


class _Reader:
    """Goes through the sessions once, and holds the sums of responses of which trials are still to come."""

    def __init__(self, betas: Betas, design: Design, parts: Mapping[str, Part], zscore: bool) -> None:
        self.betas, self.design, self.parts, self.zscore = betas, design, parts, zscore
        trials = np.concatenate([part.trials for part in parts.values()])
        self.ahead = np.unique(trials // betas.per_session + 1).tolist()  # sessions that are still to be read
        # session of its last trial -> (part, image, repetition) -> (voxels,) sum
        self.sums: defaultdict[int, dict[tuple[str, int, int], NDArray[np.float32]]] = defaultdict(dict)
        self.flat: dict[int, NDArray[np.int64]] = {}  # session -> voxels
        self.scale: dict[int, tuple[float, float]] = {}  # session -> size of the mean, and spread, of a usual voxel

    def read(self, block: Block) -> NDArray[np.float32]:
        """The responses of a block, (responses, voxels, 1), of which none comes in an earlier one."""
        while self.ahead and self.ahead[0] <= block.where:
            for session in [session for session in self.sums if session < self.ahead[0]]:
                del self.sums[session]  # was in the table already
            self._add(self.ahead.pop(0))
        ready, counts = self.sums[block.where], self.parts[block.part].counts
        values = np.empty((len(block.rows), self.betas.voxels, 1), np.float32)
        for place, (row, slot) in enumerate(zip(block.rows.tolist(), block.slots.tolist(), strict=True)):
            values[place, :, 0] = ready.pop((block.part, row, slot)) / np.float32(counts[row, slot])
        return values

    def _add(self, session: int) -> None:
        first = (session - 1) * self.betas.per_session
        betas = self.betas.session(session)
        training = ~self.design.shared[first : first + len(betas)]
        values = self._scaled(betas, training, session)
        for name, part in self.parts.items():
            some = slice(*np.searchsorted(part.trials, [first, first + len(betas)]))
            for trial, row, slot in zip(part.trials[some], part.rows[some], part.slots[some], strict=True):
                ready, key = self.sums[int(part.last[row, slot])], (name, int(row), int(slot))
                if key in ready:
                    ready[key] += values[trial - first]
                else:
                    ready[key] = values[trial - first].copy()

    def _scaled(self, betas: NDArray, training: NDArray[np.bool_], session: int) -> NDArray[np.float32]:
        """What goes into the table, of (trials, voxels) of a session; only its training trials decide on the scale."""
        if self.zscore and training.sum() < 2:
            raise AlignvisError(
                f"{self.betas.path}: session {session} has {training.sum()} training trials, and a spread needs two; "
                "leave it out with --sessions, or take the betas as they are"
            )
        values = np.empty(betas.shape, np.float32)
        means, spreads = np.zeros(betas.shape[1]), np.zeros(betas.shape[1])
        for start in range(0, betas.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            with np.errstate(invalid="ignore"):  # some ways to write NaN, which is refused next
                some = betas[:, columns].astype(np.float64)
            wrong = np.flatnonzero(~(np.abs(some) <= np.finfo(np.float32).max).all(axis=0))
            if len(wrong):
                raise AlignvisError(
                    f"{self.betas.path}: voxel-{start + wrong[0]:05d} has a value in session {session} that is not "
                    "finite or beyond all measure; download it again, or leave the session out with --sessions"
                )
            fitted = some[training]
            if len(fitted):
                means[columns], spreads[columns] = fitted.mean(axis=0), fitted.std(axis=0)
                # of a constant, rounding can leave a spread
                spreads[columns][fitted.min(axis=0) == fitted.max(axis=0)] = 0
            if self.zscore:
                spread = np.where(spreads[columns] > 0, spreads[columns], np.inf)
                some = (some - means[columns]) / spread
            with np.errstate(over="ignore"):  # a test trial beyond all measure, which `fill` refuses
                values[:, columns] = some
        self.flat[session] = np.flatnonzero(spreads == 0) if self.zscore else np.empty(0, np.int64)
        self.scale[session] = float(np.median(np.abs(means))), float(np.median(spreads))
        return values

    def warnings(self) -> list[str]:
        """Sentences on voxels and values that are not as they usually are."""
        said = []
        flat = {session: voxels for session, voxels in self.flat.items() if len(voxels)}
        if flat:
            session, voxels = next(iter(flat.items()))
            said.append(
                f"{len(np.unique(np.concatenate(list(flat.values()))))} voxels do not change among the training trials "
                f"of a session, and are 0 there (the first is voxel-{voxels[0]:05d} in session {session})"
            )
        low, high = SCALED
        odd = {
            session: scale
            for session, scale in self.scale.items()
            if not (low <= scale[1] <= high and scale[0] <= low) and not self.zscore
        }
        if odd:
            session, (mean, spread) = next(iter(odd.items()))
            said.append(
                f"the betas of {len(odd)} sessions do not look z-scored (in session {session} a usual voxel has a mean "
                f"of size {mean:.3g} and a standard deviation of {spread:.3g}); sessions then differ by more than what "
                "was seen, which z-scoring takes away"
            )
        return said


# --- what is said of it ----------------------------------------------------------------------------------------------


def _left_out(parts: Mapping[str, Part], design: Design, repetitions: tuple[int, int] | None) -> list[str]:
    said = [
        f"{part.left_out} {PARTS_TEXT[name]} images were left out, as they have fewer than {keep} trials"
        for (name, part), keep in zip(parts.items(), repetitions or (1, 1), strict=True)
        if part.left_out
    ]
    unseen = design.pictures - len(parts["test"].images) - parts["test"].left_out
    if unseen:
        said.append(f"{unseen} of the {design.pictures} shared images were not shown in these sessions")
    return said


def _parameters(betas: Betas, zscore: bool, repetitions: tuple[int, int] | None) -> dict[str, Any]:
    scaling = {"method": "z-score of each voxel", "fitted_on": "training trials of the same session"}
    return {
        "trials_in_a_session": betas.per_session,
        "scaling": scaling if zscore else None,
        "responses": "mean of an image's trials" if repetitions is None else "an image's first trials",
        "test_images": "shared by all subjects",
    }
