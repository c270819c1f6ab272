"""What other commands have kept stands on the page if it is of these runs, and is said to be missing if it is not."""

import base64
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from alignvis import files
from alignvis.committee import committees
from alignvis.comparing import compare, write_comparisons
from alignvis.repetitions import measure_curve
from alignvis.reports.entries import read_entries
from alignvis.reports.html import join
from alignvis.reports.named import named_comparisons, read_named
from alignvis.stats import bootstrap, wilson
from tests.reported import HOSTILE, Page, scores_of, twins, written


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return twins(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made, tmp_path) -> Path:
    """The same without pictures, which take long to draw, and without a page."""
    return Path(shutil.copytree(made, tmp_path / "root", ignore=shutil.ignore_patterns("images", "*.html")))


@pytest.fixture
def compared(root) -> Path:
    """Where a comparison by name was kept, of top-5: the twins' top-1 stands on the page in any case."""
    write_comparisons(root / "results/compare.json", compare(root, "plain", "human", metric="top5"), [])
    return root / "results/compare.json"


def test_what_was_compared_by_name_is_shown(root, compared):
    (kept,) = json.loads(compared.read_text())["comparisons"]
    page = written(root)
    (row,) = page.table("A − B")
    assert row["A − B"] == "plain − humanlinear" and (row["subjects"], row["pictures"]) == ("2", "40")
    mean = np.mean([scores_of(root, f"sub-{subject:02d}_plain")["top5"] for subject in (1, 2)])
    assert row["A (95 % interval)"].startswith(f"{100 * mean:.1f} (")
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in kept["interval"])
    said = f"{100 * kept['difference']:+.1f} ({low} to {high})".replace("-", "−")
    assert row["difference, points (95 % interval)"] == said
    assert "compare plain human --metric top5 --overwrite" in page.text and {"id": "compared"} in page.of("h2")
    assert "p " in page.text.split("Tests of the difference.")[-1]


def test_a_comparison_that_the_page_has_already_is_not_shown_twice(root):
    write_comparisons(root / "results/compare.json", compare(root), [])
    assert "Compared by" not in written(root).text


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("runs", 0, "first", "weights_sha256"), "0" * 64, "as they are scored now"),
        (("runs", 1, "second", "similarity_sha256"), "0" * 64, "as they are scored now"),
        (("runs", 0, "queries_fingerprint"), "0" * 64, "as they are scored now"),
        (("runs", 0, "subject"), 2, "as they are scored now"),
        (("first", "mean"), 0.987, "as they are scored now"),
        (("difference",), 0.987, "as they are scored now"),
        (("interval",), [0.1], "cannot be read"),
        (("interval",), [0.5, 0.1], "cannot be read"),
        (("interval",), [1e300, 1], "cannot be read"),
        (("first", "interval"), ["<b>", 1], "cannot be read"),
        (("metric",), "beauty", "cannot be read"),
        (("permutation",), None, "cannot be read"),
        (("t",), {}, "cannot be read"),
        (("runs",), [], "cannot be read"),
    ],
)
def test_a_comparison_that_is_not_of_these_runs_or_is_damaged_is_said_and_not_shown(root, compared, keys, value, said):
    whole = json.loads(compared.read_text())
    inner = whole["comparisons"][0]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    files.write_json(compared, whole)
    text_of = notes_of(root, "1 comparison")
    assert said in text_of and "98.7" not in text_of and "Compared by" not in text_of


def notes_of(root: Path, beginning: str) -> str:
    entries = read_entries(root, [])
    rows, notes, _ = read_named(entries, root, [])
    assert not rows and notes[0].startswith(beginning)
    return Page(join(*named_comparisons(rows, notes))).text


def test_what_is_no_file_of_comparisons_or_committees_is_a_sentence(root):
    for name in ("compare", "committees"):
        for words in ("[", "[]", '{"comparisons": 1, "committees": [{}]}', f'{{"comparisons": [1{"0" * 400}]}}'):
            files.write_json(root / f"results/{name}.json", 1)
            (root / f"results/{name}.json").write_text(words)
            page = written(root, ["sub-01_human"])
            assert f"{name}.json" in page.text and "Compared by" not in page.text
            verb = "compare --overwrite" if name == "compare" else "eval --committee"
            assert f"make it again with: alignvis --root {shlex.quote(str(root))} {verb}" in page.text


def test_names_in_comparisons_are_words(root, compared):
    whole = json.loads(compared.read_text())
    whole["comparisons"][0]["first"]["features"] = HOSTILE
    files.write_json(compared, whole)
    page = written(root)
    assert "<script>alert(1)</script>" in page.text and not page.of("script")


@pytest.fixture
def together(root) -> Path:
    found = committees(sorted((root / "runs").iterdir()))
    files.write_json(root / "results/committees.json", {"version": 1, "committees": found})
    return root / "results/committees.json"


def test_committees_are_shown_beside_their_best_member(root, together):
    kept = json.loads(together.read_text())["committees"]
    page = written(root)
    rows = {(row["subject"], row["who"]): row for row in page.table("who")}
    for one in kept:
        low, high = wilson(one["top1"], 40)
        row = rows[str(one["subject"]), "committee"]
        assert row["top-1 (95 % interval)"] == f"{100 * one['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        assert (row["top-5"], row["n"]) == (f"{100 * one['top5']:.1f}", "40")
        assert row["median rank"] == f"{one['median_rank']:.3g}" and float(row["MRR"]) == pytest.approx(one["mrr"], abs=1e-3)  # noqa: E501  # fmt: skip
        beside = rows[str(one["subject"]), "best member"]["top-1 (95 % interval)"]
        assert beside.startswith(f"{100 * one['beside'][0]['top1']:.1f} (")
    low, high = bootstrap(np.array([one["ranks"] for one in kept]) == 1)
    assert rows["all 2", "committee"]["top-1 (95 % interval)"].endswith(f"({100 * low:.1f} to {100 * high:.1f})")
    means = [np.array(one["beside"][0]["ranks"]) for one in kept]
    single = rows["all 2", "best member"]
    low, high = bootstrap(np.array(means) == 1)
    top1 = 100 * np.mean(np.array(means) == 1)
    assert single["top-1 (95 % interval)"] == f"{top1:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert single["median rank"] == f"{np.mean([np.median(some) for some in means]):.3g}"
    numbers = {path.name: place for place, path in enumerate(sorted((root / "runs").iterdir()), 1)}
    best = [numbers[Path(one["runs"][0]).name] for one in kept]
    assert [rows[str(one["subject"]), "best member"]["runs"] for one in kept] == [f"[{number}]" for number in best]
    assert single["runs"] == f"[{', '.join(map(str, sorted(best)))}]"
    assert "Members chosen on held-out training pictures" in page.text and " eval --committee " in page.text


def test_seeds_of_a_committee_are_told_and_averaged_and_every_row_over_subjects_is_of_all(root):
    """One subject in two seeds, the other in one: the seeds averaged of one seed are that seed."""
    record = json.loads((root / "runs/sub-01_human/record.json").read_text())
    for name in ("human", "plain"):
        shutil.copytree(root / f"runs/sub-01_{name}", root / f"runs/sub-01_{name}_again")
        for file in ("record.json", "scores.json"):
            path = root / f"runs/sub-01_{name}_again" / file
            files.write_json(path, json.loads(path.read_text()) | {"seed": record["seed"] + 7})
    found = committees(sorted((root / "runs").iterdir()))
    files.write_json(root / "results/committees.json", {"version": 1, "committees": found})
    assert [len(one["seeds"]) for one in found] == [2, 1]
    rows = {(row["subject"], row["who"]): row for row in written(root).table("who")}
    averaged = "best member, seeds averaged"
    assert ("1", "best member, mean of 2 seeds") in rows and ("all 2", "best member, mean of 1 to 2 seeds") in rows
    assert rows["2", averaged]["top-1 (95 % interval)"] == rows["2", "best member"]["top-1 (95 % interval)"]
    assert len(rows["1", averaged]["runs"].split(",")) == 2 and ("all 2", averaged) in rows and len(rows) == 9


@pytest.mark.parametrize("what", ["rank", "runs", "images", "beside", "who", "seeds"])
def test_a_committee_that_does_not_follow_from_its_runs_is_said_and_not_shown(root, together, what):
    whole = json.loads(together.read_text())
    for one in whole["committees"]:
        if what == "rank":
            one["ranks"][0] += 1
        if what == "runs":
            one["runs"] = ["elsewhere/other"]
        if what == "images":
            one["images_sha256"] = "0" * 64
        if what == "beside":
            one["beside"][0]["ranks"][0] += 1
        if what == "who":
            one["beside"].append(one["beside"][0] | {"who": "committee"})
        if what == "seeds":
            one["seeds"] = []
    files.write_json(together, whole)
    page = written(root)
    assert not any("who" in table[0] for table in page.tables)
    assert ("not on this page" if what == "runs" else "does not follow from its runs") in page.text


def test_curves_name_the_seeds_of_runs_and_not_of_draws(root):
    record = json.loads((root / "runs/sub-01_human/record.json").read_text())
    shutil.copytree(root / "runs/sub-01_human", root / "runs/again")
    for name in ("record.json", "scores.json"):
        path = root / "runs/again" / name
        files.write_json(path, json.loads(path.read_text()) | {"seed": 7})
    for run in ("sub-01_human", "again"):
        measure_curve(root / "runs" / run, draws=2)
    page = written(root, ["sub-01_human", "again"])
    figures = [base64.b64decode(one["src"].partition("base64,")[2]).decode() for one in page.of("img") if "svg" in one["src"]]  # noqa: E501  # fmt: skip
    (curve,) = [words for words in figures if "random choices" in words]
    assert record["seed"] == 0 and re.search(r"seeds\s+0, 7", re.sub(r"<[^>]*>|\s+", " ", curve))
    assert " eval --curve --draws 2 " in page.text


def test_a_curve_over_subjects_says_why_its_interval_is_not_that_of_the_scores(root):
    """Of three subjects a figure has an interval over them, of two none."""
    measure_curve(root / "runs/sub-02_human", draws=2)
    shutil.copytree(root / "runs/sub-02_human", root / "runs/sub-03_human")
    for name in ("record.json", "scores.json"):
        path = root / "runs/sub-03_human" / name
        files.write_json(path, json.loads(path.read_text()) | {"subject": 3, "trained_on": [3]})
    curve = json.loads((root / "runs/sub-02_human/repetitions.json").read_text())
    files.write_json(root / "runs/sub-03_human/repetitions.json", curve | {"subject": 3})
    measure_curve(root / "runs/sub-01_human", draws=2)
    why = "Student's here and not the bootstrap over subjects and pictures of the score tables, as curves keep no"
    assert why not in written(root, ["sub-01_human", "sub-02_human"]).text
    page = written(root, ["sub-01_human", "sub-02_human", "sub-03_human"])
    assert why in page.text and [row["subject"] for row in page.table("1 repetition")] == ["1", "2", "3"]
