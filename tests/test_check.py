import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignvis import store
from alignvis.check import check_all
from alignvis.errors import AlignvisError
from alignvis.scoring import evaluate_run
from alignvis.train_runs import train_run
from alignvis.training import Recipe
from tests.tables import planted, write_features


def test_whole_tables_and_runs_say_what_they_hold(tmp_path):
    root = planted(tmp_path)
    responses, features = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    train_run(
        responses, features, root / "runs/r", encoder="linear", recipe=Recipe(epochs=1, batch=16), recipe_name="quick"
    )
    rows = dict(zip(("responses", "features", "run"), check_all(root), strict=True))
    assert all(row["whole"] for row, _ in rows.values())
    assert rows["responses"][0]["train"] == [300, 2, 3, 120] and "SIMULATED" in rows["responses"][1]
    assert rows["features"][0]["fits"] == [str(responses)] and "340 images x 8" in rows["features"][1]
    assert "not scored yet: alignvis eval" in rows["run"][1]
    json.dumps([row for row, _ in rows.values()])


def test_what_is_broken_is_told_and_the_rest_is_looked_at(tmp_path):
    root = planted(tmp_path)
    responses, features = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    arrays, document = load_file(responses), store.read_document(responses)
    arrays["test"][3, 1, 2, 4] = np.nan
    save_file(arrays, responses, {"alignvis": json.dumps(document)})
    write_features(root / "features/tiny/same.safetensors", np.ones((3, 2)), ["a", "b", "c"], encoder="same")
    (root / "runs").mkdir()
    rows = list(
        check_all(root, [responses, root / "nothing", root / "runs", features, root / "features/tiny/same.safetensors"])
    )
    assert [row["whole"] for row, _ in rows] == [False, False, False, True, True]
    assert (
        "not finite in channel O2" in rows[0][1]
        and "there is no file" in rows[1][1]
        and "in none of the layouts" in rows[2][1]
    )
    assert rows[3][0]["fits"] == [] and rows[4][0]["identical"] == 2


def test_nothing_to_look_at_is_told(tmp_path):
    with pytest.raises(AlignvisError, match="no tables and no runs"):
        list(check_all(tmp_path))


@pytest.mark.parametrize("rate", ["fast", None, [250], {}])
def test_a_header_that_states_no_rate_is_shown_without_one(tmp_path, rate):
    root = planted(tmp_path)
    path = root / "responses/tiny/sub-01.safetensors"
    arrays, document = load_file(path), store.read_document(path)
    save_file(arrays, path, {"alignvis": json.dumps(document | {"sfreq": rate})})
    ((row, text),) = check_all(root, [path])
    assert row["whole"] and " Hz" not in text


def test_scores_that_cannot_be_read_or_do_not_follow_are_told(tmp_path):
    root = planted(tmp_path)
    run = root / "runs/r"
    tables = root / "responses/tiny/sub-01.safetensors", root / "features/tiny/lowlevel.safetensors"
    train_run(*tables, run, encoder="linear", recipe=Recipe(epochs=1, batch=16), recipe_name="quick")
    scores = evaluate_run(run)
    ((row, text),) = check_all(root, [run])
    assert row["whole"] and row["scored"] and ", scored" in text
    whole = (run / "scores.json").read_text()
    for damaged in (whole[:300], json.dumps(scores | {"top1": 0.987})):
        (run / "scores.json").write_text(damaged)
        ((row, text),) = check_all(root, [run])
        assert not row["whole"] and f"score it again with: alignvis eval {run} --overwrite" in text
