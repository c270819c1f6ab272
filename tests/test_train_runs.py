"""Runs that were interrupted go on; runs trained together are the runs trained one by one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alignvis import store, train_runs
from alignvis.errors import AlignvisError
from alignvis.grid import train_grid
from alignvis.recipe import RECIPES, Recipe
from alignvis.runs import load_decoder, read_record
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from tests.tables import planted, write_features

RECIPE = Recipe(batch=32, epochs=6, rate=3e-3, schedule="cosine", validation="concept")
CHANGES = {"batch": 32, "epochs": 6, "rate": 3e-3}


@pytest.fixture
def root(tmp_path) -> Path:
    return planted(tmp_path)


@pytest.fixture
def saved_at_once(monkeypatch):
    monkeypatch.setattr(train_runs, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(train_runs, "SAVE_SHARE", float("inf"))


def train(root: Path, name: str, **changes) -> dict:
    options = {"encoder": "nice", "recipe": RECIPE, "seed": 3, **changes}
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    return train_run(*tables, root / "runs" / name, **options)


def interrupted(root: Path, name: str, epoch: int = 3, **changes) -> None:
    def stop(row: dict) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(root, name, report=stop, **changes)


def grid(root: Path, said: list[str] | None = None, **changes) -> list[Path]:
    options = {"subjects": [1], "encoders": ["linear"], "recipe_name": "alignvis-fixed", "changes": CHANGES, **changes}
    runs = train_grid(root, say=(said if said is not None else []).append, detail=lambda text: None, **options)
    return [run for run, _ in runs]


def test_a_run_that_was_interrupted_goes_on_and_ends_as_if_it_never_was(root, saved_at_once):
    whole = train(root, "whole")
    interrupted(root, "halves")
    assert [path.name for path in (root / "runs").iterdir() if path.name != "whole"] == [".halves.safetensors"]
    epochs: list[int] = []
    halves = train(root, "halves", report=lambda row: epochs.append(row["epoch"]))
    assert epochs == [3, 4, 5]
    assert halves["weights_sha256"] == whole["weights_sha256"] and halves["history"] == whole["history"]
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["halves", "whole"]


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"recipe": replace(RECIPE, decay=0.2)}, {"encoder": "linear"}, "table"]
)
def test_what_is_left_of_another_run_is_not_gone_on_with(root, saved_at_once, change):
    interrupted(root, "one")
    if change == "table":
        table = store.load_features(root / "features/tiny/lowlevel.safetensors")
        write_features(table.path, -np.asarray(table.embeddings), table.images)
        change = {}
    epochs: list[int] = []
    train(root, "one", report=lambda row: epochs.append(row["epoch"]), **change)
    assert epochs[0] == 0


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_left_in_ruins_is_begun_anew(root, saved_at_once, content):
    interrupted(root, "one")
    (root / "runs/.one.safetensors").write_bytes(content)
    epochs: list[int] = []
    train(root, "one", report=lambda row: epochs.append(row["epoch"]))
    assert epochs == [0, 1, 2, 3, 4, 5]


def test_overwriting_begins_anew(root, saved_at_once):
    interrupted(root, "one")
    epochs: list[int] = []
    train(root, "one", overwrite=True, report=lambda row: epochs.append(row["epoch"]))
    assert epochs[0] == 0


def test_unfinished_runs_are_not_saved_at_every_epoch(root):
    interrupted(root, "one")
    assert not list(root.glob("runs/*"))  # six epochs take less than ten seconds


def test_runs_trained_together_are_those_trained_one_by_one(root, tmp_path_factory):
    """The whole way through files, with seeds, subjects and embeddings mixed in one stack."""
    planted(root, subject=2)
    table = store.load_features(root / "features/tiny/lowlevel.safetensors")
    write_features(
        root / "features/tiny/twin.safetensors", np.asarray(table.embeddings) ** 3, table.images, encoder="twin"
    )
    alone = grid(root, subjects=[1, 2], seeds=[0, 1])
    records = {run.name: read_record(run) for run in alone}
    scores = {run.name: evaluate_run(run) for run in alone}
    for run in alone:
        assert records[run.name]["stack"] == 1
    said: list[str] = []
    together = grid(root, said, subjects=[1, 2], seeds=[0, 1], together=3, overwrite=True)
    assert said == ["8 runs step together in stacks: 2 of 3, 2 of 1"]  # on a CPU a part is one recording
    assert together == alone and len(alone) == 8
    for run in together:
        record, before = read_record(run), records[run.name]
        for key in ("split", "inputs", "seed", "subject", "features", "shape"):
            assert record[key] == before[key]
        for row, other in zip(record["history"], before["history"], strict=True):
            assert row["held_out_loss"] == pytest.approx(other["held_out_loss"], rel=1e-3)
        ours, theirs = evaluate_run(run), scores[run.name]
        assert abs(ours["top1"] - theirs["top1"]) <= 1 / 40  # a tie may fall to the other side
        assert load_decoder(run, record).brain.map.weight.shape == (8, 3 * 120)
    assert len({score["top1"] for score in scores.values()}) > 1


def test_a_stack_that_was_interrupted_goes_on_together(root, saved_at_once):
    seen: list[int] = []

    def stop(done: int, total: int, text: str, note: str = "") -> None:
        if text.startswith("runs"):
            seen.append(done)
            if len(seen) == 7:  # in the third epoch of three runs
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid(root, seeds=[0, 1, 2], together=3, progress=stop)
    assert len(list((root / "runs").glob(".*.safetensors"))) == 3
    seen.clear()
    runs = grid(root, seeds=[0, 1, 2], together=3, progress=lambda done, *rest: seen.append(done))
    assert seen[-12:] == [3] * 3 + [4] * 3 + [5] * 3 + [6] * 3 and 2 not in seen[-15:]
    assert [len(read_record(run)["history"]) for run in runs] == [6, 6, 6]
    assert not list((root / "runs").glob(".*"))


def test_a_run_that_diverges_is_told_and_the_others_are_there(root):
    """One embedding so large that the loss is not a number; it steps together with a sound one."""
    table = store.load_features(root / "features/tiny/lowlevel.safetensors")
    write_features(
        root / "features/tiny/huge.safetensors", np.asarray(table.embeddings) * 5e37, table.images, encoder="huge"
    )
    changes = CHANGES | {"sides": "none"}
    sound = grid(root, features=["lowlevel"], changes=changes)
    expected = read_record(sound[0])["history"]
    with pytest.raises(AlignvisError, match="huge.*not finite in epoch 1: training diverged.*; 1 others were not"):
        grid(root, changes=changes, together=2, overwrite=True)
    assert read_record(sound[0])["history"][-1]["held_out_loss"] == pytest.approx(
        expected[-1]["held_out_loss"], rel=1e-4
    )
    assert [path.name for path in (root / "runs").iterdir()] == [sound[0].name]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state, about: state.pop("order"),
        lambda state, about: state.update({"weights.0": state["weights.0"][:1]}),
        lambda state, about: state.update(order=state["order"][:16]),
        lambda state, about: state.update(steps=torch.tensor(0)),
        lambda state, about: about.update(history=about["history"] * 3),
        lambda state, about: about.update(history=[]),
        lambda state, about: about.update(history=None),
        lambda state, about: [row.update(best=False) for row in about["history"]],
        lambda state, about: about["history"][0].update(loss=float("nan")),
    ],
)
def test_what_is_left_and_does_not_fit_is_begun_anew(root, saved_at_once, spoil):
    interrupted(root, "one", encoder="linear")
    path = root / "runs/.one.safetensors"
    state, about = load_file(path), store.read_document(path)
    spoil(state, about)
    save_file(state, path, {"alignvis": json.dumps(about)})
    epochs: list[int] = []
    train(root, "one", encoder="linear", report=lambda row: epochs.append(row["epoch"]))
    assert epochs == [0, 1, 2, 3, 4, 5]


def test_a_table_that_is_exchanged_while_it_is_trained_on_is_told(root):
    """Else the record would state a table that was never read."""
    path = root / "features/tiny/lowlevel.safetensors"
    table = store.load_features(path)
    embeddings, images = -np.asarray(table.embeddings), table.images

    def exchange(row: dict) -> None:
        if row["epoch"] == 2:
            write_features(path, embeddings, images)

    with pytest.raises(AlignvisError, match="lowlevel.safetensors changed while it was being read; run the same"):
        train(root, "one", report=exchange)
    assert not (root / "runs/one").exists()


def test_a_recipe_may_be_named_and_a_run_that_another_process_trains_is_left_alone(root):
    quick = replace(RECIPES["alignvis-fixed"], batch=32, epochs=1)
    assert train(root, "one", recipe=quick)["recipe"]["name"] == "own"
    with pytest.raises(AlignvisError, match="a batch takes 128"):
        planted(root / "small", concepts=10)
        train(root / "small", "one", recipe="alignvis-fixed")
    with pytest.raises(AlignvisError, match="no recipe is called 'best'"):
        train(root, "two", recipe="best")
    lock = str(root / "runs/.two.lock")
    code = f"import time; from alignvis import files; files.hold({lock!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(AlignvisError, match="another process is"):
            train(root, "two")
        other.kill()
    train(root, "two")


def test_every_brain_encoder_asked_for_is_trained(root):
    runs = grid(root, encoders=["linear", "eegproject", "linear"], seeds=[0, 1])
    assert [run.name.split("_")[3] for run in runs] == ["linear", "linear", "eegproject", "eegproject"]
