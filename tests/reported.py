"""A small root with all that a report shows, and a reader of pages that trusts nothing."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from alignvis import store
from alignvis.cli import main
from alignvis.recipe import Recipe
from alignvis.reports.writing import write_report
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from tests.tables import planted, write_features

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>$\\frac{</title>\u202e&amp;"
RECIPE = Recipe(batch=32, epochs=4, rate=3e-3, schedule="cosine", validation="concept")
VOID = {"meta", "link", "img", "br", "hr", "col", "wbr"}


def twins(root: Path, subjects: int = 2) -> Path:
    """Subjects of a planted brain, read through the embedding that it answers to ("human") and half of it ("plain")."""
    for subject in range(1, subjects + 1):
        planted(root, subject=subject, times=40)
    table = store.load_features(root / "features/tiny/lowlevel.safetensors")
    (root / "features/tiny/lowlevel.safetensors").unlink()
    half = np.where(np.arange(8) < 3, table.embeddings, 0.1 * np.random.default_rng(0).standard_normal((1, 8)))
    for name, values, about in (
        ("human", table.embeddings, {"aligned": True, "twin": "plain"}),
        ("plain", half, {"aligned": False, "twin": None}),
    ):
        path = root / "features/tiny" / f"{name}.safetensors"
        write_features(path, np.array(values), table.images, encoder=name, **about)
        for subject in range(1, subjects + 1):
            responses = root / f"responses/tiny/sub-{subject:02d}.safetensors"
            run = root / "runs" / f"sub-{subject:02d}_{name}"
            train_run(responses, path, run, encoder="linear", recipe=RECIPE, recipe_name="test")
            evaluate_run(run)
    rng = np.random.default_rng(1)
    for image in store.load_responses(root / "responses/tiny/sub-01.safetensors").test_images:
        path = root / "images/tiny" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    return root


def analysed(root: Path, *words: str) -> None:
    """`alignvis rsa` or `alignvis encode`, with few draws."""
    result = CliRunner().invoke(
        main, ["--root", str(root), "--quiet", *words, "--draws", "100", "--permutations", "120"]
    )
    assert result.exit_code == 0, result.output


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its tables, its words; a tag left open is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "code":  # all of it is one word, whatever is in it
            self.words.append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        if "style" in self._open:
            return
        if "code" in self._open:
            self.words[-1] += data
        else:
            self.words.append(data)
        if self._open and {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [about for name, about in self.elements if name == tag]

    def table(self, column: str) -> list[dict[str, str]]:
        """The first table with such a column, a dict a row."""
        (head, *rows) = next(table for table in self.tables if column in table[0])
        return [dict(zip(head, row, strict=True)) for row in rows]


def scores_of(root: Path, run: str) -> dict:
    return json.loads((root / "runs" / run / "scores.json").read_text())


def written(root: Path, runs=(), **options) -> Page:
    out = root / "page.html"
    write_report(root, [Path(run) for run in runs], out, overwrite=True, **options)
    return Page(out.read_text(encoding="utf-8"))
