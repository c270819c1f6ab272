import shutil
from pathlib import Path

import numpy as np
import pytest

from alignvis import files, store
from alignvis.errors import AlignvisError
from alignvis.finding import find_features, find_responses
from alignvis.grid import train_grid
from alignvis.scoring import score_all
from tests.tables import image_ids, planted, write_features, write_responses

QUICK = {"epochs": 1, "batch": 16}


def grid(root: Path, said: list[str] | None = None, **changes) -> list[str]:
    options = {"subjects": [1], "encoders": ["linear"], "changes": QUICK, **changes}
    runs = train_grid(root, say=(said if said is not None else []).append, detail=lambda text: None, **options)
    return [run.name for run, record in runs if record["history"]]


@pytest.fixture
def root(tmp_path) -> Path:
    planted(planted(tmp_path, subject=1), subject=2)
    table = store.load_features(tmp_path / "features/tiny/lowlevel.safetensors")
    write_features(
        tmp_path / "features/tiny/twin.safetensors", -np.asarray(table.embeddings), table.images, encoder="twin"
    )
    write_features(tmp_path / "features/others/x.safetensors", np.ones((3, 2)), image_ids(1, 3, "others"), encoder="x")
    return tmp_path


def test_every_combination_is_trained_and_tables_that_do_not_fit_are_left_out(root):
    name = "tiny_sub-{:02d}_{}_linear_alignvis+batch-16+epochs-1_seed-{}".format
    expected = [name(s, f, seed) for s in (1, 2) for f in ("lowlevel", "twin") for seed in (0, 4)]
    assert grid(root, subjects=[1, 2], seeds=[0, 4]) == expected
    assert sorted(path.name for path in (root / "runs").iterdir()) == sorted(expected)


def test_runs_that_are_there_are_kept_and_the_others_go_on(root):
    grid(root, features=["twin"])
    run = next((root / "runs").iterdir())
    before, said = run.stat().st_mtime_ns, []
    assert len(grid(root, said)) == 2
    assert run.stat().st_mtime_ns == before and said == [f"{run} is there already and was kept"]


def test_the_order_in_which_changes_are_given_is_no_part_of_a_name(root):
    first = grid(root, features=["twin"], changes={"epochs": 1, "batch": 16})
    assert grid(root, features=["twin"], changes={"batch": 16, "epochs": 1}) == first
    assert len(list((root / "runs").iterdir())) == 1


def test_a_run_of_the_same_name_by_another_recipe_is_refused(root):
    grid(root, features=["twin"])
    path = next((root / "runs").glob("*/record.json"))
    record = files.read_json(path)
    files.write_json(path, record | {"recipe": record["recipe"] | {"decay": 0.3}})
    with pytest.raises(AlignvisError, match="was trained by another recipe of that name; --overwrite"):
        grid(root, features=["twin"])


def test_a_run_of_the_same_name_on_other_tables_is_refused(root):
    grid(root, features=["twin"])
    table = store.load_features(root / "features/tiny/twin.safetensors")
    write_features(table.path, np.asarray(table.embeddings), table.images, encoder="twin", made="otherwise")
    with pytest.raises(AlignvisError, match="was trained on other tables than those there now"):
        grid(root, features=["twin"])
    assert len(grid(root, features=["twin"], overwrite=True)) == 1


def test_what_is_missing_is_said_with_the_command_that_makes_it(root, tmp_path):
    with pytest.raises(
        AlignvisError, match="no responses of subject 7 .* alignvis prepare things-eeg2 --raw ... --subject 7"
    ):
        grid(root, subjects=[7])
    with pytest.raises(AlignvisError, match="no responses of subject 1 .*prepare mne --dataset other --raw"):
        find_responses(root, 1, "other")
    with pytest.raises(
        AlignvisError,
        match="no features of 'dreamsim_ensemble' .*lowlevel, twin.* alignvis extract --encoder dreamsim_ensemble",
    ):
        grid(root, features=["dreamsim_ensemble"])
    with pytest.raises(AlignvisError, match="none of the 340 images .* different image sets"):
        grid(root, features=["x"])
    responses = store.load_responses(find_responses(root, 1)[0])
    for path in (root / "features/tiny").iterdir():
        path.unlink()
    with pytest.raises(AlignvisError, match="different image sets"):
        find_features(root, responses)
    (root / "features/others/x.safetensors").unlink()
    with pytest.raises(AlignvisError, match="make them with: alignvis extract"):
        find_features(root, responses)


def test_a_table_that_lacks_some_images_is_refused_by_name_and_left_out_otherwise(root):
    table = store.load_features(root / "features/tiny/twin.safetensors")
    write_features(table.path, np.asarray(table.embeddings)[1:], table.images[1:], encoder="twin")
    with pytest.raises(AlignvisError, match=f"1 of the 340 images .*'{table.images[0]}'"):
        grid(root, features=["twin"])
    assert [name.split("_")[2] for name in grid(root)] == ["lowlevel"]


def test_a_recording_without_features_does_not_stop_another_of_the_same_subject(root):
    ids = image_ids(4, 10, "elsewhere"), image_ids(4, 1, "elsewhere_test")
    rng = np.random.default_rng(0)
    table = root / "responses/other/sub-01.safetensors"
    write_responses(table, rng.random((40, 1, 3, 9)), rng.random((4, 1, 3, 9)), ids, dataset="other")
    said: list[str] = []
    runs = grid(root, said)
    assert len(runs) == 2 and all(run.startswith("tiny_sub-01") for run in runs)
    assert len(said) == 1 and "one recording of subject 1 is left out: none of the 44 images" in said[0]
    with pytest.raises(AlignvisError, match="none of the 44 images"):
        grid(root, dataset="other")
    shutil.copy(table, table.with_name("sub-03.safetensors"))
    with pytest.raises(AlignvisError, match="give the file its own name back"):
        grid(root, subjects=[1, 3])
    write_responses(
        table.with_name("sub-03.safetensors"),
        *(rng.random((40, 1, 3, 9)), rng.random((4, 1, 3, 9))),
        ids,
        dataset="other",
        subject=3,
    )
    with pytest.raises(AlignvisError, match="none of the 44 images"):  # of a subject that has no other recording
        grid(root, subjects=[1, 3])


def test_a_file_under_a_name_that_is_not_its_own_is_refused(root):
    (root / "responses/tiny/sub-01.safetensors").replace(root / "responses/tiny/sub-03.safetensors")
    with pytest.raises(AlignvisError, match="sub-03.safetensors holds subject 1"):
        grid(root, subjects=[3])
    table = store.load_features(root / "features/tiny/twin.safetensors")
    write_features(
        root / "features/others/twin.safetensors", np.asarray(table.embeddings), table.images, encoder="twin"
    )
    with pytest.raises(AlignvisError, match="is a second table of 'twin'"):
        grid(root, subjects=[2], features=["twin"])
    with pytest.raises(AlignvisError, match="not the name of a folder"):
        grid(root, dataset="/tmp")
    with pytest.raises(AlignvisError, match="--rate nan is not a number"):
        grid(root, changes={"rate": float("nan")})


def test_all_runs_are_scored_once_and_read_afterwards(root):
    with pytest.raises(AlignvisError, match="there are no runs in .* alignvis train"):
        score_all(root)
    names = grid(root)
    scores = score_all(root)
    assert [Path(score["run"]).name for score in scores] == sorted(names)
    marked = root / "runs" / names[0] / "scores.json"
    files.write_json(marked, {**files.read_json(marked), "reliability": 0.123})
    assert score_all(root, [Path(names[0])])[0]["reliability"] == 0.123
    assert score_all(root, [root / "runs" / names[0]], overwrite=True)[0]["reliability"] != 0.123
    with pytest.raises(AlignvisError, match="there is no run"):
        score_all(root, [Path("nothing")])
