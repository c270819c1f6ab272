"""Writes files as THINGS-EEG2 was published: dicts that numpy 1 saved, recordings too large to hold in memory."""

import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignvis.files import whole_file
from alignvis.recordings.brain import RATE


class _Promised:
    """Stands for a float64 array in a pickle; its bytes take the place of `MARK` later."""

    MARK = b"the array's bytes go here".ljust(300, b".")  # above 255, so that its opcode is that of long bytes
    SIZE = len(MARK).to_bytes(4, "little")

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments, _ = np.empty(0).__reduce__()
        return rebuild, arguments, (1, self.shape, np.dtype(np.float64), False, self.MARK)


def npy_bytes(content: Mapping[str, Any]) -> bytes:
    """What `np.save` makes of a dict: a 0-d object array, pickled as by the numpy 1 that wrote the published files."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickled = pickle.dumps(np.array(content, dtype=object), protocol=3)
    return file.getvalue() + pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_recording(
    path: Path, electrodes: Sequence[str], codes: NDArray[np.float64], blocks: Iterable[NDArray[np.floating]]
) -> None:
    """Write one continuous recording, piece by piece, whole or not at all.

    Args:
        codes: (samples,) the stim channel: an event code where a picture appears, else 0.
        blocks: consecutive (channels, some samples) uV, of `samples` in all, at 1000 Hz. The file is in volts.
    """
    samples = len(codes)
    shape = (len(electrodes) + 1, samples)
    content = {
        "raw_eeg_data": _Promised(shape),
        "ch_names": [*electrodes, "stim"],
        "ch_types": ["eeg"] * len(electrodes) + ["stim"],
        "sfreq": RATE,
        "highpass": 0.01,
        "lowpass": 100,
    }
    head, tail = npy_bytes(content).split(_Promised.SIZE + _Promised.MARK)
    size = 8 * math.prod(shape)
    head += size.to_bytes(4, "little")
    with whole_file(path) as partial, open(partial, "wb") as file:
        file.write(head)
        start = 0
        for block in blocks:
            volts = np.empty((shape[0], block.shape[1]))
            np.multiply(block, 1e-6, out=volts[:-1], dtype=np.float64)
            volts[-1] = codes[start : start + block.shape[1]]
            for row, values in enumerate(volts):
                file.seek(len(head) + 8 * (row * samples + start))
                file.write(values)
            start += block.shape[1]
        assert start == samples, "the blocks are the whole recording"
        file.seek(len(head) + size)
        file.write(tail)
