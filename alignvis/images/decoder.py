"""A process that decodes pictures for another one (`ahead.py`), which starts it with ``-m alignvis.images.decoder``.

It says READY, and is then asked for some pictures by a line of JSON, ``{"paths": [...], "geometries": [...]}``. For
each picture it answers with a line of JSON, ``{"stamp": [ns, bytes], "sha256": "..."}``, and the pixels of each
geometry as they lie in memory; or, if the picture is bad, with ``{"stamp": [ns, bytes], "error": "..."}`` alone. It
ends when its input ends, so it does not outlive whoever asked, however that came to an end.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from alignvis.errors import AlignvisError
from alignvis.images.brick import Reader, in_brick
from alignvis.images.pixels import GEOMETRIES, apply, as_picture, decode, read, stamp

READY = b"alignvis decodes\n"


def main() -> None:
    # Ctrl-C in a terminal reaches all processes at once; this one is ended by the one that asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints stays out of the answers
    answers.write(READY)
    answers.flush()
    with Reader() as reader:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            for path in request["paths"]:
                _answer(Path(path), request["geometries"], reader, answers)


def _answer(path: Path, geometries: Sequence[str], reader: Reader, answers: BinaryIO) -> None:
    answer: dict[str, Any] = {"stamp": stamp(path)}
    arrays: list[NDArray[Any]] = []
    try:
        if in_brick(path):
            data = reader.pixels(path)
            picture = as_picture(data)
        else:
            data = read(path)
            picture = decode(path, data)
        arrays = [apply(GEOMETRIES[name], picture) for name in geometries]
        answer["sha256"] = sha256(data).hexdigest()
    except AlignvisError as error:
        answer["error"] = str(error)
    answers.write(json.dumps(answer).encode() + b"\n")
    for array in arrays:
        answers.write(array.data)
    answers.flush()


if __name__ == "__main__":
    main()
