"""From tables on disk to what the loop takes: joined by id, wherever the responses are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alignvis import plans, store
from alignvis.decoder import Decoder
from alignvis.errors import AlignvisError
from alignvis.plans import Tables, Wanted, plan, sections
from alignvis.recipe import Recipe
from alignvis.training import fit
from tests.tables import image_ids, write_features, write_responses

CPU, GIB = torch.device("cpu"), 2**30
RECIPE = Recipe(batch=16, epochs=3, rate=3e-3, schedule="constant", normalisation="none", validation="concept")
EVERY = image_ids(12, 5)  # 60 images
TESTS = image_ids(4, 1, "test_images")
VALUE = {image: float(place) for place, image in enumerate(EVERY)}  # what the tables say of an image, by its id


def subject_table(root: Path, subject: int, images: list[str] = EVERY, repetitions: int = 3, **document) -> Path:
    """Responses that state whose they are: 100 x subject + image in channel 0, the repetition in channel 1."""
    channels = document.setdefault("channels", ["O1", "Oz", "O2"])
    rng = np.random.default_rng(subject)
    train = rng.standard_normal((len(images), repetitions, len(channels), document.pop("times", 6)))
    train[:, :, 0] = 100 * subject + np.array([VALUE[image] for image in images])[:, None, None]
    train[:, :, 1] = np.arange(1, repetitions + 1)[:, None]
    path = root / "responses" / "tiny" / f"sub-{subject:02d}.safetensors"
    return write_responses(path, train, train[: len(TESTS)], (list(images), TESTS), subject=subject, **document)


def features_table(root: Path, name: str = "one", images: list[str] = EVERY, sign: float = 1.0, dim: int = 5) -> Path:
    embeddings = np.random.default_rng(0).standard_normal((len(EVERY) + len(TESTS), dim))
    embeddings[: len(EVERY), 0] = np.arange(len(EVERY))
    order = np.random.default_rng(1).permutation(len(images))
    place = {image: row for row, image in enumerate([*EVERY, *TESTS])}
    rows = [place[images[i]] for i in order]
    path = root / "features" / "tiny" / f"{name}.safetensors"
    return write_features(path, sign * embeddings[rows], [images[i] for i in order], encoder=name)


def wanted(root: Path, *responses: Path, features: Path | None = None, seed: int = 0, name: str = "run") -> Wanted:
    features = features or features_table(root)
    return Wanted(root / "runs" / name, 1, responses, responses[0], features, seed)


def tables_of(*made, recipe: Recipe = RECIPE, **options) -> Tables:
    return Tables(made, "linear", recipe, CPU, scratch=made[0].wanted.out.parents[1], **options)


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Two subjects who saw their pictures in other orders, and not all the same ones."""
    rng = np.random.default_rng(3)
    first, second = ([EVERY[i] for i in rng.permutation(60)[:50]] for _ in range(2))
    assert 30 < len(set(first) & set(second)) < 50
    return subject_table(tmp_path, 1, first), subject_table(tmp_path, 2, second)


def test_subjects_and_embeddings_are_joined_by_the_id_of_the_image(tmp_path, two):
    one = plan(wanted(tmp_path, *two), "linear", RECIPE)
    shared = set(store.load_responses(two[0]).train_images) & set(store.load_responses(two[1]).train_images)
    assert one.images == sorted(shared)
    assert sorted([*one.fitted.tolist(), *one.held_out.tolist()]) == list(range(len(shared)))
    concepts = [{one.images[row].split("/")[1] for row in rows.tolist()} for rows in (one.fitted, one.held_out)]
    assert len(concepts[1]) == 1 and not concepts[0] & concepts[1]
    tables = tables_of(one)
    for side, rows in zip(tables.pairs([one]), (one.fitted, one.held_out), strict=True):
        assert torch.equal(side.rows[0], rows)
        for place, subject in enumerate((1, 2)):
            ((responses, features),) = side.chunks(99, place)
            expected = torch.tensor([VALUE[one.images[row]] for row in rows.tolist()])
            torch.testing.assert_close(responses[0, :, :6], (100 * subject + expected)[:, None].expand(-1, 6))
            torch.testing.assert_close(responses[0, :, 6:12], torch.full((len(rows), 6), 2.0))
            torch.testing.assert_close(features[0, :, 0], expected)


def test_each_run_finds_its_own_among_tables_that_are_read_once(tmp_path, monkeypatch):
    paths = [subject_table(tmp_path, subject) for subject in (1, 2)]
    features = [features_table(tmp_path), features_table(tmp_path, "minus", sign=-1)]
    read, original = [], plans.average
    monkeypatch.setattr(plans, "average", lambda table, *a, **o: read.append(table.path) or original(table, *a, **o))
    made = [
        plan(wanted(tmp_path, path, features=table, seed=seed), "linear", RECIPE)
        for path in paths[::-1] for table in features for seed in (0, 1)
    ]  # fmt: skip
    assert len({one.key for one in made}) == 1
    tables = tables_of(*made)
    assert read == paths[::-1]
    train, _ = tables.pairs(made)
    for order in (made, made[::-1], made[3:5]):
        train, held_out = tables.pairs(order)
        ((responses, embeddings),) = held_out.chunks(99, 0)
        for run, one in enumerate(order):
            images = torch.tensor([VALUE[one.images[row]] for row in one.held_out.tolist()])
            subject = int(one.wanted.responses[0].stem[-2:])
            torch.testing.assert_close(responses[run, :, 0], 100 * subject + images)
            sign = -1 if one.wanted.features.stem == "minus" else 1
            torch.testing.assert_close(embeddings[run, :, 0], sign * images)
            assert torch.equal(train.rows[run], one.fitted)
    assert not torch.equal(made[0].held_out, made[1].held_out)  # each seed has a split of its own


def test_repetitions_stay_apart_where_they_are_mixed(tmp_path):
    recipe = replace(RECIPE, repetitions="pairs")
    one = plan(wanted(tmp_path, subject_table(tmp_path, 1)), "linear", recipe)
    train, held_out = tables_of(one, recipe=recipe).pairs([one])
    assert train.mixed == "pairs" and train.responses.shape == (1, 60, 3, 18)
    torch.testing.assert_close(train.responses[0, :, :, 6], torch.tensor([1.0, 2, 3]).expand(60, 3))
    ((responses, _),) = held_out.chunks(99, 0)
    assert torch.equal(responses[0, :, 6], torch.full((len(one.held_out),), 2.0))


@pytest.mark.parametrize("mixed", ["all", "subset"])
def test_wherever_responses_are_kept_the_runs_are_the_same(tmp_path, two, mixed):
    """Float32 in memory, float16 in memory, and float16 on disk; the two of them to the last bit."""
    recipe = replace(RECIPE, repetitions=mixed, normalisation="repetition-centred")
    one = plan(wanted(tmp_path, *two), "linear", recipe)
    size = 4 * 2 * len(one.images) * (1 if mixed == "all" else 3) * 18
    kept, before = {}, sorted(tmp_path.rglob("*"))
    for where, memory in {"float32": size, "float16": size - 1, "edge": size // 2, "disk": size // 2 - 1}.items():
        said: list[str] = []
        tables = tables_of(one, recipe=recipe, memory=(memory, 0), say=said.append)
        assert sorted(tmp_path.rglob("*")) == before  # the file on disk has no name from the beginning
        assert tables.responses.dtype == (torch.float32 if where == "float32" else torch.float16)
        assert tables.streamed is (where == "disk") and len(said) == (where == "disk")
        assert all("GiB may be taken of memory, so they are streamed from a file on disk" in text for text in said)
        train, held_out = tables.pairs([one])
        assert train.streamed is tables.streamed
        batches = list(train.batches(16, [torch.Generator().manual_seed(0)]))
        network, states = Decoder("linear", **one.shape, recipe=recipe), {}
        (course,) = fit([network], train, held_out, recipe, [0], finish=lambda c, state, s=states: s.update(state))
        kept[where] = [part for batch in batches for part in batch], course.history, states
    assert len(kept["disk"][0]) == 2 * 2 * (len(one.fitted) // 16)
    for where in ("edge", "disk"):
        assert all(torch.equal(a, b) for a, b in zip(kept["float16"][0], kept[where][0], strict=True))
        assert kept["float16"][1] == kept[where][1]
        assert all(torch.equal(kept["float16"][2][key], value) for key, value in kept[where][2].items())
    for a, b in zip(kept["float32"][0], kept["disk"][0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-4)  # half a unit in the last place, of 1
    losses = [[row["held_out_loss"] for row in kept[where][1]] for where in ("float32", "disk")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2) and losses[0] != losses[1]


def test_volts_are_never_kept_as_halves(tmp_path):
    """A millionth of a volt is hardly a number in float16, so unscaled float32 goes to disk as it is."""
    path = subject_table(tmp_path, 1)
    table = store.load_responses(path)
    write_responses(path, 1e-9 * table.train, 1e-9 * table.test, (table.train_images, table.test_images))
    for normalisation, dtype in (("none", torch.float32), ("repetition", torch.float16)):
        recipe = replace(RECIPE, normalisation=normalisation)
        one = plan(wanted(tmp_path, path), "linear", recipe)
        assert tables_of(one, recipe=recipe, memory=(GIB, 0)).responses.dtype == torch.float32
        tables = tables_of(one, recipe=recipe, memory=(0, 0))
        assert tables.responses.dtype == dtype and tables.streamed
    one = plan(wanted(tmp_path, path), "linear", RECIPE)
    plain, streamed = (tables_of(one, memory=(memory, 0)).responses for memory in (GIB, 0))
    assert torch.equal(plain, streamed) and streamed.abs().max() > 1e-8


def test_unscaled_halves_on_disk_are_kept_as_halves(tmp_path):
    path = subject_table(tmp_path, 1)
    table = store.load_responses(path)
    arrays = {name: getattr(table, name).astype("f2") for name in ("train", "test")}
    arrays |= {f"{name}.session": np.ones(array.shape[:2], "u1") for name, array in arrays.items()}
    store.write_table(path, arrays, table.document)
    one = plan(wanted(tmp_path, path), "linear", RECIPE)
    assert tables_of(one, memory=(0, 0)).responses.dtype == torch.float16


def test_subjects_that_differ_cannot_be_pooled(tmp_path):
    first = subject_table(tmp_path, 1)
    for change in (
        {"channels": ["O1", "Oz", "O2", "Pz"]},
        {"channels": ["O1", "O2", "Oz"]},  # the same ones in another order
        {"times": 7},
    ):
        other = subject_table(tmp_path, 2, **change)
        with pytest.raises(AlignvisError, match=f"{other} and {first} differ in their channels, times or unit"):
            plan(wanted(tmp_path, first, other), "linear", RECIPE)
    other = subject_table(tmp_path, 2, channels=["O1", "O2", "Oz"])
    one = plan(wanted(tmp_path, first, other), "linear", replace(RECIPE, channels="Oz,O1"))  # by name, they do not
    assert one.channels == ["Oz", "O1"] and one.shape == {"channels": 2, "times": 6, "dim": 5}
    other = subject_table(tmp_path, 2, times=7, tmin=-0.01)
    one = plan(wanted(tmp_path, first, other), "linear", replace(RECIPE, window="0:0.06"))
    assert one.shape["times"] == 6


def test_subjects_without_a_common_picture_cannot_be_pooled(tmp_path):
    first, other = subject_table(tmp_path, 1, EVERY[:30]), subject_table(tmp_path, 2, EVERY[30:])
    with pytest.raises(AlignvisError, match=f"from {first} to {other} have no training image in common"):
        plan(wanted(tmp_path, first, other), "linear", RECIPE)


def test_other_numbers_of_repetitions_can_be_averaged_but_not_mixed(tmp_path):
    first, other = subject_table(tmp_path, 1), subject_table(tmp_path, 2, repetitions=2)
    with pytest.raises(AlignvisError, match="has 2 training repetitions and .* 3, which cannot be mixed as one"):
        plan(wanted(tmp_path, first, other), "linear", replace(RECIPE, repetitions="subset"))
    one = plan(wanted(tmp_path, first, other), "linear", RECIPE)
    train, _ = tables_of(one).pairs([one])
    assert train.responses[:, :, 6].unique(dim=1).tolist() == [[2.0], [1.5]]


def test_what_does_not_fit_together_is_refused_before_anything_is_read(tmp_path):
    path = subject_table(tmp_path, 1)
    with pytest.raises(AlignvisError, match="1 of the 60 images"):
        plan(wanted(tmp_path, path, features=features_table(tmp_path, "few", EVERY[1:])), "linear", RECIPE)
    with pytest.raises(AlignvisError, match="nice needs at least 75 samples in time and these responses have 6"):
        plan(wanted(tmp_path, path), "nice", RECIPE)
    with pytest.raises(AlignvisError, match="nice needs at least 75 samples"):
        plan(wanted(tmp_path, path), "nice", replace(RECIPE, resample=74))
    assert plan(wanted(tmp_path, path), "nice", replace(RECIPE, resample=75)).shape["times"] == 75


def test_only_runs_of_one_shape_step_together(tmp_path):
    path, short = subject_table(tmp_path, 1), subject_table(tmp_path, 2, EVERY[:55])
    longer, wide = subject_table(tmp_path, 3, times=7), features_table(tmp_path, "wide", dim=6)
    first = plan(wanted(tmp_path, path), "linear", RECIPE)
    assert plan(wanted(tmp_path, path, seed=4), "linear", RECIPE).key == first.key
    others = [
        plan(wanted(tmp_path, short), "linear", RECIPE),
        plan(wanted(tmp_path, longer), "linear", RECIPE),
        plan(wanted(tmp_path, path, features=wide), "linear", RECIPE),
        plan(wanted(tmp_path, path, subject_table(tmp_path, 4)), "linear", RECIPE),
        plan(wanted(tmp_path, subject_table(tmp_path, 5, EVERY[::-1])), "linear", RECIPE),
    ]
    assert [one.key == first.key for one in others] == [False, False, False, False, True]
    as_many = plan(wanted(tmp_path, subject_table(tmp_path, 6, EVERY[5:])), "linear", RECIPE)
    assert len(as_many.fitted) == len(others[0].fitted) and as_many.key != others[0].key  # as many, but other pictures


def made_plans(tmp_path: Path) -> list:
    paths = [subject_table(tmp_path, subject) for subject in (1, 2, 3)] + [subject_table(tmp_path, 4, times=7)]
    return [plan(wanted(tmp_path, path, seed=seed), "linear", RECIPE) for seed in (0, 1) for path in paths]


def cut(made: list, device: str) -> list[list[tuple[str, int]]]:
    parts = list(sections(made, RECIPE, torch.device(device)))
    return [[(one.wanted.responses[0].stem[-1], one.wanted.seed) for one in part] for part in parts]


def test_a_cpu_keeps_one_recording_at_a_time(tmp_path):
    assert cut(made_plans(tmp_path), "cpu") == [[(subject, 0), (subject, 1)] for subject in "1234"]


def test_a_gpu_keeps_as_many_recordings_as_fit(tmp_path, monkeypatch):
    made, one = made_plans(tmp_path), 2 * 60 * 3 * 6  # bytes of a recording as float16
    found = {}
    for room in (0, one, 2 * one, 3 * one - 1, 3 * one):
        monkeypatch.setattr(plans, "_half", lambda device, room=room: (room, 0))
        parts = cut(made, "cuda")
        assert sorted(run for part in parts for run in part) == sorted((s, seed) for s in "1234" for seed in (0, 1))
        assert not any("4" in [subject for subject, _ in part] and len(set(part)) > 2 for part in parts)
        found[room] = max(len({subject for subject, _ in part}) for part in parts)
    assert found == {0: 1, one: 1, 2 * one: 2, 3 * one - 1: 2, 3 * one: 3}
    assert len(cut(made, "cuda")) == 2  # all that can step together, and the one of another shape


def test_runs_that_pool_the_same_subjects_share_their_tables_however_little_fits(tmp_path, monkeypatch):
    paths = [subject_table(tmp_path, subject) for subject in (1, 2, 3)]
    pooled = [paths[1:], paths[1:], paths[:2]]
    made = [plan(wanted(tmp_path, *some, seed=seed), "linear", RECIPE) for seed, some in enumerate(pooled)]
    monkeypatch.setattr(plans, "_half", lambda device: (0, 0))
    assert [len(part) for part in sections(made, RECIPE, torch.device("cuda"))] == [2, 1]


def test_the_first_run_of_a_root_can_be_streamed(tmp_path):
    one = plan(wanted(tmp_path, subject_table(tmp_path, 1)), "linear", RECIPE)
    Tables([one], "linear", RECIPE, CPU, scratch=tmp_path / "runs", memory=(0, 0))


def test_a_disk_without_room_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    one = plan(wanted(tmp_path, subject_table(tmp_path, 1)), "linear", RECIPE)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(plans.os, "posix_fallocate", full)
    with pytest.raises(AlignvisError, match="No space left on device"):
        tables_of(one, memory=(0, 0))
    assert sorted(tmp_path.rglob("*")) == before
