import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from alignvis.errors import AlignvisError
from alignvis.figures.retrievals import HIT, THICK, draw_retrievals, show_retrievals
from alignvis.figures.style import drawn, save
from alignvis.showing import looking, show
from tests.answers import copied, say, scored_root
from tests.tables import image_ids

IDS = image_ids(8, 1, "test_images")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return scored_root(tmp_path_factory.mktemp("root")) / "runs/one"


@pytest.fixture
def scored(made) -> Callable[..., Path]:
    """Makes a run that answered something."""

    def make(folder: Path, similarity: np.ndarray, features: str, **changes) -> Path:
        return say(copied(made, folder, features=features, **changes), similarity, IDS)

    return make


@pytest.fixture
def images(tmp_path, shared_data) -> Path:
    photos = sorted((shared_data / "photos").glob("*.jpg"))
    for image, photo in zip(IDS, photos, strict=True):
        target = tmp_path / "images" / image
        target.parent.mkdir(parents=True)
        target.write_bytes(photo.read_bytes())
    return tmp_path / "images"


def frames(picture: Path) -> np.ndarray:
    """Columns of pixels, left to right, that hold the colour of the right answer's frame."""
    pixels = imread(picture)[..., :3]
    return np.flatnonzero((np.abs(pixels - to_rgb(HIT)).max(axis=2) < 0.02).sum(axis=0) > 20)


def thick(figure: Figure) -> list[int]:
    """Which of the pictures, in the order in which they are drawn, have a thick frame."""
    widths = [axes.spines["left"].get_linewidth() * axes.spines["left"].get_visible() for axes in figure.axes]
    return [place for place, width in enumerate(widths) if width == THICK]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def test_the_right_answer_is_framed_where_it_is_and_nowhere_else(scored, tmp_path, images):
    always, never = np.eye(8), -np.eye(8)
    show_retrievals(
        [scored(tmp_path / "a", always, "good"), scored(tmp_path / "b", never, "bad")],
        images,
        tmp_path / "a.png",
        queries=1,
    )
    show_retrievals([tmp_path / "b", tmp_path / "a"], images, tmp_path / "b.png", queries=1)
    width = imread(tmp_path / "a.png").shape[1]
    first, second = frames(tmp_path / "a.png"), frames(tmp_path / "b.png")
    assert 0.05 * width < first.min() and first.max() < 0.3 * width
    assert 0.5 * width < second.min() and second.max() < 0.75 * width


def test_only_the_named_number_of_rows_is_drawn_and_the_file_is_whole(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "good")
    for queries in (1, 3):
        show_retrievals([run], images, tmp_path / f"{queries}.png", queries=queries, top=2)
    heights = [imread(tmp_path / f"{queries}.png").shape[0] for queries in (1, 3)]
    assert heights[1] > heights[0] + 200 and not list(tmp_path.glob("*.partial"))


def test_each_picture_stands_where_its_similarity_ranks_it(scored, tmp_path):
    """Pictures of one grey each, so that what is drawn says which picture it is."""
    for place, image in enumerate(IDS):
        (tmp_path / "p" / image).parent.mkdir(parents=True)
        Image.new("RGB", (30, 30), (place * 30,) * 3).save(tmp_path / "p" / image, format="PNG")
    similarity = np.random.default_rng(0).standard_normal((8, 8))
    run = scored(tmp_path / "a", similarity, "good")
    with looking(tmp_path / "p") as look:
        figure = draw_retrievals(show([run], first=3, top=4), look)
    greys = [int(np.asarray(axes.images[0].get_array())[5, 5, 0]) // 30 for axes in figure.axes]
    expected = [place for query in range(3) for place in (query, *np.argsort(-similarity[query])[:4])]
    assert greys == expected
    assert thick(figure) == [i for i, place in enumerate(greys) if i % 5 and place == i // 5]
    for query in range(3):
        for place in np.argsort(-similarity[query])[:4]:
            assert f"{similarity[query, place]:.2f}" in words(figure).split("\n")
        rank = int((similarity[query] >= similarity[query, query]).sum())
        assert str(rank) in words(figure).split("\n")


def test_an_answer_that_cannot_tell_pictures_apart_hits_nothing(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.ones((8, 8)), "constant")
    with looking(images) as look:
        figure = draw_retrievals(show([run], best=2, median=0, worst=0), look)
    assert thick(figure) == [] and words(figure).split("\n").count("8") == 2


def test_what_has_to_be_known_stands_on_the_figure(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "good", subject=7, simulated=True)
    with looking(images) as look:
        text = words(draw_retrievals(show([run], best=1, median=1, worst=1, top=2), look))
    flat = " ".join(text.split())
    for part in (
        "SIMULATED brain",
        "tiny, subject 7, linear, seed 3",
        "3 of 8 test responses",
        "mean of 4 repetitions",
    ):
        assert part in flat
    for part in ("among 8 pictures", "not aligned", "correlation, -1 to 1", "best, median and worst"):
        assert part in flat
    other = scored(tmp_path / "b", np.eye(8), "good", simulated=False)
    with looking(images) as look:
        text = words(draw_retrievals(show([other], queries=["thing2_"], top=2), look))
    assert "SIMULATED" not in text and "chosen by hand" in " ".join(text.split())


@pytest.mark.parametrize(
    ("recipe", "unit"),
    [
        ({"sides": "both", "centre": False}, "cosine, -1 to 1"),
        ({"sides": "image", "centre": True}, "a scalar product, no unit"),
    ],
)
def test_the_unit_of_similarity_is_that_of_the_recipe(scored, tmp_path, images, recipe, unit):
    run = scored(tmp_path / "a", np.eye(8), "good", recipe={"name": "test", **recipe})
    with looking(images) as look:
        assert unit in " ".join(words(draw_retrievals(show([run], first=1, top=1), look)).split())


def test_vector_files_hold_pictures_of_the_size_at_which_they_are_shown(scored, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=60)
    for image in IDS:
        (tmp_path / "p" / image).parent.mkdir(parents=True)
        shutil.copyfile(tmp_path / "noise.jpg", tmp_path / "p" / image)
    run = scored(tmp_path / "a", np.eye(8), "good")
    with looking(tmp_path / "p") as look:
        figure = draw_retrievals(show([run], first=1, top=2), look)
    shapes = [axes.images[0].get_array().shape for axes in figure.axes]
    assert all(max(shape) <= 240 and shape[0] == pytest.approx(0.75 * shape[1], abs=1) for shape in shapes)
    for name in ("a.svg", "a.pdf"):
        save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size < 300_000
    svg = (tmp_path / "a.svg").read_text()
    assert len(re.findall("<image", svg)) == 3 and "<text" in svg and drawn(figure, "svg") == drawn(figure, "svg")


def test_long_names_and_small_galleries_leave_the_figure_whole(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "harmonization_vitb16_with_a_very_long_name_that_must_be_broken_somewhere")
    with looking(images) as look:
        figure = draw_retrievals(show([run, run], first=1, top=20), look)
    assert len(figure.axes) == 1 + 2 * 8
    picture = imread(io.BytesIO(drawn(figure, "png")))
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= picture.shape[1] and box.y0 >= 0 and box.y1 <= picture.shape[0]


def test_words_do_not_lie_on_each_other_or_on_pictures(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "dreamsim_synclr_vitb16")
    with looking(images) as look:
        figure = draw_retrievals(show([run, run], first=2), look)
    drawn(figure, "png")
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [axes.images[0].get_window_extent() for axes in figure.axes]
    covered = [(i, j) for i, one in enumerate(boxes) for j, two in enumerate(boxes[:i]) if one.overlaps(two)]
    assert not covered


def test_letters_that_the_font_lacks_and_ids_of_any_length_are_drawn(scored, tmp_path):
    ids = [f"{'long/' * 60}\u732b{place}\n$x$.png" for place in range(8)]
    run = scored(tmp_path / "a", np.eye(8), "good")
    say(run, np.eye(8), ids)
    figure = draw_retrievals(show([run], first=1, top=1), lambda image, side: np.zeros((4, 4, 3), np.uint8))
    drawn(figure, "png")
    (line,) = [text for text in figure.texts if text.get_text().startswith("1st in the table: ...")]
    assert line.get_text().endswith("?0?$x$.png") and line.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("name", ["wm_MW" * 60, "WM" * 16])
def test_an_id_of_wide_letters_is_cut_at_its_beginning_and_not_at_the_edge(scored, tmp_path, name):
    run = scored(tmp_path / "a", np.eye(8), "good")
    say(run, np.eye(8), [f"{name}{place}.png" for place in range(8)])
    figure = draw_retrievals(show([run], first=1, top=1), lambda image, side: np.zeros((4, 4, 3), np.uint8))
    (line,) = [text for text in figure.texts if text.get_text().startswith("1st in the table: ...")]
    assert line.get_text().endswith("0.png") and "...." not in line.get_text()
    assert 0.8 * figure.bbox.x1 < line.get_window_extent().x1 <= figure.bbox.x1


def test_no_row_is_headed_by_a_word_that_could_be_of_an_answer(scored, tmp_path):
    run = scored(tmp_path / "a", np.eye(8), "good")

    def heads(**options) -> list[str]:
        figure = draw_retrievals(show([run], top=5, **options), lambda image, side: np.zeros((4, 4, 3), np.uint8))
        return [text.get_text().partition(":")[0] for text in figure.texts if ": test_images/" in text.get_text()]

    assert heads(first=2) == ["1st in the table", "2nd in the table"]
    assert heads(queries=[IDS[3]]) == ["chosen by hand"]
    assert list(dict.fromkeys(heads(best=1, worst=1))) == ["best rank", "median rank", "worst rank"]


def test_a_missing_picture_is_a_sentence_that_names_the_folder(scored, tmp_path, images):
    run = scored(tmp_path / "a", np.eye(8), "good")
    (images / IDS[1]).unlink()
    with pytest.raises(AlignvisError, match=f"{images} does not hold the picture 'test_images/00002"):
        show_retrievals([run], images, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
