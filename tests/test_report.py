import json
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from alignvis import files
from alignvis.cli import main
from alignvis.comparing import compare
from alignvis.errors import AlignvisError
from alignvis.intervals import interval as interval_of
from alignvis.reports.html import Html, commands, element, join, table, text
from alignvis.reports.numbers import interval, number, pair, percent, plain, points
from alignvis.reports.writing import write_report
from alignvis.spans import spans
from alignvis.stats import bootstrap
from alignvis.table import scores_table
from tests.reported import HOSTILE, Page, scores_of, twins, written


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return twins(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made, tmp_path) -> Path:
    """The same without pictures, which take long to draw, and without a page."""
    return Path(shutil.copytree(made, tmp_path / "root", ignore=shutil.ignore_patterns("images", "*.html")))


@pytest.fixture(scope="module")
def page(made) -> Page:
    write_report(made, [], made / "report.html", overwrite=True)
    return Page((made / "report.html").read_text(encoding="utf-8"))


def test_the_answer_is_the_mean_over_subjects_of_both_twins_with_the_interval_that_compare_gives(made, page):
    means = {
        name: np.mean([scores_of(made, f"sub-{subject:02d}_{name}")["top1"] for subject in (1, 2)])
        for name in ("human", "plain")
    }
    assert means["human"] > 0.5 > 2 * means["plain"]  # or there would be nothing to report
    assert "Through human , aligned to human similarity judgements, the right one of 40 pictures" in page.text
    assert f"was named first for {100 * means['human']:.1f} % of the test responses" in page.text
    assert f"through its unaligned twin plain for {100 * means['plain']:.1f} %" in page.text
    (row,) = compare(made)
    assert row["difference"] == pytest.approx(means["human"] - means["plain"])
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in row["interval"])
    said = page.text.split("a difference of ")[1]
    assert said.startswith(f"{100 * row['difference']:+.1f} points (95 % interval {low} to {high}, over subjects and")
    assert "2 subjects, 40 pictures). Chance is 2.5 %." in said


def test_each_row_of_scores_is_what_scores_json_of_the_cited_run_says(made, page):
    rows = [
        row for row in page.table("top-1 (95 % interval)") if row["embedding and brain encoder"].endswith(" linear")
    ]
    numbers = {name: str(place) for place, name in enumerate(sorted(p.name for p in (made / "runs").iterdir()), 1)}
    for name in ("human", "plain"):
        for subject in (1, 2):
            scores = scores_of(made, f"sub-{subject:02d}_{name}")
            (row,) = [
                row for row in rows if name in row["embedding and brain encoder"] and row["subject"] == str(subject)
            ]
            low, high = scores["top1_interval"]
            assert row["top-1 (95 % interval)"] == f"{100 * scores['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for title, measure in (("top-5", "top5"), ("pairwise", "pairwise")):
                low, high = scores[f"{measure}_interval"]
                assert row[title] == f"{100 * scores[measure]:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for title, measure in (("median rank", "median_rank"), ("MRR", "mrr")):
                low, high = scores[f"{measure}_interval"]
                assert row[title] == f"{scores[measure]:.3g} ({low:.3g} to {high:.3g})"
            assert row["seeds"] == "1"
            assert row["runs"] == f"[{numbers[f'sub-{subject:02d}_{name}']}]"
        both = [scores_of(made, f"sub-{subject:02d}_{name}") for subject in (1, 2)]
        (row,) = [row for row in rows if name in row["embedding and brain encoder"] and row["subject"] == "all 2"]
        low, high = bootstrap(np.array([scores["ranks"] for scores in both]) == 1)  # of subjects and pictures
        mean = np.mean([scores["top1"] for scores in both])
        assert row["top-1 (95 % interval)"] == f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        ends = interval_of([[scores] for scores in both], "mrr")
        assert row["MRR"].endswith(f"({ends[0]:.3g} to {ends[1]:.3g})")
        said = f"{100 * low:.1f} to {100 * high:.1f} %, bootstrap over 2 subjects and pictures"
        assert any(said in image["alt"] for image in page.of("img")), said  # the same everywhere
    assert [row["embedding and brain encoder"][0] for row in rows] == [*"●●●○○○"]  # aligned ones first
    marks = {row["embedding and brain encoder"][0] for row in rows if "human" in row["embedding and brain encoder"]}
    assert marks == {"●"} and {
        row["embedding and brain encoder"][0] for row in rows if "plain" in row["embedding and brain encoder"]
    } == {"○"}


def test_seeds_are_averaged_before_subjects_and_their_spread_stands_apart(root, monkeypatch):
    monkeypatch.setattr("alignvis.reports.entries.proved_similarity", lambda *about: None)  # round numbers are made up
    for run, seed, top1 in (("sub-01_human", 0, 0.5), ("again", 1, 0.7), ("sub-02_human", 0, 0.2)):
        if run == "again":
            shutil.copytree(root / "runs/sub-01_human", root / "runs/again")
        for name in ("record.json", "scores.json"):
            path = root / "runs" / run / name
            found = json.loads(path.read_text())
            ranks = [1] * round(40 * top1) + [7] * round(40 - 40 * top1)
            made_up = {"top1": top1, "ranks": ranks} if name == "scores.json" else {}
            files.write_json(path, found | {"seed": seed} | made_up)
    rows = written(root, ["sub-01_human", "again", "sub-02_human"]).table("top-1 (95 % interval)")
    one, two, both = [row for row in rows if "human" in row["embedding and brain encoder"]]
    assert one["seeds"] == "2" and one["top-1 (95 % interval)"].startswith("60.0 ± 14.1 (44.6 to 73.7)")
    assert two["top-1 (95 % interval)"].startswith("20.0 (") and both["top-1 (95 % interval)"].startswith("40.0 (")


def test_few_subjects_have_the_t_interval_beside_the_bootstrap(page):
    (row,) = [row for row in page.table("paired t over subjects") if "human" in row["aligned − twin"]]
    assert row["paired t over subjects"].startswith("t(") and " to " in row["paired t over subjects"]
    assert "Of fewer than five subjects who differ a bootstrap interval is too short" in page.text


def test_a_score_that_does_not_follow_from_its_similarities_is_not_shown(root):
    path = root / "runs/sub-01_human/scores.json"
    files.write_json(path, json.loads(path.read_text()) | {"top1": 0.987})
    page = written(root)
    assert "98.7" not in page.text and "do not follow from its similarities (top1)" in page.text


def test_directions_and_transductive_scores_stand_in_tables_of_their_own(made, page):
    scores = scores_of(made, "sub-01_human")
    tables = [table for table in page.tables if "top-1 (95 % interval)" in table[0]]
    assert len(tables) == 2
    backwards = [row for row in tables[1] if "human" in row[0] and row[1] == "1"][0]
    low, high = (f"{100 * end:.1f}" for end in scores["image_to_brain"]["top3_interval"])
    top3 = backwards[tables[1][0].index("top-3")]
    assert top3 == f"{100 * scores['image_to_brain']['top3']:.1f} ({low} to {high})"
    top1 = backwards[tables[1][0].index("top-1 (95 % interval)")]
    assert (
        top1.startswith(f"{100 * scores['image_to_brain']['top1']:.1f} (")
        and scores["top1"] != scores["image_to_brain"]["top1"]
    )
    (row,) = [
        r for r in page.table("CSLS, top-1") if "human" in r["embedding and brain encoder"] and r["subject"] == "1"
    ]
    assert row["CSLS, top-1"] == f"{100 * scores['transductive']['csls']['top1']:.1f}"
    assert all("CSLS" not in cell for table in tables for row in table for cell in row)
    assert "TRANSDUCTIVE" in page.text.split("CSLS, top-1")[0]
    (row,) = [r for r in page.table("10-way") if "human" in r["embedding and brain encoder"] and r["subject"] == "1"]
    low, high = (f"{100 * end:.1f}" for end in scores["n_way_interval"]["10"])
    assert row["10-way"] == f"{100 * scores['n_way']['10']:.1f} ({low} to {high})"


def test_class_centres_and_drawn_galleries_are_never_mixed_with_exact_images(root, monkeypatch):
    monkeypatch.setattr("alignvis.reports.entries.proved_similarity", lambda *about: None)  # round numbers are made up
    path = root / "runs/sub-01_human/scores.json"
    drawn = {"size": 30, "draws": 20, "seed": 0, "chance": 1 / 30, "brain_to_image": {"top1": 0.456, "top1_sd": 0.01},
             "image_to_brain": {"top1": 0.4, "top1_sd": 0.02}}  # fmt: skip
    scores = json.loads(path.read_text())
    chances = {key: scores[key] for key in scores if key.endswith("_chance")}
    centres = scores["image_to_brain"] | chances | {"gallery": 40, "table": "x", "ranks": scores["ranks"]}
    centres |= {"top1": 0.123, "top1_interval": [0.05, 0.2]}
    files.write_json(path, scores | {"class_centres": centres, "subset_galleries": drawn})
    page = written(root)
    holding = [table for table in page.tables if any(cell.startswith("12.3 (") for row in table for cell in row)]
    assert len(holding) == 1 and len(holding[0]) == 3  # its head, the one run that has such a score, and chance
    (row, _) = page.table("brain to picture, top-1")
    assert (row["brain to picture, top-1"], row["SD over draws"]) == ("45.6", "2.0")
    assert "Among class centres." in page.text and "Among 30 drawn pictures." in page.text


def test_runs_that_may_not_be_compared_are_answered_apart(root):
    for name in ("record.json", "scores.json"):
        path = root / "runs/sub-02_human" / name
        files.write_json(path, json.loads(path.read_text()) | {"dataset": "other"})
    page = written(root)
    heads = [about for about in page.of("h3")]
    assert page.text.count("chance is 2.5 %") + page.text.count("Chance is 2.5 %") == 2 and len(heads) > 2
    assert "Numbers of different protocols are not compared with each other." in page.text


def test_the_page_holds_all_that_it_needs_and_asks_for_nothing(made, page):
    source = (made / "report.html").read_text(encoding="utf-8")
    assert not page.of("script") and not page.of("iframe") and not page.of("form")
    policies = [about["content"] for about in page.of("meta") if about.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in policies[0] and "script-src" not in policies[0]
    assert all(image["src"].startswith("data:image/") and len(image["alt"]) > 20 for image in page.of("img"))
    for _, about in page.elements:
        for key in ("href", "src", "action", "srcset", "data"):
            assert about.get(key, "#").startswith(("#", "data:")), about
        assert not [key for key in about if key.startswith("on")]
    assert "url(" not in source and "@import" not in source


def test_headings_links_and_tables_are_sound(page):
    levels = [int(name[1]) for name, _ in page.elements if name in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [about["id"] for _, about in page.elements if "id" in about]
    assert len(ids) == len(set(ids))
    inside = [about["href"][1:] for about in page.of("a")]
    assert set(inside) <= set(ids) and {"answer", "protocol", "scores", "twins", "reproduce"} <= set(inside)
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    assert all(about.get("scope") in ("col", "row") for about in page.of("th"))
    assert page.of("html")[0]["lang"] == "en" and page.of("main") and page.of("nav")


def test_simulated_runs_say_so_before_any_number(page):
    assert page.text.index("SIMULATED") < page.text.index("The answer The") if "The answer The" in page.text else True
    assert "SIMULATED . The brain responses were made by a computer." in page.text.split("The right one")[0]


def test_a_page_of_recorded_brains_does_not_say_simulated(root):
    for run in (root / "runs").iterdir():
        for name in ("record.json", "scores.json"):
            found = json.loads((run / name).read_text())
            files.write_json(run / name, found | {"simulated": False})
    assert "SIMULATED" not in written(root).text


def test_what_is_missing_is_said_with_the_command_that_makes_it(root):
    for run in (root / "runs").iterdir():
        (run / "scores.json").unlink()
    page = written(root)
    said = page.text
    assert "None of these runs has scores yet." in said
    for words in ("eval sub-01_human", "explain sub-01_human", "rsa --subject 1-2", "encode --subject 1-2", "compare"):
        assert f"alignvis --root {shlex.quote(str(root))} {words}" in said, words
    (root / "runs/sub-01_human/scores.json").write_text("{")
    assert "is not readable as JSON" in written(root).text


def test_scores_of_an_earlier_alignvis_and_results_that_are_damaged_are_said_and_not_shown(root):
    (root / "results").mkdir()
    (root / "results/rsa_tiny_sub-01.json").write_text('{"dataset": 1}')
    (root / "results/encoding_tiny_sub-01.json").write_text("[")
    for name in ("repetitions.json", "explain.json"):
        (root / "runs/sub-01_human" / name).write_text('{"version": 1}')
    for name in ("compare", "committees"):
        (root / f"results/{name}.json").write_text("{")
    page = written(root)
    assert "does not hold a result that can be shown" in page.text and "is not readable as JSON" in page.text
    assert page.text.count("explain.json") > 0
    began = f"make it again with: alignvis --root {shlex.quote(str(root))}"
    for words in ("rsa --subject 1 --dataset tiny --overwrite", "encode --subject 1 --dataset tiny --overwrite",
                  "compare --overwrite", "eval --committee"):  # fmt: skip
        assert f"{began} {words}" in page.text, words
    arguments = ["--root", str(root), "--json", "report", "--overwrite"]
    told = CliRunner().invoke(main, arguments)
    names = ("compare", "committees", "rsa_tiny_sub-01", "encoding_tiny_sub-01")
    unread = [str(root / f"results/{name}.json") for name in names]
    assert json.loads(told.stdout)["unread"] == unread
    (note,) = [line for line in told.stderr.splitlines() if line.startswith("note: could not read")]
    assert all(path in note for path in unread)
    shutil.rmtree(root / "results")
    told = CliRunner().invoke(main, arguments)
    assert json.loads(told.stdout)["unread"] == [] and "could not read" not in told.stderr


def strings(value, path=()):
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key in value:
            yield from strings(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from strings(value[0], (*path, 0))


def replaced(value, path, other):
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


@pytest.mark.parametrize("name", ["record.json", "scores.json"])
def test_hostile_words_in_any_field_are_shown_as_words(root, name):
    """Every string of both files, one field at a time and then all at once; nothing of it becomes markup."""
    run = root / "runs/sub-01_human"
    for other in ("sub-02_human", "sub-02_plain", "sub-01_plain"):
        shutil.rmtree(root / "runs" / other)
    whole = json.loads((run / name).read_text())
    fields = [path for path in strings(whole) if path[-1] not in ("weights_sha256", "similarity_sha256")]
    fields = [path for path in fields if path[:1] not in (("history",), ("split",))]
    everything = whole
    for path in fields:
        everything = replaced(everything, path, HOSTILE)
    shown = 0
    for spoiled in [*(replaced(whole, path, HOSTILE) for path in fields[:4]), everything]:
        files.write_json(run / name, spoiled)
        page = written(root, ["sub-01_human"], title=HOSTILE)
        assert not page.of("script") and all(image["src"].startswith("data:") for image in page.of("img"))
        assert not [key for _, about in page.elements for key in about if key.startswith("on")]
        assert page.of("title") and "<script>alert(1)</script>" in page.text  # as words
        shown += page.text.count("<script>alert(1)</script>")
        assert "\u202e" not in page.text
    assert shown >= 10  # scores that name another dataset than their record are not shown at all


def test_commands_survive_names_that_a_shell_would_take_apart(root):
    run = (root / "runs/sub-01_human").rename(root / "runs/a; rm -rf $HOME")
    page = written(root, [run])
    lines = [word for word in page.words if word.startswith("alignvis ") and " eval " in word]
    assert lines and all(run.name in shlex.split(line) for line in lines)


def test_the_same_files_give_the_same_page_and_nothing_is_overwritten_unasked(root):
    runner = CliRunner()
    arguments = ["--root", str(root), "--json", "report", "sub-01_human", "sub-01_plain"]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    first = (root / "report.html").read_bytes()
    assert (made["runs"], made["scored"], made["bytes"]) == (2, 2, len(first)) and len(first) < 2e6
    again = runner.invoke(main, arguments)
    assert again.exit_code == 1 and "is there already; replace it with --overwrite" in again.output
    assert (root / "report.html").read_bytes() == first
    assert runner.invoke(main, [*arguments, "--overwrite"]).exit_code == 0
    assert (root / "report.html").read_bytes() == first


def test_what_is_no_run_and_what_is_no_page_is_refused(root, tmp_path):
    with pytest.raises(AlignvisError, match="there is no run"):
        write_report(root, [Path("nothing")], root / "x.html")
    with pytest.raises(AlignvisError, match="there are no runs"):
        write_report(tmp_path / "empty", [], root / "x.html")
    with pytest.raises(AlignvisError, match="let it end in .html"):
        write_report(root, [], root / "x.pdf")
    assert not (root / "x.html").exists()


def test_commands_of_the_page_train_the_same_run(root, tmp_path):
    """The line that stands on the page gives the same weights, to the byte."""
    runner = CliRunner()
    options = ["--subject", "1", "--features", "human", "--encoder", "linear", "--recipe", "alignvis-fixed"]
    options += ["--epochs", "2", "--batch", "32", "--no-head", "--seed", "3"]
    assert runner.invoke(main, ["--root", str(root), "--quiet", "train", *options]).exit_code == 0
    (run,) = [path for path in (root / "runs").iterdir() if "seed-3" in path.name]
    page = written(root, [run])
    (line,) = [word for word in page.words if word.startswith("alignvis") and " train " in word]
    before = (run / "weights.safetensors").read_bytes()
    shutil.rmtree(run)
    result = runner.invoke(main, ["--quiet", *shlex.split(line)[1:]])
    assert result.exit_code == 0, result.output
    assert (run / "weights.safetensors").read_bytes() == before


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_text_is_escaped_once_and_markup_is_left_alone():
    assert text("a < b & \"c\" 'd'") == "a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;"
    assert text(text("<")) == "&lt;" and join("<", Html("<br>"), between="&") == "&lt;&amp;<br>"
    assert element("p", "<i>", attributes={"title": '"><'}) == '<p title="&quot;&gt;&lt;">&lt;i&gt;</p>'
    assert text("a\x00b\u202ec\ud800d\ne\tf") == "a\ufffdb\ufffdc\ufffdd\ne\tf"

    class Words(HTMLParser):
        def handle_data(self, data):
            self.found = data

    words = Words()
    words.feed(element("p", HOSTILE.replace("\u202e", "")))
    assert words.found == HOSTILE.replace("\u202e", "")


def test_no_option_of_a_command_is_taken_apart_and_the_command_stays_as_it_was():
    line = f"alignvis --root '/a  b' train --leave-out x-y <b> --{'z' * 40} -h"
    page = Page(commands([line, line]))
    assert page.words == [line, line] and {about["class"] for about in page.of("span")} == {"whole"}
    held = [about for about in page.elements if about[0] == "span"]
    assert len(held) == 2 * 3 and 'whole">--leave-out<' in commands([line]) and "zz</span>" not in commands([line])


def test_a_table_needs_as_many_cells_as_columns():
    with pytest.raises(ValueError):
        table("x", ("a", "b"), [["1"]])


def test_numbers_are_written_as_such_and_anything_else_is_a_dash():
    assert (percent(0.125), percent(1, unit=False), percent("1"), percent(True), percent(float("nan"))) == (
        "12.5 %", "100.0", "–", "–", "–",
    )  # fmt: skip
    assert points(-0.034) == "−3.4" and points(0.034) == "+3.4" and points(0) == "0.0"
    assert interval([-0.01, 0.2]) == "−1.0 to 20.0" and interval([1]) == "–" and pair([0, "1"]) is None
    assert number(10**400) is None and plain(None) == "–" and plain(-0.5) == "−0.5"
    assert spans([3, 1, 2, 7, 7]) == "1-3,7"


def test_trials_that_differ_between_pictures_are_said_as_they_are(root):
    path = root / "runs/sub-01_human/scores.json"
    files.write_json(path, json.loads(path.read_text()) | {"trials": {"min": 1, "max": 3, "mean": 2.5}})
    said = written(root, ["sub-01_human"]).text
    assert (
        "each the mean of 1 to 3 trials (2.5 on average)" in said and "4 repetitions" not in said.split("Training")[0]
    )


def test_a_copy_of_a_run_is_no_second_seed_of_the_page(root):
    shutil.copytree(root / "runs/sub-01_human", root / "runs/sub-01_twice")
    with pytest.raises(AlignvisError, match="sub-01_human and .*sub-01_twice are of the same subject, seed and recipe"):
        written(root)
    page = written(root, ["sub-01_human", "sub-01_plain"])  # and those that are named make a page
    assert {row["runs"] for row in page.table("top-1 (95 % interval)") if row["runs"]} == {"[1]", "[2]"}


def test_a_comparison_that_rests_on_runs_elsewhere_is_told_and_not_shown(root):
    said = written(root, ["sub-01_human", "sub-01_plain"]).text
    assert "a difference of" not in said and "rest on runs that are not on this page" in said


def test_the_answer_without_twins_has_the_interval_that_eval_prints(root):
    scores = [scores_of(root, run) | {"run": run} for run in ("sub-01_human", "sub-02_human")]
    low, high = interval_of([[one] for one in scores])
    said = written(root, ["sub-01_human", "sub-02_human"]).text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, bootstrap over 2 subjects and pictures" in said
    assert f"{100 * low:.1f} to {100 * high:.1f}" in scores_table(scores)


def test_from_picture_to_brain_the_interval_is_of_that_direction(made, page):
    backwards = [table for table in page.tables if "top-1 (95 % interval)" in table[0]][1]
    for name in ("human", "plain"):
        scores = [scores_of(made, f"sub-0{subject}_{name}") for subject in (1, 2)]
        hits = np.array([score["image_to_brain"]["ranks"] for score in scores]) == 1
        low, high = bootstrap(hits)
        (cell,) = [row[3] for row in backwards if row[1] == "all 2" and name in row[0]]
        assert cell == f"{100 * hits.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"
        assert (hits != (np.array([score["ranks"] for score in scores]) == 1)).any()


def test_runs_that_named_nearly_always_the_same_picture_are_said_to_have(root, page, monkeypatch):
    assert "NEARLY ALWAYS" not in page.text
    monkeypatch.setattr("alignvis.reports.entries.proved_similarity", lambda *about: None)
    path = root / "runs/sub-01_plain/scores.json"
    files.write_json(path, json.loads(path.read_text()) | {"answers": 2})  # of 40
    said = written(root).text
    assert "NEARLY ALWAYS THE SAME PICTURE. Run [ 2 ] named only 2 pictures for 40 responses" in said
    files.write_json(path, json.loads(path.read_text()) | {"answers": 3})
    assert "NEARLY ALWAYS" not in written(root).text
