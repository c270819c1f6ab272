"""Files: written whole or not at all, by one process at a time, and read with a sentence when they are not right."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from alignvis.errors import AlignvisError

try:
    import fcntl
except ImportError:  # Windows, which by itself keeps a second process from replacing an open file
    fcntl = None


class Busy(AlignvisError):
    """Another process is at work on a file."""


_HELD: dict[Path, IO[bytes]] = {}  # the files that this process holds; a lock belongs to a process, and so does this


def partial_name(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(path.name + ".partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what is written there becomes ``path`` when the block ends well."""
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(partial, mode)  # who writes it may have made it anew, for the owner alone, as safetensors does
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, (OSError, SafetensorError)):  # the library wraps what the operating system says
            reason = getattr(error, "strerror", None) or error
            raise AlignvisError(f"{path} could not be written ({reason}); nothing was kept") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def hold(path: Path) -> IO[bytes]:
    """Open a file for reading and writing, made if need be, that no other process may hold until `release`.

    A process holds a file once, however often it asks: who was interrupted may try again.

    Raises:
        Busy: when another process is at work on it.
    """
    path = Path(os.path.abspath(path))
    while path not in _HELD or not _same(path, _HELD[path]):
        release(path)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise Busy(f"another process is writing {path}; run this again when it is done") from error
        _HELD[path] = file  # unless it got its final name, or was removed, between opening and locking
    _HELD[path].seek(0)
    return _HELD[path]


def release(path: Path) -> None:
    """Let other processes hold a file again."""
    file = _HELD.pop(Path(os.path.abspath(path)), None)
    if file is not None:
        if fcntl is not None:  # maps of the file keep it open, and would keep the lock
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _same(path: Path, file: IO[bytes]) -> bool:
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(file.fileno()))


def stamp(path: str | Path) -> tuple[int, int]:
    """Say when a file last changed (ns since 1970) and its size (bytes).

    Taken before reading, it is another whenever the content is another afterwards. The time of the file's entry counts
    too, since the content's own can be set back.
    """
    status = os.stat(path)
    return max(status.st_mtime_ns, status.st_ctime_ns), status.st_size


def read_json(path: Path, advice: str = "restore it or make it again") -> Any:
    """Read one JSON document; a file that is not one is refused with a sentence that ends in advice."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_int=_whole)
    except FileNotFoundError as error:
        raise AlignvisError(f"there is no file {path}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise AlignvisError(f"{path} is not readable as JSON ({error}); {advice}") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _whole(digits: str) -> int:
    """A whole number that others can hold too: what no float or tensor holds is no count of anything here."""
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:20]}... is too large a number")
    return int(digits)


def fits(value: Any, pattern: Any) -> bool:
    """Tell whether a JSON value is of a pattern: a type, a list of one pattern, or a dict of keys that it must have."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], p) for key, p in pattern.items())
    if isinstance(pattern, list):
        return isinstance(value, list) and all(fits(item, pattern[0]) for item in value)
    return isinstance(value, pattern) and (pattern is bool or not isinstance(value, bool))
