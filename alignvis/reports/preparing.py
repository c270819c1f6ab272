"""The commands that made the tables of a run, every choice stated that is not the usual one."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from alignvis.images.catalogue import CATALOGUE
from alignvis.reports.entries import Entry, command
from alignvis.reports.numbers import number, pair
from alignvis.spans import spans

KINDS = ("things-eeg2", "things-meg", "nsd")  # of `alignvis prepare`; what is of none was read by mne
# What a table states of how it was made, by kind: each with what it is where nobody chose. NSD states which sessions
# there were, whoever chose them.
USUAL: dict[str, dict[str, Any]] = {
    "things-eeg2": {"sessions": [1, 2, 3, 4], "channels": "all", "sfreq": 250.0, "repetitions": None,
                    "window": [0.0, 1.0], "dtype": "float16"},
    "things-meg": {"sessions": None, "channels": "all", "sfreq": 200.0, "window": [0.0, 1.0], "dtype": "float16"},
    "nsd": {"sessions": None, "zscore": True, "repetitions": None, "dtype": "float16"},
    "mne": {"channels": "all", "window": [0.0, 1.0], "baseline": [-0.2, 0.0], "sfreq": None, "whiten": None,
            "repetitions": None, "dtype": "float16"},
}  # fmt: skip


def prepared(entry: Entry, root: Path) -> str:
    """The command that made a responses table; the folder that it read is not known any more."""
    record, header = entry.record, entry.responses or {}
    asked, made = (
        found if isinstance(found, dict) else {} for found in (header.get("asked"), header.get("parameters"))
    )
    kind = record["dataset"].removesuffix("-simulated")
    subject = str(record["subject"])
    if "imported" in made:
        words = ["import", "FILES", "--subject", subject, "--dataset", record["dataset"]]
        return command(root, *words, *_choices(asked, {"dtype": "float16"}))
    if kind in KINDS:
        words = ["prepare", kind, "--raw", "RAW", "--subject", spans([*record["trained_on"], record["subject"]])]
        return command(root, *words, *_choices(asked, USUAL[kind]))
    words = ["prepare", "mne", "--dataset", record["dataset"], "--subject", subject]
    recordings = _recordings(asked)
    for raw, events, _ in recordings:
        words += ["--raw", raw, "--events", events]
    if [session for *_, session in recordings] != list(range(1, len(recordings) + 1)):
        for *_, session in recordings:
            words += ["--session", str(session)]
    return command(root, *words, *_choices(asked, USUAL["mne"]))


def extracted(entry: Entry, root: Path) -> str | None:
    """The command that made a features table; None where none did, but a program of the user's own."""
    header, name = entry.features or {}, entry.record["features"]
    if "imported" in header:
        return command(root, "import", "FILES", "--encoder", name)
    if header.get("own") or name not in CATALOGUE:
        return None
    words = ["extract", "--encoder", name]
    if header.get("image_set"):
        place = root / "images" / str(header["image_set"])
        brick = place.with_name(f"{place.name}.hdf5")  # NSD has all pictures in one file
        words[1:1] = ["--images", str(brick if brick.is_file() and not place.exists() else place)]
    if header.get("layers"):
        words += ["--layers", ",".join(map(str, header["layers"]))]
    if header.get("blur"):
        words += ["--blur", ",".join(map(str, header["blur"]))]
    if header.get("precision") not in (None, "fp32"):
        words += ["--precision", str(header["precision"])]
    return command(root, *words)


def _recordings(asked: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Recordings with their tables of events and the number of their session, as far as they are stated."""
    raws, events, sessions = (asked.get(key) for key in ("recordings", "events", "sessions"))
    if not isinstance(raws, list) or not isinstance(events, list) or not raws or len(raws) != len(events):
        return [("RECORDING", "EVENTS", 1)]
    if not isinstance(sessions, list) or len(sessions) != len(raws):
        sessions = range(1, len(raws) + 1)
    tables = [str(table).partition(" (")[0] for table in events]  # the rest is its digest
    return list(zip(map(str, raws), tables, sessions, strict=True))


def _choices(asked: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """What was asked for and is not the usual, as it is typed; what cannot be typed is no choice that was made."""
    words: list[str] = []
    for key, value in asked.items():
        if key in usual and value != usual[key]:
            words += TYPED[key](value)
    return words


def _plain(value: Any) -> str | None:
    """A number without an exponent, exactly."""
    found = number(value)
    if found is None:
        return None
    return str(int(found)) if found == int(found) else format(Decimal(repr(found)), "f")


def _span(option: str) -> Callable[[Any], Sequence[str]]:
    def typed(value: Any) -> Sequence[str]:
        if value is None:
            return [option, "none"]
        ends = pair(value)
        return [option, ":".join(_plain(end) or "" for end in ends)] if ends else []

    return typed


def _numbers(value: Any) -> Sequence[str]:
    whole = isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value)
    return ["--sessions", spans(value)] if whole else []


def _two(value: Any) -> Sequence[str]:
    both = [_plain(item) for item in value] if isinstance(value, list) and len(value) == 2 else []
    return ["--repetitions", *map(str, both)] if both and None not in both else []


TYPED: dict[str, Callable[[Any], Sequence[str]]] = {
    "sessions": _numbers,
    "channels": lambda value: ["--channels", value] if isinstance(value, str) else [],
    "sfreq": lambda value: ["--sfreq", _plain(value) or ""] if _plain(value) else [],
    "repetitions": _two,
    "window": _span("--window"),
    "baseline": _span("--baseline"),
    "zscore": lambda value: ["--no-zscore"] if value is False else [],
    "whiten": lambda value: [f"--{'' if value else 'no-'}whiten"] if isinstance(value, bool) else [],
    "dtype": lambda value: ["--float32"] if value == "float32" else [],
}
