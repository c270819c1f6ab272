"""The commands of the page that make tables state every choice that a table states and that is not the usual one."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import click
import pytest

from alignvis.cli.recordings import prepare
from alignvis.images.catalogue import CATALOGUE
from alignvis.reports.entries import Entry
from alignvis.reports.preparing import KINDS, USUAL, extracted, prepared
from tests.reported import twins, written

ROOT = Path("a root")
CHOSEN = {
    "things-eeg2": {"sessions": [1, 3, 4], "channels": "occipital", "sfreq": 100.0, "window": [-0.2, 0.825],
                    "repetitions": [1, 20], "dtype": "float32"},
    "things-meg": {"sessions": [1, 2, 12], "channels": "MLO11-1609", "sfreq": 62.5, "window": [0.0, 0.00001],
                   "dtype": "float32"},
    "nsd": {"sessions": [1, 2, 3], "zscore": False, "repetitions": [1, 3], "dtype": "float32"},
    "mne": {"recordings": ["a b.vhdr", "c.vhdr"], "events": ["a.tsv (0123)", "c.tsv (4567)"], "sessions": [1, 1],
            "channels": "eeg", "window": [-0.1, 1.0], "baseline": None, "sfreq": 100.0, "whiten": False,
            "repetitions": [1, 2], "dtype": "float32"},
}  # fmt: skip


def stating(kind: str, asked, **header) -> Entry:
    """A run on a table that says how it was made."""
    dataset = "own" if kind == "mne" else kind
    record = {"dataset": dataset, "subject": 2, "trained_on": [2], "features": "lowlevel", "channels": ["Oz"]}
    entry = Entry(1, Path("run"), record, None, "")
    entry.__dict__["responses"] = {"asked": asked, **header}
    return entry


def typed(entry: Entry) -> tuple[click.Command, dict]:
    """What the command line makes of the line."""
    words = shlex.split(prepared(entry, ROOT))
    assert words[:4] == ["alignvis", "--root", "a root", "prepare"], words
    command = prepare.commands[words[4]]
    return command, command.make_context(words[4], words[5:]).params


@pytest.mark.parametrize("kind", CHOSEN)
def test_every_choice_of_a_table_is_typed_as_the_command_line_takes_it(kind):
    asked = CHOSEN[kind]
    _, found = typed(stating(kind, asked))
    assert found.pop("float32") is (asked["dtype"] == "float32")
    for key, value in asked.items():
        if key in found and key != "events":
            taken = list(found[key]) if isinstance(value, list) else found[key]
            assert taken == value, key
    assert found["subject"] in (2, (2,)) and (kind == "mne" or {*asked} - {"dtype"} <= {*found})
    if kind == "mne":
        assert [path.name for path in found["raw"]] == ["a b.vhdr", "c.vhdr"] and found["session"] == (1, 1)
        assert [path.name for path in found["events"]] == ["a.tsv", "c.tsv"]


@pytest.mark.parametrize("kind", CHOSEN)
def test_what_is_usual_is_what_the_command_line_takes_unasked_and_is_not_typed(kind):
    entry = stating(kind, USUAL[kind])
    command, found = typed(entry)
    usual = {**USUAL[kind]}
    assert found.pop("float32") is (usual.pop("dtype") == "float32")
    for key, value in usual.items():
        taken = list(found[key]) if isinstance(value, list) else found[key]
        assert taken == value, key
    line = shlex.split(prepared(entry, ROOT))
    assert {word for word in line if word.startswith("--")} <= {"--root", "--raw", "--subject", "--events", "--dataset"}
    # and there is no choice that is not stated: where things are is no choice
    named = {option.name for option in command.params if isinstance(option, click.Option)}
    assert named - {"raw", "events", "subject", "dataset", "images", "overwrite", "float32"} - {"session"} == {*usual}
    assert {*KINDS, "mne"} == {*CHOSEN} == {*USUAL} == {*prepare.commands}


def test_choices_that_cannot_be_typed_are_not():
    hostile = {"sessions": ["1; rm"], "channels": ["x"], "sfreq": "fast", "window": [0], "repetitions": [1, "<b>"],
               "dtype": "float64"}  # fmt: skip
    assert prepared(stating("things-eeg2", hostile), ROOT).endswith(" --raw RAW --subject 2")
    assert prepared(stating("things-eeg2", None), ROOT).endswith(" --raw RAW --subject 2")
    assert "'$(reboot)'" in prepared(stating("things-eeg2", {"channels": "$(reboot)"}), ROOT)
    for events in (None, ["one.tsv"], "ab"):
        line = prepared(stating("mne", {"recordings": ["a", "b"], "events": events}), ROOT)
        assert line.endswith(" --raw RECORDING --events EVENTS")


def test_recordings_that_each_are_a_session_need_no_number():
    line = prepared(stating("mne", CHOSEN["mne"] | {"sessions": [1, 2]}), ROOT)
    assert "--session " not in line and "--raw 'a b.vhdr' --events a.tsv --raw c.vhdr --events c.tsv" in line


def test_a_table_of_another_project_is_imported():
    entry = stating("things-eeg2", {"layout": "x", "dtype": "float32"}, parameters={"imported": "x"})
    assert prepared(entry, ROOT).endswith(" import FILES --subject 2 --dataset things-eeg2 --float32")


def test_an_embedding_that_no_command_makes_has_none():
    entry = stating("nsd", {})
    assert "lowlevel" in CATALOGUE
    for header, made in (({}, True), ({"own": True}, False), (None, True)):
        entry.__dict__["features"] = header
        assert (extracted(entry, ROOT) is not None) is made
    other = replace(entry, record=entry.record | {"features": "fine"})
    for header, made in (({}, False), ({"imported": {}}, True), (None, False)):
        other.__dict__["features"] = header
        assert (extracted(other, ROOT) is not None) is made


def test_the_page_says_what_was_made_elsewhere_and_lists_no_command_for_it(tmp_path):
    page = written(twins(tmp_path / "root", subjects=1))
    assert not [word for word in page.words if word.startswith("alignvis ") and " extract " in word]
    assert "human, plain: no image encoder of the catalogue. The tables were made elsewhere" in page.text
    path = tmp_path / "root/runs/sub-01_human/record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": "lowlevel"}))
    page = written(tmp_path / "root")
    assert [word for word in page.words if word.startswith("alignvis ") and " extract " in word]
    assert "plain: no image encoder of the catalogue. The table was made elsewhere" in page.text
