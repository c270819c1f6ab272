import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from alignvis import files, runs, store
from alignvis.cli import main
from alignvis.errors import AlignvisError
from alignvis.retrieval import ranks, similarity
from alignvis.scoring import evaluate_run
from alignvis.searching import parts as search_parts
from alignvis.searching import search as searching
from alignvis.searching import shards
from alignvis.searching.search import ask, read_search, search_gallery
from tests.tables import features_document, planted, write_features
from tests.test_runs import train

WEB = 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = planted(tmp_path_factory.mktemp("root"))
    train(root)
    rng = np.random.default_rng(5)
    for number in range(4):
        images = [f"web/{number}/{row}.jpg" for row in range(WEB)]
        write_features(root / f"web/s{number}.safetensors", rng.standard_normal((WEB, 8)), images)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def run_search(root: Path, *galleries: str, **options) -> tuple[dict, dict]:
    out, about = search_gallery(root, Path("one"), [root / one for one in galleries or ("web",)], **options)
    return about, read_search(out)[1]


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


OWN = "features/tiny/lowlevel.safetensors"


def test_the_lists_are_those_of_the_full_matrix_by_image_id(root):
    about, found = run_search(root, "web", OWN, k=7)
    asked = ask(root / "runs/one")
    tables = [store.load_features(path) for path in [*sorted((root / "web").iterdir()), root / OWN]]
    gallery = torch.from_numpy(np.concatenate([table.embeddings for table in tables]))
    ids = [image for table in tables for image in table.images]
    full = asked.similarities(asked.treated(), gallery)
    best = full.topk(7, dim=1)
    assert found["queries"] == asked.images
    assert [[found["images"][i] for i in row] for row in found["image"]] == [
        [ids[i] for i in row] for row in best.indices
    ]
    np.testing.assert_allclose(found["similarity"], best.values, atol=1e-6)
    places = ranks(full, torch.tensor([ids.index(image) for image in asked.images]))
    np.testing.assert_array_equal(found["rank"], places)
    n = len(asked.images)
    assert (about["n"], about["found"], about["gallery"], about["others"]) == (n, n, len(ids), len(ids) - n)
    split = asked.record["split"]
    assert about["others_seen_in_training"] == len({*split["train"], *split["validation"]}) == 300
    assert about["top1"] == (places == 1).double().mean() and about["median_rank"] == np.median(places)
    assert about["top1_interval"][0] < about["top1"] < about["top1_interval"][1]
    assert about["top5_chance"] == 5 / len(ids) and about["simulated"] is True


def test_a_gallery_of_the_test_pictures_scores_as_eval_does(root):
    images = ask(root / "runs/one").images
    table = store.load_features(root / OWN)
    write_features(root / "tests.safetensors", table.embeddings[store.rows(table, images, root)], images)
    about, found = run_search(root, "tests.safetensors")
    scores = evaluate_run(root / "runs/one")
    assert {key: about[key] for key in scores if key.startswith(("top1", "top5", "median"))} == {
        key: scores[key] for key in scores if key.startswith(("top1", "top5", "median"))
    }
    assert about["others"] == about["others_seen_in_training"] == 0


def test_where_no_own_picture_is_there_nothing_is_scored(root):
    about, found = run_search(root)
    assert about["found"] == 0 and "top1" not in about and not found["rank"].any()


def test_parts_threads_and_order_of_arrival_leave_no_trace(root, monkeypatch):
    run_search(root, "web", OWN, out=root / "results/a")
    monkeypatch.setattr(search_parts, "PART", 8 * 64)
    monkeypatch.setattr(search_parts, "rank", lambda: 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_search(root, "web", OWN, out=root / "results/b")
    finally:
        torch.set_num_threads(before)
    assert content(root / "results/a") == content(root / "results/b")
    assert sorted(path.name for path in (root / "results").iterdir()) == ["a", "b"]


def test_a_picture_that_two_tables_name_counts_once(root):
    first = load_file(root / "web/s0.safetensors")["embeddings"]
    names = [f"web/0/{row}.jpg" for row in range(WEB)]
    more = [f"more/{row}.jpg" for row in range(10)]
    rng = np.random.default_rng(9)
    again = np.concatenate([first[5:15] * (1 + 1e-6), rng.standard_normal((10, 8))])
    write_features(root / "web/t.safetensors", again, names[5:15] + more)
    about, found = run_search(root, k=WEB * 4 + 10)
    assert about["repeated"] == 10 and about["gallery"] == WEB * 4 + 10 == about["k"]
    assert all(len(set(row)) == len(row) for row in found["image"].tolist())
    assert not ((found["row"] >= WEB * 4) & (found["row"] < WEB * 4 + 10)).any()
    plain, _ = run_search(root, "web/s0.safetensors", "web/s0.safetensors", out=root / "results/twice")
    assert plain["gallery"] == WEB and len(plain["tables"]) == 1


def test_two_pictures_under_one_name_are_refused(root):
    rng = np.random.default_rng(9)
    write_features(root / "web/t.safetensors", rng.standard_normal((2, 8)), ["new.jpg", "web/2/7.jpg"])
    with pytest.raises(AlignvisError, match="s2.safetensors and .*t.safetensors both name the image 'web/2/7.jpg'"):
        run_search(root)


def test_ties_and_identical_vectors_are_counted_and_the_first_come_first(root):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((3, 8)).astype("f4")[np.arange(30) % 3]
    vectors[9:12] *= 2  # as similar, and not identical
    write_features(root / "same.safetensors", vectors, [f"{row:02}.jpg" for row in range(30)])
    about, found = run_search(root, "same.safetensors", k=5)
    assert (found["row"] == found["row"][:, :1] + 3 * np.arange(5)).all() and (found["row"][:, 0] < 3).all()
    assert (found["tied"] == 5).all() and about["tied_at_end"] == 40
    assert about["equal_in_list"] == 4 * 40 and about["identical_in_list"] == 3 * 40


def test_other_responses_recorded_alike(root):
    planted(root, subject=2)
    other = root / "responses/tiny/sub-02.safetensors"
    about, found = run_search(root, OWN, responses=other, out=root / "results/other")
    assert about["subject"] == 2 and about["seen_in_training"] == 0
    about, found = run_search(root, OWN, responses=root / "responses/tiny/sub-01.safetensors", part="train")
    assert about["seen_in_training"] == about["n"] == 300 and about["top1"] > 0.05
    assert about["others"] == 40 and about["others_seen_in_training"] == 0  # what was seen is what is asked for
    planted(root, subject=3, times=90)
    with pytest.raises(AlignvisError, match="sub-03.safetensors has 3 channels x 90 times and .* trained on 3 x 120"):
        run_search(root, responses=root / "responses/tiny/sub-03.safetensors", out=root / "x")
    document = store.read_document(other)
    save_file(load_file(other), other, {"alignvis": json.dumps({**document, "sfreq": 250.0})})
    with pytest.raises(AlignvisError, match="was not recorded like those that"):
        run_search(root, responses=other, out=root / "x")


def test_a_projected_run_maps_the_gallery(root):
    from dataclasses import replace

    from tests.test_runs import RECIPE

    train(root, "projected", recipe=replace(RECIPE, projector=6))
    out, about = search_gallery(root, Path("projected"), [root / "web"], k=4)
    asked = ask(root / "runs/projected")
    tables = [store.load_features(path) for path in sorted((root / "web").iterdir())]
    gallery = asked.image(torch.from_numpy(np.concatenate([table.embeddings for table in tables])))
    full = similarity(asked.brain(asked.treated()), gallery, asked.recipe.sides, asked.recipe.centre)
    found = read_search(out)[1]
    np.testing.assert_array_equal(found["row"], full.topk(4, dim=1).indices)
    np.testing.assert_allclose(found["similarity"], full.topk(4, dim=1).values, atol=1e-6)


def spoiled(root: Path, **changes) -> None:
    path = root / "web/s1.safetensors"
    document = store.read_document(path)
    save_file(load_file(path), path, {"alignvis": json.dumps({**document, **changes})})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "other"}, "s1.safetensors holds features of 'other', and the run learned those of 'lowlevel'"),
        ({"gallery": "class centres"}, "s1.safetensors holds class centres and .*s0.safetensors single pictures"),
        ({"images": ["a"] * WEB}, "names the image 'a' more than once"),
        ({"images": ["a", "b"]}, f"has {WEB} rows but names 2 images"),
        ({"version": 9}, "format version 9"),
        ({"table": "responses"}, "'responses' table; a 'features' table was expected"),
    ],
)
def test_tables_that_do_not_belong_are_sentences(root, changes, sentence):
    spoiled(root, **changes)
    with pytest.raises(AlignvisError, match=sentence):
        run_search(root)
    assert not (root / "results").exists()


def test_weights_and_preprocessing_are_compared_where_both_state_them(root):
    train_table = root / OWN
    document = store.read_document(train_table)
    about = {"weights": [{"file": "a", "sha256": "a" * 64}], "preprocessing": {"size": 224}}
    save_file(load_file(train_table), train_table, {"alignvis": json.dumps({**document, **about})})
    train(root, "stated", overwrite=True)

    def tried():
        return search_gallery(root, Path("stated"), [root / "web"], overwrite=True)

    assert tried()[1]["gallery"] == 4 * WEB  # the others state nothing
    spoiled(root, weights=[{"file": "b", "sha256": "a" * 64}], preprocessing={"size": 224})
    assert tried()
    spoiled(root, weights=[{"file": "a", "sha256": "b" * 64}])
    with pytest.raises(AlignvisError, match="made with other weights .sha256 bbbbbbbbbbbb"):
        tried()
    spoiled(root, weights=[], preprocessing={"size": 256})
    with pytest.raises(AlignvisError, match="made with another preprocessing"):
        tried()


def test_broken_shards_are_sentences(root):
    path = root / "web/s2.safetensors"
    whole = path.read_bytes()
    for broken, sentence in (
        (whole[:-5], "s2.safetensors is not a whole safetensors file"),
        (whole[:40], "s2.safetensors is not a whole safetensors file"),
        (b"", "s2.safetensors is not a whole safetensors file"),
    ):
        path.write_bytes(broken)
        with pytest.raises(AlignvisError, match=sentence):
            run_search(root)
    rng = np.random.default_rng(0)
    write_features(path, rng.standard_normal((4, 9)), list("abcd"))
    with pytest.raises(AlignvisError, match="s2.safetensors: its embeddings have 9 numbers, and the run learned 8"):
        run_search(root)
    vectors = rng.standard_normal((4, 8))
    vectors[2, 5] = np.nan
    write_features(path, vectors, list("abcd"))
    with pytest.raises(AlignvisError, match="s2.safetensors: the vector of 'c' is not finite"):
        run_search(root)
    with pytest.raises(AlignvisError, match="nothing.* is no file, folder or pattern"):
        run_search(root, "nothing*")
    (root / "empty").mkdir()
    with pytest.raises(AlignvisError, match="empty holds no features table"):
        run_search(root, "empty")
    about = json.dumps(features_document([]))
    save_file({"embeddings": np.empty((0, 8), "f4")}, root / "none.safetensors", {"alignvis": about})
    with pytest.raises(AlignvisError, match="the gallery is empty"):
        run_search(root, "none.safetensors")
    assert run_search(root, "none.safetensors", "web/s0.safetensors")[0]["gallery"] == WEB


def test_class_centres_alone_are_marked(root):
    for path in (root / "web").iterdir():
        document = store.read_document(path)
        save_file(load_file(path), path, {"alignvis": json.dumps({**document, "gallery": "class centres"})})
    assert run_search(root)[0]["galleries"] == "class centres"


def test_a_result_is_kept_unless_told_otherwise(root, monkeypatch):
    said: list[str] = []
    run_search(root)
    before = content(root / "results/search_one")
    monkeypatch.setattr(searching, "search_parts", lambda *_: pytest.fail("it is there already"))
    run_search(root, say=said.append)
    assert content(root / "results/search_one") == before and "was kept" in said[-1]
    monkeypatch.undo()
    with pytest.raises(AlignvisError, match="holds another search"):
        run_search(root, k=3)
    os.utime(root / "web/s1.safetensors")
    with pytest.raises(AlignvisError, match="holds another search"):
        run_search(root)
    assert content(root / "results/search_one") == before
    assert run_search(root, k=3, overwrite=True)[0]["k"] == 3
    damaged = root / "results/search_one/nearest.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(AlignvisError, match="is not the one that"):
        read_search(root / "results/search_one")
    files.write_json(root / "results/search_one/search.json", {"k": 3})
    with pytest.raises(AlignvisError, match="does not state search, n, gallery"):
        run_search(root)


def test_an_interrupted_search_goes_on(root, monkeypatch):
    run_search(root, "web", OWN, out=root / "results/whole")
    real, seen = search_parts.scan, []

    def stops(queries, shard, *rest, **options):
        seen.append(shard.path.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(queries, shard, *rest, **options)

    monkeypatch.setattr(search_parts, "scan", stops)
    with pytest.raises(KeyboardInterrupt):
        run_search(root, "web", OWN)
    assert not (root / "results/search_one").exists()
    damaged = next((root / "results/search_one.partial").rglob("000000000000.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    run_search(root, "web", OWN)
    assert seen == ["s0.safetensors", "s1.safetensors", "s2.safetensors"] + [
        "s0.safetensors",
        "s2.safetensors",
        "s3.safetensors",
        "lowlevel.safetensors",
    ]
    assert content(root / "results/search_one") == content(root / "results/whole")
    assert sorted(path.name for path in (root / "results").iterdir()) == ["search_one", "whole"]


def test_a_table_that_changes_meanwhile_is_found_out(root, monkeypatch):
    real = search_parts.scan

    def changes(queries, shard, *rest, **options):
        real(queries, shard, *rest, **options)
        os.utime(shard.path)

    monkeypatch.setattr(search_parts, "scan", changes)
    with pytest.raises(AlignvisError, match="has changed during the search"):
        run_search(root)


def test_a_disk_that_fills_leaves_no_result(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(AlignvisError, match="could not be written .No space left on device"):
        run_search(root)
    assert not (root / "results/search_one").exists()


def test_too_many_answers_are_refused_before_the_search(root, monkeypatch):
    monkeypatch.setattr(searching, "LARGEST", 100)
    with pytest.raises(AlignvisError, match="40 responses x 10 pictures are more than 100 .* choose -k 2 or less"):
        run_search(root)


def test_names_that_fall_into_one_bucket_are_found_too(root, monkeypatch):
    monkeypatch.setattr(shards, "BUCKETS", 1)
    test_a_picture_that_two_tables_name_counts_once(root)


def test_the_command_prints_a_table_or_one_object_a_response(root):
    words = ["--root", str(root), "search", "one", "--gallery", str(root / "web"), "--gallery", str(root / OWN)]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 0, said.output
    assert "extended by 1,500 other pictures, 300 of them seen in training" in said.stdout and "n = 40" in said.stdout
    assert "note: 300 of the gallery's 1,540 pictures were seen in training" in said.stderr
    own = CliRunner().invoke(main, [*words[:4], "--gallery", str(root / OWN), "--out", str(root / "results/own")])
    assert "gallery of 340, extended by 300 other pictures, all of them seen in training" in own.stdout
    web = CliRunner().invoke(main, [*words[:4], "--gallery", str(root / "web"), "--out", str(root / "results/web")])
    assert web.exit_code == 0 and "seen in training" not in web.output
    assert said.stdout.count("its own at") == 5 and "SIMULATED" in said.stderr
    lines = [json.loads(line) for line in CliRunner().invoke(main, [*words, "--json"]).stdout.splitlines()]
    assert len(lines) == 40 and all(len(line["images"]) == len(line["similarities"]) == 10 for line in lines)
    assert all(line["rank"] >= 1 for line in lines)
    wrong = CliRunner().invoke(main, [*words[:4], "--gallery", str(root / "no")])
    assert wrong.exit_code == 1 and wrong.stderr.startswith("Error: ") and wrong.stderr.count("\n") == 1


# --- several processes ------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from alignvis.searching import parts as search_parts
real = search_parts.scan
def slow(*given, **options):
    real(*given, **options)
    print("scanned", flush=True)
    time.sleep(600)
search_parts.scan = slow
from alignvis.cli import main
main(sys.argv[1:])
"""


def words(root: Path, out: str) -> list[str]:
    return ["--root", str(root), "search", "one", "--gallery", str(root / "web"), "--out", str(root / "results" / out)]


def started(command: list[str], log: Path, **stated: str) -> subprocess.Popen:
    with open(log, "w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | stated
        return subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, env=environment)


def test_ranks_of_torchrun_write_what_one_process_writes(root):
    run_search(root, out=root / "results/alone")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "alignvis", *words(root, "ranks")]
    ranks_ = started(launch, root / "log")
    assert ranks_.wait(timeout=120) == 0, (root / "log").read_text()
    assert content(root / "results/ranks") == content(root / "results/alone")
    assert (root / "log").read_text().count("top-") <= 1  # one process tells
    assert sorted(path.name for path in (root / "results").iterdir()) == ["alone", "ranks"]


def test_the_part_of_a_rank_that_is_killed_is_done_by_the_first(root):
    run_search(root, out=root / "results/alone")
    rank = {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    second = started(["-c", SLOW, *words(root, "ranks")], root / "second", RANK="1", **rank)
    deadline = time.monotonic() + 200
    while "scanned" not in (root / "second").read_text():
        assert time.monotonic() < deadline and second.poll() is None, (root / "second").read_text()
        time.sleep(0.02)
    first = started(["-m", "alignvis", *words(root, "ranks")], root / "first", RANK="0", **rank)
    while "waiting for them" not in (root / "first").read_text():
        assert time.monotonic() < deadline and first.poll() is None, (root / "first").read_text()
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)  # with a part in its hands
    assert second.wait() == -signal.SIGKILL and first.wait(timeout=60) == 0, (root / "first").read_text()
    assert content(root / "results/ranks") == content(root / "results/alone")
    assert sorted(path.name for path in (root / "results").iterdir()) == ["alone", "ranks"]


def test_several_processes_overwrite_nothing(root, monkeypatch):
    run_search(root)
    monkeypatch.setattr(searching, "processes", lambda: 2)
    with pytest.raises(AlignvisError, match="several processes cannot tell what to overwrite"):
        run_search(root, overwrite=True)
    monkeypatch.setattr(searching, "rank", lambda: 1)
    assert search_gallery(root, Path("one"), [root / "web"]) is None


def test_brain_vectors_are_computed_by_one_thread_so_that_their_last_bits_are_everywhere_the_same(root, monkeypatch):
    real, seen = searching.Asked.brain, []

    def spy(asked, treated):
        seen.append(torch.get_num_threads())
        return real(asked, treated)

    monkeypatch.setattr(searching.Asked, "brain", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_search(root)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_tie_with_the_right_picture_and_a_single_one_at_the_end_are_told(root):
    table = store.load_features(root / OWN)
    image = ask(root / "runs/one").images[7]
    write_features(root / "web/copy.safetensors", table.embeddings[[table.images.index(image)]], ["copy.jpg"])
    plain, before = run_search(root, OWN, out=root / "results/plain")
    about, after = run_search(root, OWN, "web/copy.safetensors")
    assert (plain["ties"], about["ties"]) == (0, 1) and after["rank"][7] == before["rank"][7] + 1
    write_features(root / "two.safetensors", np.ones((2, 1)) * np.arange(8), ["a.jpg", "b.jpg"])
    about, found = run_search(root, "two.safetensors", k=1, out=root / "results/two")
    assert about["tied_at_end"] == 40 and (found["tied"] == 1).all() and not found["row"].any()


def test_of_two_who_are_asked_for_the_same_the_later_one_keeps_what_the_first_wrote(root, monkeypatch):
    """Not ranks of one launch: two people, who do not know of each other."""
    run_search(root, out=root / "results/alone")
    real, said = searching.joined, []

    def overtaken(search):
        monkeypatch.setattr(searching, "joined", real)
        run_search(root)  # the other one writes its result, and removes the parts
        return real(search)

    monkeypatch.setattr(searching, "joined", overtaken)
    run_search(root, say=said.append)
    assert any("written by another process" in one for one in said)
    assert content(root / "results/search_one") == content(root / "results/alone")
    assert sorted(path.name for path in (root / "results").iterdir()) == ["alone", "search_one"]


def test_a_result_that_appears_at_the_last_moment_is_kept_whole(root, monkeypatch):
    run_search(root, out=root / "results/alone")
    real = searching._identical

    def overtaken(search, best):
        monkeypatch.setattr(searching, "_identical", real)
        run_search(root)
        return real(search, best)

    monkeypatch.setattr(searching, "_identical", overtaken)
    run_search(root)
    assert content(root / "results/search_one") == content(root / "results/alone")
    assert sorted(path.name for path in (root / "results").iterdir()) == ["alone", "search_one"]


def test_no_room_to_sort_names_is_a_sentence(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_sort_in", full)
    with pytest.raises(AlignvisError, match="could not be sorted in .* .No space left on device.; they take 24 bytes"):
        run_search(root)
    monkeypatch.setattr(shards, "_sort_in", lambda *_: open("/nowhere/at/all"))
    with pytest.raises(FileNotFoundError):
        run_search(root)
