import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from alignvis import files
from alignvis.cli import main
from alignvis.errors import AlignvisError
from alignvis.showing import image_folder, looking, read_decoded, show
from alignvis.twins import twin_run
from tests.answers import copied, images_of, say, scored_root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A root with a scored run and pictures."""
    root = scored_root(tmp_path_factory.mktemp("root"))
    for place, image in enumerate(images_of(root / "runs/one")):
        path = root / "images/tiny" / image
        path.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40), (20 * place, 0, 0)).save(path)
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def twin_of(run: Path, name: str = "twin", **changes) -> Path:
    """A copy of a run that learned from the aligned encoder's features."""
    return copied(run, run.parent / name, **{"features": "human", "twin": "lowlevel", "aligned": True} | changes)


def ranked(places: list[int]) -> np.ndarray:
    """Similarities in which the right picture of query i has this rank, with no ties."""
    rows = []
    for query, rank in enumerate(places):
        others = list(np.linspace(0.9, 0.1, len(places) - 1))
        row = [*others[: rank - 1], None, *others[rank - 1 :]]
        between = [1.0, *others, 0.0]
        right = (between[rank - 1] + between[rank]) / 2
        wrong = iter([value for value in row if value is not None])
        rows.append([right if column == query else next(wrong) for column in range(len(places))])
    return np.array(rows)


# --- which pictures --------------------------------------------------------------------------------------------------


def test_best_median_and_worst_are_chosen_by_rank(root):
    run = say(root / "runs/one", ranked([5, 1, 8, 3, 2, 7, 4, 6]))
    rows = show([run], best=1, median=2, worst=1).rows
    assert [row.answers[0].rank for row in rows] == [1, 4, 5, 8]
    assert [row.why for row in rows] == ["best", "median", "median", "worst"]
    assert [row.image[-14:] for row in rows] == [images_of(run)[i][-14:] for i in (1, 6, 0, 2)]


def test_equal_ranks_are_ordered_by_margin_and_then_by_id(root):
    similarity = np.zeros((8, 8)) + np.diag([0.1, 0.3, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1])
    run = say(root / "runs/one", similarity)
    ids = images_of(run)
    assert [row.image for row in show([run], best=3, median=0, worst=1).rows] == [ids[1], ids[3], ids[2], ids[7]]


def test_a_picture_is_shown_once_however_many_are_asked_for(root):
    run = say(root / "runs/one", ranked([5, 1, 8, 3, 2, 7, 4, 6]))
    rows = show([run], best=5, median=5, worst=5).rows
    assert len({row.image for row in rows}) == len(rows) == 8
    assert [row.answers[0].rank for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row.why for row in show([run], best=2, median=2, worst=2).rows] == sorted(["best", "median", "worst"] * 2)


def test_a_tie_counts_against_the_right_picture_and_puts_it_last(root):
    run = say(root / "runs/one", np.ones((8, 8)))
    rows = show([run], best=1, median=0, worst=0, top=8).rows
    assert rows[0].answers[0].rank == 8 and rows[0].answers[0].nearest[-1] == rows[0].image
    assert rows[0].image not in show([run], best=1, median=0, worst=0, top=7).rows[0].answers[0].nearest


def test_the_most_similar_pictures_come_first_with_their_similarities(root):
    similarity = np.random.default_rng(0).standard_normal((8, 8)).astype("f4")
    run = say(root / "runs/one", similarity)
    ids = images_of(run)
    answer = show([run], queries=[ids[2]], top=3).rows[0].answers[0]
    order = np.argsort(-similarity[2])[:3]
    assert answer.nearest == [ids[i] for i in order]
    assert answer.similarities == pytest.approx(similarity[2][order])
    assert answer.similarity_to_right == pytest.approx(similarity[2, 2])
    assert answer.rank == (similarity[2] >= similarity[2, 2]).sum()


def test_pictures_are_named_by_any_part_of_an_id_that_only_one_has(root):
    run = root / "runs/one"
    ids = images_of(run)
    rows = show([run], queries=["00003_thing3/", ids[0], "thing3_"]).rows
    assert [row.image for row in rows] == [ids[2], ids[0]] and rows[0].why == "chosen"
    with pytest.raises(AlignvisError, match="8 test pictures of .* have 'thing' in their id .*give more of it"):
        show([run], queries=["thing"])
    with pytest.raises(AlignvisError, match="no test picture of .* has 'zebra' in its id; they are called like 'test_"):
        show([run], queries=["zebra"])
    with pytest.raises(AlignvisError, match="asked for no picture"):
        show([run], best=0, median=0, worst=0)


def test_the_first_pictures_of_the_table_can_be_taken(root):
    run = root / "runs/one"
    assert [row.image for row in show([run], first=3).rows] == images_of(run)[:3]


def test_a_figure_is_never_too_long_to_be_drawn(root, monkeypatch):
    monkeypatch.setattr("alignvis.showing.MOST", 3)
    assert len(show([root / "runs/one"], first=3).rows) == 3
    with pytest.raises(AlignvisError, match="asked for 4 pictures, and a figure has room for 3"):
        show([root / "runs/one"], first=4)


# --- which runs ------------------------------------------------------------------------------------------------------


def test_the_twin_is_found_from_either_side_and_nothing_else_is_taken_for_it(root):
    run = root / "runs/one"
    assert twin_run(run) is None
    twin_of(run, "a-seed", seed=4)
    twin_of(run, "a-subject", subject=2)
    twin_of(run, "a-recipe", recipe=files.read_json(run / "record.json")["recipe"] | {"rate": 1.0})
    twin_of(run, "a-brain", encoder="nice")
    twin_of(run, "a-pool", trained_on=[1, 2])
    twin_of(run, "a-stranger", twin="pixels")
    (root / "runs/a-broken").mkdir()
    (root / "runs/a-broken/record.json").write_text("{")
    assert twin_run(run) is None
    twin = twin_of(run)
    assert twin_run(run) == twin and twin_run(twin) == run
    assert twin_run(root / "runs" / "a-seed") is None


def test_the_answers_of_a_twin_are_joined_by_id_whatever_its_order(root):
    run, other = root / "runs/one", twin_of(root / "runs/one")
    similarity = ranked([5, 1, 8, 3, 2, 7, 4, 6])
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    say(run, similarity)
    say(other, similarity[np.ix_(order, order)], [images_of(run)[place] for place in order])
    showing = show([run, other])
    assert all(row.answers[0] == row.answers[1] for row in showing.rows)
    assert [one.label for one in showing.runs] == ["lowlevel", "human"]


def test_runs_on_other_test_pictures_are_refused(root, tmp_path):
    other = twin_of(root / "runs/one")
    say(other, np.eye(8), [f"x{image}" for image in images_of(other)])
    with pytest.raises(AlignvisError, match="were asked about other test pictures .0 of 8 are the same"):
        show([root / "runs/one", other])


@pytest.mark.parametrize(
    ("key", "value", "whose"), [("subject", 2, "tiny, subject 2"), ("dataset", "x", "x, subject 1")]
)
def test_runs_of_other_subjects_are_refused_by_name(root, key, value, whose):
    """Both columns would be headed by the same image encoder, under one subject."""
    run, other = root / "runs/one", copied(root / "runs/one", root / "runs/two", **{key: value})
    with pytest.raises(AlignvisError) as caught:
        show([run, other])
    assert str(caught.value) == (
        f"{other} is of {whose}, and {run} of tiny, subject 1; show compares image encoders on the same responses, so "
        "name runs of one subject"
    )
    code, out, err = called(root, "one", "two")
    assert code == 1 and "so name runs of one subject" in err and out == "" and not (root / "results").exists()


def test_a_run_without_scores_or_with_other_similarities_is_refused(root):
    run = root / "runs/one"
    before = (run / "scores.json").read_text()
    say(run, np.eye(8))
    (run / "scores.json").write_text(before)
    with pytest.raises(AlignvisError, match="not the file that the scores"):
        show([run])
    (run / "scores.json").unlink()
    with pytest.raises(AlignvisError, match="has no scores yet; make them with: alignvis eval"):
        show([run])


def test_margins_say_by_how_much_the_right_picture_leads(root):
    similarity = np.random.default_rng(0).standard_normal((8, 8)).astype("f4")
    decoded = read_decoded(say(root / "runs/one", similarity))
    for query in range(8):
        others = np.delete(similarity[query], query)
        assert decoded.margins[query] == pytest.approx(similarity[query, query] - others.max(), rel=1e-6)
    assert ((decoded.margins > 0) == (decoded.ranks == 1)).all()


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    """One of every kind that is stored in another way than it is seen."""
    folder.mkdir(parents=True)
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[:, :15] = (200, 30, 30)
    colours[:10, 15:] = (30, 200, 30)
    picture = Image.fromarray(colours)
    picture.save(folder / "plain.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("CMYK").save(folder / "cmyk.tif")
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.full((20, 30), 40, np.uint8)))
    alpha.save(folder / "alpha.png")
    picture.convert("P").save(folder / "palette.png")
    Image.fromarray(colours[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.png", exif=exif)


@pytest.mark.parametrize("name", ["plain.png", "cmyk.tif", "alpha.png", "palette.png", "turned.png"])
def test_every_kind_of_picture_has_the_colours_that_encoders_were_given(tmp_path, name):
    pictures(tmp_path / "p")
    with looking(tmp_path / "p") as look:
        pixels = look(name, 100)
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    for place, colour in (((10, 5), (200, 30, 30)), ((5, 25), (30, 200, 30)), ((15, 25), (0, 0, 0))):
        assert pixels[place].astype(int) == pytest.approx(colour, abs=30)


@pytest.mark.parametrize("name", ["grey.png", "deep.png"])
def test_grey_pictures_are_grey_and_not_white(tmp_path, name):
    pictures(tmp_path / "p")
    with looking(tmp_path / "p") as look:
        pixels = look(name, 100)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    assert 0 < pixels[10, 5, 0] < 255 and pixels[15, 25, 0] == 0


def test_a_picture_keeps_its_proportions_and_is_never_made_larger(tmp_path):
    pictures(tmp_path / "p")
    with looking(tmp_path / "p") as look:
        assert look("plain.png", 15).shape == (10, 15, 3) and look("plain.png", 500).shape == (20, 30, 3)


def test_a_picture_that_is_missing_or_lies_outside_is_refused_with_the_folder(tmp_path):
    pictures(tmp_path / "p")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    with looking(tmp_path / "p") as look:
        for image in ("cat/none.png", "../secret.png", str(tmp_path / "secret.png")):
            with pytest.raises(AlignvisError, match=f"{tmp_path / 'p'} does not hold the picture .*--images"):
                look(image, 10)


def test_pictures_of_a_brick_are_found_by_their_ids(tmp_path):
    brick = np.arange(3, dtype=np.uint8)[:, None, None, None] * 50 + np.zeros((3, 8, 8, 3), np.uint8)
    with h5py.File(tmp_path / "nsd.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=brick)
    with looking(tmp_path / "nsd.hdf5") as look:
        assert (look("nsd-00002", 8) == 100).all() and (look("nsd-00001", 4) == 50).all()
        with pytest.raises(AlignvisError, match="nsd-00000.*'cat' is none of them"):
            look("cat", 8)
        with pytest.raises(AlignvisError, match="holds 3 pictures, and nsd-00007 is none"):
            look("nsd-00007", 8)


def test_the_folder_of_pictures_is_that_of_the_image_set(root):
    run = root / "runs/one"
    assert image_folder(root, run) == root / "images/tiny"
    (root / "images/tiny").rename(root / "images/elsewhere")
    with pytest.raises(AlignvisError, match="there are no pictures in .*images/tiny.*--images"):
        image_folder(root, run)
    (root / "images/tiny.hdf5").write_bytes(b"")
    assert image_folder(root, run) == root / "images/tiny.hdf5"


# --- the command -----------------------------------------------------------------------------------------------------


def called(root: Path, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["--root", str(root), "show", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_show_draws_the_run_beside_its_twin_and_says_what_it_wrote(root):
    say(root / "runs/one", ranked([5, 1, 8, 3, 2, 7, 4, 6]))
    say(twin_of(root / "runs/one"), ranked([1, 2, 3, 4, 5, 6, 7, 8]))
    code, out, err = called(root, "one", "--best", "1", "--median", "0", "--worst", "1")
    assert code == 0 and not [line for line in err.splitlines() if line and "drawing pictures:" not in line]
    assert "best    test_images/00002_thing2/thing2_01.jpg: 1 (lowlevel), 2 (human)" in out
    assert "worst   test_images/00003_thing3/thing3_01.jpg: 8 (lowlevel), 3 (human)" in out
    assert "SIMULATED" in out
    assert (root / "results/show_one.png").is_file()


def test_what_is_there_is_kept_unless_it_may_be_replaced(root):
    few = ("--best", "1", "--median", "0", "--worst", "0", "--top", "2")
    assert called(root, "one", *few)[0] == 0
    before = (root / "results/show_one.png").read_bytes()
    code, _, err = called(root, "one", *few)
    assert code == 1 and "is there and was kept" in err and (root / "results/show_one.png").read_bytes() == before
    assert called(root, "one", "--query", "thing2_", "--top", "3", "--overwrite")[0] == 0
    assert (root / "results/show_one.png").read_bytes() != before


def test_json_gives_ids_ranks_and_similarities(root):
    say(root / "runs/one", ranked([5, 1, 8, 3, 2, 7, 4, 6]))
    code, out, err = called(root, "one", "--json", "--query", "thing8_", "--top", "2")
    found = json.loads(out)
    assert code == 0 and "has no twin" in err and found["figure"].endswith("show_one.png") and found["gallery"] == 8
    (row,) = found["rows"]
    assert row["image"] == "test_images/00008_thing8/thing8_01.jpg" and row["answers"][0]["rank"] == 6
    assert len(row["answers"][0]["nearest"]) == len(row["answers"][0]["similarities"]) == 2
    assert found["runs"][0]["simulated"] is True


def test_a_twin_without_scores_is_said_and_one_that_is_named_must_have_them(root):
    other = twin_of(root / "runs/one")
    (other / "scores.json").unlink()
    code, _, err = called(root, "one", "--query", "thing2_", "--top", "1")
    assert code == 0 and "its twin has no scores yet" in err and f"alignvis --root {root} eval {other}" in err
    code, _, err = called(root, "one", "twin", "--overwrite")
    assert code == 1 and f"twin has no scores yet; make them with: alignvis --root {root} eval" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none"], "there is no run"),
        (["one", "--out", "a.bmp"], "is no name for a figure; let it end in .png, .svg or .pdf"),
        (["one", "--images", "nowhere"], "nowhere does not hold the picture"),
        (["one", "--query", "zebra"], "no test picture of"),
        (["one", "--best", "0", "--median", "0", "--worst", "0"], "asked for no picture"),
    ],
)
def test_mistakes_are_sentences_and_leave_nothing(root, words, sentence):
    code, out, err = called(root, *words)
    assert code == 1 and sentence in err and out == "" and not (root / "results").exists()


def test_nothing_is_encoded_again(root, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    shutil.rmtree(root / "responses")
    assert called(root, "one", "--query", "thing2_", "--top", "1")[0] == 0
