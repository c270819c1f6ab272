"""The runs of a report, as their files have them; what is not there is a reason, never an error."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alignvis import files, store
from alignvis.errors import AlignvisError
from alignvis.reports.html import Html, breakable, code, element, join, typed
from alignvis.runs import named_runs, read_record, read_scores, stated_path
from alignvis.scoring import proved_similarity, refuse_twice
from alignvis.spans import spans

# What must be equal for two runs to stand in one table: like is compared with like.
ALIKE = ("dataset", "simulated", "protocol", "pool", "recipe", "validation", "n", "gallery", "repetitions")
RECORDED = ("dataset", "simulated", "protocol")  # the record says these; the others are of the scores or the recipe
OF_ONE_ENCODER = ("encoder", "features", "aligned", "target")


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        number: that the page cites it by.
        scores: of ``scores.json``; None if it has none that can be read.
        lacking: why not.
    """

    number: int
    path: Path
    record: dict[str, Any]
    scores: dict[str, Any] | None
    lacking: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def alike(self) -> tuple[Any, ...]:
        """What tells which runs it may be compared with."""
        record, recipe = self.record, self.record["recipe"]
        pool = tuple(sorted({*record["trained_on"], record["subject"]})) if record["protocol"] == "leave-out" else ()
        asked = {key: self.scores[key] for key in ("n", "gallery", "repetitions")} if self.scores else {}
        about = {"repetitions": None, **{key: record.get(key) for key in ALIKE if key in RECORDED}, **asked}
        about |= {"pool": pool, "recipe": recipe["name"], "validation": recipe.get("validation")}
        return tuple(str(about.get(key)) for key in ALIKE)

    @property
    def group(self) -> tuple[Any, ...]:
        """What runs share that differ in subject and seed alone."""
        target = self.record["recipe"].get("target", "embeddings")
        return (*(self.record[key] for key in OF_ONE_ENCODER[:3]), str(target))

    @cached_property
    def responses(self) -> dict[str, Any] | None:
        """The header of the table with the test responses, if it is there."""
        return _header(stated_path(self.path, self.record["inputs"]["queries"]), "responses")

    @cached_property
    def features(self) -> dict[str, Any] | None:
        """The header of the features table, if it is there."""
        return _header(stated_path(self.path, self.record["inputs"]["features"]), "features")


def read_entries(root: Path, runs: Sequence[Path]) -> list[Entry]:
    """Read what runs say of themselves.

    Args:
        runs: folders, names, patterns or parts of names, as `runs.named_runs` has them; none means all.

    Raises:
        AlignvisError: when there are none, one that was named is no run, or two answer the same question.
    """
    chosen = named_runs(root, runs)
    if not chosen:
        raise AlignvisError(f"there are no runs in {root / 'runs'}; make one with: alignvis train --subject 1")
    entries, asked = [], {}
    for number, run in enumerate(chosen, start=1):
        record = read_record(run)
        scores, lacking = None, ""
        if (run / "scores.json").is_file():
            try:
                stated = read_scores(run, record)
                proved_similarity(run, record, stated)  # refuses what does not follow from it
                scores = stated
            except AlignvisError as error:
                lacking = str(error)
        else:
            lacking = "it has no scores yet"
        if scores:
            refuse_twice(run, scores, asked)
        entries.append(Entry(number, run, record, scores, lacking))
    return entries


def read_beside(entry: Entry, name: str, kinds: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Read a JSON file of a run that is of its weights; None and the reason if there is none to be shown."""
    path = entry.path / name
    if not path.is_file():
        return None, ""
    try:
        found = files.read_json(path)
    except AlignvisError as error:
        return None, str(error)
    if not files.fits(found, kinds):
        return None, f"{path} is not as it should be; make it again"
    if found.get("weights_sha256") != entry.record["weights_sha256"]:
        return None, f"{path} is of other weights; make it again"
    return found, ""


def by_kind(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Sort runs into lists of those that may be compared."""
    kinds: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.alike, []).append(entry)
    return list(kinds.values())


def by_encoder(entries: Sequence[Entry]) -> dict[tuple[Any, ...], list[Entry]]:
    """Sort runs by brain encoder and features, aligned ones first."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (not entry.record["aligned"], entry.number)):
        groups.setdefault(entry.group, []).append(entry)
    return groups


def cited(entries: Sequence[Entry]) -> Html:
    """Numbers of runs, each leading to what the page says of it last."""
    if len(entries) > 6:
        shown = spans([entry.number for entry in entries]).replace("-", "–")
        return join("[", join(*shown.split(","), between=Html(", <wbr>")), "]")
    links = [element("a", str(entry.number), attributes={"href": f"#run-{entry.number}"}) for entry in entries]
    return join("[", join(*links, between=Html(", <wbr>")), "]")


def marked(entry: Entry) -> Html:
    """The features of a run, with a mark that says whether people's judgements went into them."""
    record = entry.record
    kind, mark = ("aligned-mark", "●") if record["aligned"] else ("plain-mark", "○")
    sign = element("span", mark, attributes={"class": kind, "aria-hidden": "true"})
    target = record["recipe"].get("target", "embeddings")
    return join(sign, "\u00a0", breakable(record["features"]), "" if target == "embeddings" else f" ({target})")


def labelled(entry: Entry) -> Html:
    """What a row of a table is of: the features of a run, and below them its brain encoder."""
    return join(marked(entry), " ", element("span", entry.record["encoder"], attributes={"class": "second"}))


def source(name: str, entries: Sequence[Entry]) -> Html:
    """Which files the numbers above are from."""
    what = join("Numbers: ", code(name), " of runs ", cited(entries), ".")
    return element("p", what, attributes={"class": "source"})


def command(root: Path, *words: str) -> str:
    """A command as it is typed, each word quoted where a shell would take it apart."""
    where = [] if root == Path(".") else ["--root", str(root)]
    return shlex.join(["alignvis", *where, *words])


def anew(what: object, line: str) -> str:
    """What is wrong with a file, and the command that makes it again."""
    said = str(what).removesuffix("; restore it or make it again")
    return f"{said}; make it again with: {line}"


def missing(what: object, line: str) -> Html:
    """Say what is not there, and what makes it."""
    return element("p", what, " Make it with: ", typed(line), attributes={"class": "missing"})


def _header(path: Path, kind: str) -> dict[str, Any] | None:
    try:
        return store.read_document(path, kind)
    except AlignvisError:
        return None
