"""Results without a decoder stand on the page if they are of its recordings, with the commands that make them again."""

import base64
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignvis import files
from alignvis.cli import main
from alignvis.cli.representations import encode, rsa
from alignvis.reports.analyses import ASKED, OF_KIND, TAKEN, analyses, read_analyses
from alignvis.reports.entries import read_entries
from alignvis.reports.html import join
from alignvis.reports.reproduce import reproduce
from alignvis.representations.rsa import METRICS
from alignvis.versions import versions
from tests.reported import HOSTILE, Page, analysed, twins, written


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return twins(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made, tmp_path) -> Path:
    """The same without pictures, which take long to draw."""
    return Path(shutil.copytree(made, tmp_path / "root", ignore=shutil.ignore_patterns("images")))


@pytest.fixture(scope="module")
def results(made, tmp_path_factory) -> Path:
    """A folder with results of both kinds, made in the root that they are of."""
    root = Path(
        shutil.copytree(made, tmp_path_factory.mktemp("results") / "root", ignore=shutil.ignore_patterns("images"))
    )
    analysed(root, "rsa", "--subject", "2,1", "--metric", "euclidean", "--window=0:0.1", "--seed", "7")
    analysed(root, "encode", "--subject", "1", "--features", "plain", "--out", str(root / "results/encoding_mine.png"))
    return root / "results"


@pytest.fixture
def with_results(root, results) -> Path:
    shutil.copytree(results, root / "results")
    return root


RSA, ENCODING = "rsa_tiny_sub-02-01.json", "encoding_mine.json"


def test_results_without_a_decoder_stand_on_the_page_with_figure_interval_and_ceiling(with_results):
    kept = json.loads((with_results / "results" / RSA).read_text())
    page = written(with_results)
    rows = {row["embedding"].split()[-1]: row for row in page.table("highest correlation (95 % interval)")}
    assert rows.keys() == {"human", "plain"}
    for one in kept["features"]:
        peak, row = one["peak"], rows[one["features"]]
        values = (peak["r"], *peak["interval"])
        said = "{:.2g} ({:.2g} to {:.2g})".format(*values).replace("-", "−")
        assert row["highest correlation (95 % interval)"] == said
        assert (row["at, ms"], row["p, corrected for all times"]) == (f"{1000 * peak['time']:.0f}", f"{peak['p']:.2g}")
        ends = (peak["ceiling"]["lower"], peak["ceiling"]["upper"])
        assert row["noise ceiling there"] == "{:.2g} to {:.2g}".format(*ends).replace("-", "−")
    said = "tiny, subjects 1-2. SIMULATED brain. 40 test pictures. Intervals: bootstrap over images and subjects, 100"
    assert f"{said} draws." in page.text and "tiny, subject 1. SIMULATED brain. 40 test pictures." in page.text
    figures = [image for image in page.of("img") if image["alt"].startswith("How well ")]
    for name, image in zip((RSA, ENCODING), figures, strict=True):
        drawn = (with_results / "results" / name).with_suffix(".png").read_bytes()
        assert image["src"] == "data:image/png;base64," + base64.b64encode(drawn).decode()


def test_commands_of_the_page_make_the_same_results(with_results):
    """The lines that stand on the page give the same JSON, to the byte, though neither result is a usual one."""
    lines = [word for word in written(with_results).words if word.startswith("alignvis ")]
    lines = [line for line in lines if " rsa " in line or " encode " in line]
    assert len(lines) == 2 and " --subject 2,1 " in lines[0] and " --seed 7 --metric euclidean " in lines[0]
    before = {}
    for name in (RSA, ENCODING):
        path = with_results / "results" / name
        held = json.loads(path.read_text())
        for one in (*held["responses"], *held["features"]):  # where they were made, the tables were elsewhere
            one["path"] = str(with_results / Path(*Path(one["path"]).parts[-3:]))
        before[name] = held
    shutil.rmtree(with_results / "results")
    for line in lines:
        result = CliRunner().invoke(main, ["--quiet", *shlex.split(line)[1:]])
        assert result.exit_code == 0, result.output
    for name in (RSA, ENCODING):
        assert json.loads((with_results / "results" / name).read_text()) == before[name]
        assert (with_results / "results" / name).with_suffix(".png").is_file()


def test_what_the_command_line_is_said_to_take_is_what_it_takes():
    for command in (rsa, encode):
        taken = {option.name: option.type for option in command.params}
        assert {key: (taken[key].min, taken[key].max) for key in TAKEN} == TAKEN
        given = {option.opts[0].removeprefix("--").replace("-", "_") for option in command.params}
        kind = "rsa" if command is rsa else "encoding"
        stated = {*ASKED, *OF_KIND[kind]} - {"alphas", "folds"}
        assert given == stated | {"subject", "dataset", "features", "out", "overwrite"}
    metrics = [option.type.choices for option in rsa.params if option.name.endswith("metric")]
    assert [list(choices) for choices in metrics] == [list(METRICS)] * 2


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        (RSA, ("draws",), 50),
        (RSA, ("permutations",), 10**6),
        (RSA, ("seed",), -1),
        (RSA, ("metric",), "mahalanobis"),
        (ENCODING, ("folds",), 3),
        (ENCODING, ("alphas",), [1.0]),
    ],
)
def test_a_result_that_no_command_makes_is_shown_and_said_to_be_of_python(with_results, name, keys, value):
    spoil(with_results / "results" / name, keys, value)
    entries = read_entries(with_results, ["sub-01_human"])
    found, *_ = read_analyses(entries, with_results)
    page = Page(join(*reproduce(entries, with_results, analysed=found)))
    assert len(found) == 2 and f"{name} cannot be made by the command line" in page.text
    assert sum(word.startswith("alignvis ") and (" rsa " in word or " encode " in word) for word in page.words) == 1
    assert without_a_decoder(with_results).count("Intervals: bootstrap") == 2


def spoil(path: Path, keys, value) -> None:
    whole = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    files.write_json(path, whole)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("analysis",), "encoding"),
        (("dataset",), None),
        (("subjects",), [1]),
        (("subjects",), []),
        (("subjects",), [True, 1]),
        (("responses", 0, "subject"), 3),
        (("responses", 0, "path"), None),
        (("responses",), {}),
        (("simulated",), "no"),
        (("n",), "40"),
        (("seed",), 0.5),
        (("metric",), None),
        (("window",), [0, 1]),
        (("drawn",), "images"),
        (("versions",), []),
        (("features",), []),
        (("features", 1, "aligned"), None),
        (("features", 0, "fingerprint"), 1),
        (("features", 0, "peak"), [0.5]),
    ],
)
def test_a_result_that_is_damaged_is_a_sentence_and_is_in_no_table_and_no_command(with_results, keys, value):
    spoil(with_results / "results" / RSA, keys, value)
    said = without_a_decoder(with_results)
    again = f"alignvis --root {shlex.quote(str(with_results))} rsa --subject 2,1 --dataset tiny --overwrite"
    assert f"{RSA} does not hold a result that can be shown; make it again with: {again}" in said
    assert said.count("Intervals: bootstrap") == 1 and not told(with_results, " rsa --subject 2,1")


@pytest.mark.parametrize("subjects", [[], [1, 1], [-1, 2], [1, 10**6]])
def test_subjects_that_no_recordings_have_are_refused(with_results, subjects):
    path = with_results / "results" / RSA
    spoil(path, ("subjects",), subjects)
    spoil(path, ("responses",), json.loads(path.read_text())["responses"][: len(subjects)])
    for place, subject in enumerate(subjects):
        spoil(path, ("responses", place, "subject"), subject)
    assert f"{RSA} does not hold a result that can be shown" in without_a_decoder(with_results)


def test_a_file_whose_name_says_of_nobody_is_made_again_of_the_runs_and_under_its_name(with_results):
    where = f"alignvis --root {shlex.quote(str(with_results))} encode --subject 1 --dataset tiny"
    kept = with_results / "results" / ENCODING
    kept.write_text("[")
    said = without_a_decoder(with_results)
    assert f"make it again with: {where} --out {kept.with_suffix('.png')} --overwrite" in said
    kept.rename(kept.with_name("encoding_tiny_sub-01_layer.6.json"))
    assert f"make it again with: {where} --target layer.6 --overwrite" in without_a_decoder(with_results)


@pytest.mark.parametrize("name", [RSA, ENCODING])
def test_of_one_time_nothing_is_the_highest(with_results, name):
    """Results of fMRI: no time was chosen, so nothing is optimistic for it."""
    spoil(with_results / "results" / name, ("times",), [0.0])
    (other,) = {RSA, ENCODING} - {name}
    (with_results / "results" / other).unlink()
    page = written(with_results, ["sub-01_human"])
    said = page.text.split("Similarity analysis")[1].split("How to reproduce it")[0]
    assert not any(words in said for words in ("highest", "over time", "optimistic", "all times", "excludes zero"))
    assert not any("highest" in image["alt"] for image in page.of("img"))
    one = json.loads((with_results / "results" / name).read_text())["features"][0]
    row = page.table("correlation (95 % interval)")[0]
    assert row.keys() == {"embedding", "correlation (95 % interval)", "p", "noise ceiling"}
    assert row["correlation (95 % interval)"].startswith("{:.2g} (".format(one["peak"]["r"]).replace("-", "−"))
    assert row["p"] == "{:.2g}".format(one["peak"]["p"])


def test_a_difference_says_at_how_many_times_its_band_excludes_zero(with_results):
    for beyond, said in (([True, False], "at 1 time."), ([True, True, False], "at 2 times."), ([False], "at 0 times.")):
        spoil(with_results / "results" / RSA, ("differences", 0, "excludes_zero"), beyond)
        assert "human minus plain: " in (found := without_a_decoder(with_results)) and f"excludes zero {said}" in found


def without_a_decoder(root: Path) -> str:
    entries = read_entries(root, ["sub-01_human"])
    return Page(join(*analyses(entries, root, *read_analyses(entries, root)[:2]))).text


def test_subjects_that_a_run_was_trained_on_are_prepared_for_it(with_results):
    (entry,) = read_entries(with_results, ["sub-01_human"])
    found, *_ = read_analyses([entry], with_results)
    for trained_on, said in (
        ([1], "also of subject 2 and of embeddings of plain,"),
        ([2], "also of embeddings of plain,"),
    ):
        entries = [replace(entry, record=entry.record | {"trained_on": trained_on})]
        assert said in Page(join(*reproduce(entries, with_results, analysed=found))).text


def told(root: Path, words: str) -> bool:
    """Whether a command with these words is among those that make the page again."""
    entries = read_entries(root, ["sub-01_human"])
    page = Page(join(*reproduce(entries, root, analysed=read_analyses(entries, root)[0])))
    return any(words in word for word in page.words if word.startswith("alignvis "))


def test_a_command_names_the_folder_of_the_recordings_even_where_they_call_their_dataset_otherwise(with_results):
    spoil(with_results / "results" / RSA, ("dataset",), "called otherwise")
    assert told(with_results, " rsa --subject 2,1 --dataset tiny ") and "called otherwise" in without_a_decoder(
        with_results
    )


def test_results_of_other_recordings_are_neither_shown_nor_made_again(with_results):
    for place in (0, 1):
        spoil(with_results / "results" / RSA, ("responses", place, "fingerprint"), "other")
    said = without_a_decoder(with_results)
    assert said.count("Intervals: bootstrap") == 1 and "There is none of these recordings." in said
    assert not told(with_results, " rsa ") and told(with_results, " encode ")


def test_an_embedding_of_which_nothing_is_known_has_dashes(with_results):
    spoil(with_results / "results" / RSA, ("features", 0, "peak"), None)
    (row, _) = written(with_results, ["sub-01_human"]).table("highest correlation (95 % interval)")
    assert set(row.values()) - {row["embedding"]} == {"–"}


def test_words_in_a_result_are_words_on_the_page_and_one_word_of_a_command(with_results):
    path = with_results / "results" / RSA
    held = json.loads(path.read_text())
    held |= {"dataset": HOSTILE, "target": HOSTILE, "channels": "$(reboot); `x`", "window": HOSTILE, "drawn": [HOSTILE]}
    held["features"][0] |= {"features": HOSTILE, "path": HOSTILE}
    held["responses"][0]["path"] = f"/a/{HOSTILE}/sub-01.safetensors"
    held["versions"] = {HOSTILE: HOSTILE}
    files.write_json(path, held)
    page = written(with_results, ["sub-01_human"])
    assert page.text.count("<script>alert(1)</script>") >= 8 and not page.of("script") and "\u202e" not in page.text
    assert not [key for _, about in page.elements for key in about if key.startswith("on")]
    (line,) = [word for word in page.words if word.startswith("alignvis ") and " rsa " in word]
    assert "$(reboot); `x`" in shlex.split(line) and shlex.split(line).count("--target") == 1


def test_tables_and_versions_of_results_are_stated_and_what_no_run_is_of(with_results):
    page = written(with_results)
    (row,) = page.table("python")
    assert row["runs or results"] == "1–4, rsa_tiny_sub-02-01, encoding_mine" and row["scipy"] == versions()["scipy"]
    assert {row["runs"] for row in page.table("sha256")} == {"1–2", "1, 3", "2, 4", "3–4"}
    assert "which no run of this page is of" not in page.text
    page = written(with_results, ["sub-01_human"])
    assert "also of subject 2 and of embeddings of plain, which no run of this page is of" in page.text
    held = {(row["table"], row["runs or results"]) for row in page.table("sha256")}
    assert ("responses/tiny/sub-02.safetensors", "rsa_tiny_sub-02-01") in held
    assert ("features/tiny/plain.safetensors", "rsa_tiny_sub-02-01, encoding_mine") in held and len(held) == 4
