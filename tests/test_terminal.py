"""Bars that are one for one piece of work, and numbers as they are typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from alignvis import terminal
from alignvis.cli import main
from alignvis.cli.pictures import _subjects
from alignvis.cli.recordings import _simulated
from alignvis.cli.scores import _within
from alignvis.spans import spans
from alignvis.terminal import Numbers, Screen, pasteable


class Bar:
    """Stands in for tqdm: what was drawn is kept."""

    made: list["Bar"] = []

    def __init__(self, total, desc, delay, **_):
        self.total, self.said, self.delay, self.n, self.notes, self.closed = total, [desc], delay, 0, [], False
        self.made.append(self)

    def set_description(self, text, refresh):
        self.said.append(text)

    def set_postfix_str(self, note, refresh):
        self.notes.append(note)

    def update(self, more):
        self.n += more

    def close(self):
        self.closed = True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What the clock shows, to be set."""
    now = [100.0]
    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Bar, "made", [])
    return now


def screen(quiet: bool = False) -> Screen:
    return Screen(Path(), False, quiet, False)


def test_parts_of_one_piece_of_work_share_a_bar(clock):
    progress = screen().bar()
    for done, text in ((1, "session 1: training"), (2, "session 1: whitening"), (5, "session 2: training")):
        progress(done, 6, text)
    (bar,) = Bar.made
    assert bar.said == ["session 1: training", "session 1: whitening", "session 2: training"] and bar.n == 5
    progress(6, 6, "session 2: whitening")
    assert bar.closed and len(Bar.made) == 1


@pytest.mark.parametrize("done, total", [(2, 7), (1, 6)])
def test_another_total_or_a_new_beginning_opens_another_bar(clock, done, total):
    progress = screen().bar()
    progress(3, 6, "reading")
    progress(done, total, "writing")
    assert [bar.closed for bar in Bar.made] == [True, False] and [bar.n for bar in Bar.made] == [3, done]


def test_a_bar_waits_a_second_from_the_beginning_of_the_work_and_not_from_its_first_step(clock):
    progress = screen().bar()
    clock[0] += 0.25
    progress(1, 4, "reading")
    clock[0] += 5
    progress(4, 4, "reading")  # and then from the end of the last
    clock[0] += 0.5
    progress(1, 3, "writing")
    progress(3, 3, "writing")
    clock[0] += 60
    progress(1, 2, "thinking")
    assert [bar.delay for bar in Bar.made] == [0.75, 0.5, 0.0]


def test_nothing_is_drawn_where_quiet_is_asked_for(clock):
    screen(quiet=True).bar()(1, 2, "reading")
    assert not Bar.made


def test_curves_of_many_runs_are_one_bar_that_says_which_and_moves_within_each(clock):
    here, runs, seen = screen(), 3, []
    for place in range(runs):
        within = _within(here.bar(), place, runs)
        for done in (1, 2, 4):
            within(done, 4, "averaging test repetitions")
            seen.append(Bar.made[0].n)
        within(1, 1, "")
    assert Bar.made[0].total == 300 and seen == [25, 50, 100, 125, 150, 200, 225, 250, 300]
    assert Bar.made[0].notes[0] == "run 1 of 3" and Bar.made[0].notes[-1] == "run 3 of 3" and Bar.made[0].closed
    assert all(bar.n == bar.total and bar.closed for bar in Bar.made[1:])  # gone before the second that it waits


@pytest.mark.parametrize(
    "numbers, text", [((1,), "1"), ((1, 2, 3), "1-3"), ((3, 1, 2, 7, 9, 10), "1-3,7,9-10"), ((1, 3), "1,3"), ((), "")]
)
def test_numbers_are_typed_as_they_are_read(numbers, text):
    assert spans(numbers) == text
    assert not text or Numbers().convert(text, None, None) == tuple(sorted(numbers))


def test_the_next_command_is_about_all_subjects_that_there_are(tmp_path, capsys):
    _simulated(screen(), "nsd", lambda out, **_: {}, tmp_path, (1, 2, 3, 7), {})
    assert capsys.readouterr().err.rstrip().endswith(f"prepare nsd --raw {tmp_path / 'raw'} --subject 1-3,7")
    assert _subjects(tmp_path) == "1"
    for name in ("a/sub-01", "a/sub-02", "b/sub-02", "b/sub-04", "b/other", "b/sub-x"):
        path = tmp_path / "responses" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert _subjects(tmp_path) == "1-2,4"


@pytest.mark.parametrize(
    ("root", "said", "expected"),
    [
        ("my data", "score it with: alignvis eval RUN", "score it with: alignvis --root 'my data' eval RUN"),
        (".", "score it with: alignvis eval RUN", "score it with: alignvis eval RUN"),
        ("d", "of an earlier alignvis and gone", "of an earlier alignvis and gone"),
        ("d", "`alignvis list` or alignvis evaluates", "`alignvis --root d list` or alignvis evaluates"),
        ("d", "alignvis --root e eval", "alignvis --root e eval"),
        (r"a\1", "alignvis check", r"alignvis --root 'a\1' check"),
        ("d", "/a/alignvis demo/x: alignvis eval", "/a/alignvis demo/x: alignvis --root d eval"),
    ],
)
def test_commands_in_sentences_can_be_pasted(root, said, expected):
    assert pasteable(said, Path(root)) == said  # outside the command line nothing is known of a root
    with main.make_context("alignvis", ["--root", root, "list"]):
        assert pasteable(said, Path(root)) == expected


def test_a_mistake_names_the_command_with_the_root_at_hand(tmp_path):
    result = CliRunner().invoke(main, ["--root", str(tmp_path), "eval"])
    assert result.exit_code == 1 and f"make one with: alignvis --root {tmp_path} train --subject 1" in result.output
