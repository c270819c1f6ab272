"""Rows of real embeddings beside people, with scores of runs that were written by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alignvis import files
from alignvis.errors import AlignvisError
from alignvis.human_scores import HEAD, alignment_table, common_kind, retrieval_of, score_tables
from alignvis.retrieval import MEASURES, TOP
from alignvis.stats import wilson
from alignvis.store import load_features, write_table
from tests.tables import write_features

PLAIN, ALIGNED = "gLocal_clip_vit-l-14_noalign", "gLocal_clip_vit-l-14"


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared_data) -> Path:
    """Real CLIP features of the 200 test pictures, and the same through gLocal's published map."""
    root = tmp_path_factory.mktemp("real")
    features = np.load(shared_data / "clip-features" / "clip_feature_maps_test.npy")[:, 0].astype(np.float32) * 19.238
    stems = (shared_data / "clip-features" / "things_eeg2_test200_image_stems.txt").read_text().split()
    images = [f"test_images/{row:05d}_{stem.rsplit('_', 1)[0]}/{stem}.jpg" for row, stem in enumerate(stems, 1)]
    order = np.random.default_rng(0).permutation(200)  # rows are joined by concept, never by position
    images = [images[row] for row in order]
    with np.load(shared_data / "glocal" / "clip_ViT-L/14/visual" / "transform.npz") as file:
        aligned = (features - file["mean"]) / file["std"] @ file["weights"]
    for name, twin, embeddings in ((PLAIN, ALIGNED, features), (ALIGNED, PLAIN, aligned)):
        path = root / "features" / "things-eeg2" / f"{name}.safetensors"
        write_features(path, embeddings[order], images, encoder=name, twin=twin, aligned=name == ALIGNED)
    return root


@pytest.fixture
def root(real, tmp_path) -> Path:
    return Path(shutil.copytree(real, tmp_path / "root"))


def write_run(root: Path, name: str, top1: float | None, *, features: str = PLAIN, **changes) -> None:
    """A run of whose weights and similarities nothing is there: scoring tables must not ask for them."""
    about = {"dataset": "things-eeg2", "simulated": False, "protocol": "within", "subject": 1, "trained_on": [1]}
    about |= {"encoder": "nice", "features": features, "aligned": features == ALIGNED, "twin": None, "seed": 0}
    about |= {"weights_sha256": "0"}
    image_set = changes.pop("image_set", "things-eeg2")
    score = {"recipe": "alignvis", "validation": "concept", "n": 200, "gallery": 200, "repetitions": 80, "answers": 90}
    score |= {"queries_fingerprint": "", "median_rank": 9.0, "median_rank_chance": 100.5}
    rest = {"median_rank": 9.0, "mrr": 0.2, "pairwise": 0.9}
    intervals = {f"{measure}_interval": [0.0, 1.0] for measure in MEASURES}
    rest |= intervals | {"ranks": [9] * changes.get("gallery", 200)}
    score |= intervals
    for k in TOP:
        score |= {f"top{k}": top1, f"top{k}_chance": k / 200}
        rest[f"top{k}"] = 0.0
    score |= {
        "target": "embeddings",
        "similarity_sha256": "",
        "images_sha256": "",
        "ranks": [1] * changes.get("n", 200),
        "n_way": {},
        "n_way_interval": {},
        "galleries": "test images",
    }
    score |= {**{key: rest[key] for key in ("mrr", "pairwise")}, "mrr_chance": 0.03, "pairwise_chance": 0.5}
    score |= {"image_to_brain": rest, "transductive": {"csls": {"top1": 0.0, "top5": 0.0}, "one_to_one": None}}
    score |= {"leakage": dict.fromkeys(("train", "validation", "test", "shared_images", "shared_concepts"), 0)}
    score |= dict.fromkeys(("reliability", "trials", "subset_galleries", "class_centres"))
    table = {"path": f"../../features/{image_set}/{features}.safetensors", "fingerprint": ""}
    record = {"version": 1, "shape": {"channels": 1, "times": 1, "dim": 1}, "recording": {}, "channels": ["Oz"]}
    record |= {
        "recipe": {"name": "alignvis", "target": changes.pop("target", "embeddings")},
        "split": {"train": [], "validation": []},
        "seconds": 1.0,
    }
    record |= {"inputs": {"responses": [table], "features": table, "queries": table}}
    record |= {"history": [{"epoch": 0, "best": True, "held_out_top1": 0.5}]}
    folder = root / "runs" / name
    stated = {k: v for k, v in changes.items() if k in about}
    named = {"name": changes["recipe"]} if "recipe" in changes else {}
    named |= {k: changes[k] for k in ("target", "validation") if k in changes}
    files.write_json(folder / "record.json", record | about | stated | {"recipe": record["recipe"] | named})
    if top1 is not None:
        target = {"target": record["recipe"]["target"]}
        files.write_json(folder / "scores.json", score | about | target | changes)


def test_real_embeddings_beside_people(real, shared_data):
    told: list[tuple[int, int]] = []
    rows = score_tables(
        real,
        things=shared_data / "things",
        progress=lambda done, total, text, note="": told.append((done, total)),
    )
    after, before = rows  # by name
    assert [row["encoder"] for row in rows] == [ALIGNED, PLAIN]
    assert [before["aligned"], before["twin"], before["in_sample"]] == [False, ALIGNED, False]
    assert [after["aligned"], after["twin"], after["in_sample"]] == [True, PLAIN, True]
    for row, expected in ((before, (0.39047, 0.40753, 0.56158)), (after, (0.85275, 0.85696, 0.81881))):
        assert tuple(row["surrogate"][key]["value"] for key in ("cosine", "dot", "agreement")) == pytest.approx(
            expected, abs=6e-6
        )
        assert row["concepts"] == 200 and row["images"] == {"min": 1, "max": 1} and row["dim"] == 768
        assert not row["simulated"] and row["retrieval"] == [] and row["missing"] == []
        assert row["people"]["n"] == 2 and row["people"]["of"] == 2171 and row["objects"]["n"] == 7
        assert row["objects"]["cosine"]["spearman"]["interval"] is None  # of seven objects
        assert "not people" in row["surrogate"]["of"]
    assert before["people"]["cosine"]["value"] == 0.0 and after["people"]["cosine"]["value"] == 1.0
    assert after["objects"]["cosine"]["spearman"]["value"] > before["objects"]["cosine"]["spearman"]["value"] + 0.3
    shares = [done / total for done, total in told]
    assert shares == sorted(shares) and shares[-1] == 1 and told[0][1] == told[-1][1]
    json.dumps(rows, allow_nan=False)


def test_people_themselves_would_score_as_known(tmp_path, shared_data):
    """SPoSE as if it were the embedding of 1,854 reference pictures, two of some concepts, in the alphabet's order."""
    concepts = (shared_data / "things" / "unique_id.txt").read_text().split()
    spose = np.loadtxt(shared_data / "things" / "spose_embedding_66d_sorted.txt")
    order = np.argsort(concepts)
    images = [f"{concepts[row]}.jpg" for row in order] + [f"more/{concept}_02s.jpg" for concept in concepts[:3]]
    path = write_features(tmp_path / "a.safetensors", np.concatenate([spose[order], spose[:3]]), images)
    things = tmp_path / "things"
    things.mkdir()
    for name in ("unique_id.txt", "2171trials_humans.txt"):
        shutil.copy(shared_data / "things" / name, things / name)
    (row,) = score_tables(tmp_path, [path])
    assert row["people"]["cosine"]["value"] == pytest.approx(0.6499, abs=5e-5) and row["people"]["n"] == 2171
    assert row["people"]["dot"]["value"] == pytest.approx(1413 / 2171, abs=1e-9)  # shifted by the mean of all numbers
    assert row["images"] == {"min": 1, "max": 2} and row["concepts"] == 1854
    assert row["objects"] is None and row["surrogate"] is None and len(row["missing"]) == 3
    assert "means over 1 to 2 images" in alignment_table([row]) and "there is no" in alignment_table([row])
    (things / "two.txt").write_text("0 1 2\n0 2 1\n")
    (row,) = score_tables(tmp_path, [path], triplets=things / "two.txt")
    assert row["people"]["file"] == "two.txt" and row["people"]["n"] == 2
    assert row["people"]["cosine"]["value"] <= 0.5  # only one of the two can be right


def test_a_table_of_other_pictures_hides_no_others(root, shared_data):
    write_features(root / "features" / "tiny" / "a.safetensors", np.ones((2, 3)), ["x/bobiga_01b.jpg", "x/b_02s.jpg"])
    with pytest.raises(AlignvisError, match="none of the 2 images in .*tiny.*the first is 'x/bobiga_01b.jpg'"):
        score_tables(root, things=shared_data / "things")
    told: list[AlignvisError] = []
    rows = score_tables(root, things=shared_data / "things", broken=told.append)
    assert [row["encoder"] for row in rows] == [ALIGNED, PLAIN] and len(told) == 1


def test_no_tables_is_a_sentence(tmp_path, shared_data):
    with pytest.raises(AlignvisError, match="there are no features in .*; make them with: alignvis extract"):
        score_tables(tmp_path, things=shared_data / "things")


def test_one_concept_can_be_compared_with_nothing(tmp_path, shared_data):
    path = write_features(tmp_path / "a.safetensors", np.ones((1, 3)), ["aardvark.jpg"])
    (row,) = score_tables(tmp_path, [path], shared_data / "things")
    assert row["people"]["cosine"] is None and row["people"]["n"] == 0
    assert row["objects"]["cosine"] is None and row["surrogate"] is None
    json.dumps(row, allow_nan=False)
    assert alignment_table([row]).splitlines()[2].split() == ["lowlevel", "1", *"-------"]


def test_ties_are_as_each_protocol_has_them(tmp_path, shared_data):
    """The first is as like the second, which people pair it with, as it is like the third."""
    rows = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    path = write_features(tmp_path / "a.safetensors", rows, ["aardvark.jpg", "abacus.jpg", "accordion.jpg"])
    (tmp_path / "one.txt").write_text("0 1 2\n")
    (row,) = score_tables(tmp_path, [path], shared_data / "things", tmp_path / "one.txt")
    assert row["people"]["cosine"]["value"] == 1.0 and row["people"]["dot"]["value"] == 0.0


@pytest.mark.parametrize("count", [2, 3])
def test_a_choice_among_objects_takes_three(tmp_path, shared_data, count):
    images = ["pizza.jpg", "beaver.jpg", "macadamia.jpg"][:count]
    path = write_features(tmp_path / "a.safetensors", np.eye(3)[:count] + np.arange(3), images)
    (row,) = score_tables(tmp_path, [path], shared_data / "things")
    assert row["objects"]["n"] == count and (row["objects"]["choice"] is None) is (count == 2)


def test_a_constant_embedding_is_like_nothing(tmp_path, shared_data):
    concepts = (shared_data / "things" / "unique_id.txt").read_text().split()[:60]
    path = write_features(tmp_path / "a.safetensors", np.ones((60, 3)), [f"{concept}.jpg" for concept in concepts])
    (row,) = score_tables(tmp_path, [path], shared_data / "things")
    assert row["surrogate"]["cosine"]["value"] is None and row["surrogate"]["agreement"]["value"] == 0.0
    json.dumps(row, allow_nan=False)
    assert "lowlevel" in alignment_table([row])


# --- runs ------------------------------------------------------------------------------------------------------------


def scored(root: Path, shared_data: Path, **options) -> list[dict]:
    return score_tables(
        root, [root / "features/things-eeg2" / f"{PLAIN}.safetensors"], shared_data / "things", **options
    )


def test_runs_of_this_table_are_averaged_by_hand(root, shared_data):
    write_run(root, "a", 0.2, subject=1, seed=0)
    write_run(root, "b", 0.3, subject=1, seed=1)
    write_run(root, "c", 0.35, subject=2, seed=0)
    write_run(root, "d", 0.9, subject=3, features=ALIGNED)  # of another encoder
    write_run(root, "e", 0.9, subject=3, image_set="other")  # of other pictures
    write_run(root, "f", None, subject=4)
    (row,) = scored(root, shared_data)
    (found,) = row["retrieval"]
    assert found["top1"] == pytest.approx(0.3)  # of 0.25 and 0.35: a subject counts once, however many seeds it has
    half = 12.7062 * np.std([0.25, 0.35], ddof=1) / np.sqrt(2)
    assert found["interval"] == pytest.approx([0.0, 0.3 + half], abs=1e-5) and half > 0.3
    assert (found["runs"], found["subjects"], found["seeds"]) == (3, [1, 2], [0, 1])
    assert (found["gallery"], found["chance"], found["brain"]) == (200, 0.005, "nice")
    assert found["interval_over"] == "subjects" and row["unscored"] == 1


def test_one_subject_has_wilsons_interval_and_equal_ones_none(root, shared_data):
    write_run(root, "a", 0.2, seed=0)
    (found,) = scored(root, shared_data)[0]["retrieval"]
    assert found["interval"] == pytest.approx(wilson(0.2, 200)) and found["interval_over"] == "test images"
    write_run(root, "b", 0.4, seed=1)
    (found,) = scored(root, shared_data)[0]["retrieval"]
    assert found["interval"] == pytest.approx(wilson(0.3, 200)) and found["runs"] == 2
    write_run(root, "b", 0.2, subject=2)
    (found,) = scored(root, shared_data)[0]["retrieval"]
    assert found["interval"] is None and found["top1"] == 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "things-meg"},
        {"simulated": True},
        {"encoder": "linear"},
        {"recipe": "published"},
        {"validation": "image"},
        {"protocol": "leave-out", "trained_on": [2, 3]},
        {"n": 100},
        {"gallery": 100},
        {"repetitions": 4},
    ],
)
def test_only_like_is_averaged_with_like(root, shared_data, change):
    write_run(root, "a", 0.2)
    write_run(root, "b", 0.4, seed=1, **change)
    found = scored(root, shared_data)[0]["retrieval"]
    assert sorted(one["top1"] for one in found) == [0.2, 0.4]


def test_pools_of_subjects_are_kept_apart(root, shared_data):
    write_run(root, "a", 0.2, protocol="leave-out", subject=1, trained_on=[2, 3])
    write_run(root, "b", 0.3, protocol="leave-out", subject=2, trained_on=[1, 3])
    write_run(root, "c", 0.4, protocol="leave-out", subject=2, trained_on=[1, 3, 4])
    found = scored(root, shared_data)[0]["retrieval"]
    assert [(one["pool"], one["runs"]) for one in found] == [((1, 2, 3), 2), ((1, 2, 3, 4), 1)]


def test_a_simulated_brain_is_called_so(root, shared_data):
    write_run(root, "a", 0.2, simulated=True)
    rows = scored(root, shared_data)
    assert rows[0]["retrieval"][0]["simulated"] and "(SIMULATED brain)" in alignment_table(rows)
    # the embeddings, and how human they are, are real
    assert not rows[0]["simulated"] and "(SIMULATED)" not in alignment_table(rows)


def test_simulated_pictures_are_called_so(tmp_path, shared_data):
    path = write_features(
        tmp_path / "a.safetensors", np.eye(3), ["a/abacus.jpg", "a/acorn.jpg", "b.jpg"], simulated=True
    )
    rows = score_tables(tmp_path, [path], shared_data / "things")
    assert rows[0]["simulated"] and "lowlevel (SIMULATED)" in alignment_table(rows)


def test_a_broken_run_hides_no_others(root, shared_data):
    write_run(root, "a", 0.2)
    write_run(root, "b", 0.4, seed=1)
    (root / "runs" / "b" / "scores.json").write_text("{}")
    with pytest.raises(AlignvisError, match="the scores in .*b do not state"):
        scored(root, shared_data)
    told: list[AlignvisError] = []
    assert scored(root, shared_data, broken=told.append)[0]["retrieval"][0]["top1"] == 0.2 and len(told) == 1


# --- to read ---------------------------------------------------------------------------------------------------------


def test_the_table_to_read(root, shared_data):
    write_run(root, "a", 0.2)
    write_run(root, "b", 0.4, features=ALIGNED)
    write_run(root, "c", 0.9, encoder="resnet1d")
    write_run(root, "e", 0.9, encoder="eegnet", features=ALIGNED)
    write_run(root, "d", None, subject=4)
    rows = score_tables(root, things=shared_data / "things")
    kind = common_kind(rows)
    assert kind["brain"] == "nice" and retrieval_of(rows[0], kind)["top1"] == 0.4
    text = alignment_table(rows)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert [word for name in HEAD for word in name.split()] == lines[0].split()
    numbers = [line.split() for line in lines[2:4]]
    assert numbers[0] == f"{ALIGNED} * 200 100.0 (34-100) 2 {0.703:.3f} 0.853 81.9 40.0 (33-47) 1".split()
    assert numbers[1] == f"{PLAIN} 200 0.0 (0-66) 2 0.287 0.390 56.2 20.0 (15-26) 1".split()
    flat = " ".join(text.split())
    for part in (
        "SPoSE: a SURROGATE",
        "chance 33.3%, noise ceiling (Brain-Score) 67.7%",
        "top-1: things-eeg2 through nice",
        "among 200 pictures",
        "scores of 2 other kinds of runs",
        "1 run has no score yet: alignvis eval",
        "in-sample",
        "48 obj.: Spearman with people's similarity of 48 objects, of which 7 are",
    ):
        assert part in flat, part
    assert "SIMULATED" not in text


def test_a_long_name_has_a_line_of_its_own(tmp_path, shared_data):
    name = "an_encoder_with_a_name_that_nobody_would_want_to_read_aloud"
    path = write_features(tmp_path / "a.safetensors", np.eye(3), ["abacus.jpg", "acorn.jpg", "zebra.jpg"], encoder=name)
    lines = alignment_table(score_tables(tmp_path, [path], shared_data / "things")).splitlines()
    assert lines[2] == name and lines[3].split()[0] == "3" and max(map(len, lines)) <= 110
    assert lines[3].index("3") == lines[0].index("concepts")


def test_the_most_human_comes_first():
    def row(name: str, n: int, people: float, model: float | None) -> dict:
        cosine = {"value": people, "n": n, "interval": [0.0, 1.0]}
        surrogate = None if model is None else {"cosine": {"value": model}, "agreement": {"value": 0.5}}
        about = {
            "encoder": name,
            "aligned": False,
            "simulated": False,
            "in_sample": False,
            "target": "embeddings",
            "concepts": 5,
            "missing": [],
        }
        about |= {"people": {"file": "a.txt", "n": n, "cosine": cosine}, "objects": None, "surrogate": surrogate}
        return about | {"retrieval": [], "unscored": 0, "images": {"min": 1, "max": 1}}

    rows = [
        row("few", 2, 1.0, 0.9),
        row("zero", 2, 1.0, 0.0),
        row("negative", 2, 1.0, -0.1),
        row("none", 2, 1.0, None),
        row("low", 100, 0.4, 0.1),
        row("high", 100, 0.5, 0.0),
    ]
    names = [line.split()[0] for line in alignment_table(rows).splitlines()[2:8]]
    assert names == ["high", "low", "few", "zero", "negative", "none"]


def test_a_tensor_beside_the_embeddings_is_scored_with_the_runs_that_learned_it(root, shared_data):
    path = root / "features" / "things-eeg2" / f"{PLAIN}.safetensors"
    table = load_features(path)
    aligned = load_features(path.with_name(f"{ALIGNED}.safetensors"))
    arrays = {"embeddings": np.array(table.embeddings), "layer.6.patches": np.array(aligned.embeddings)}
    write_table(path, arrays, table.document)
    write_run(root, "end", 0.2)
    write_run(root, "inner", 0.4, target="layer.6.patches", recipe="alignvis+target-layer.6.patches")
    for target, top1, rho in (("embeddings", 0.2, 0.39047), ("layer.6.patches", 0.4, 0.85275)):
        (row,) = score_tables(root, [path], shared_data / "things", target=target)
        assert row["target"] == target and [one["top1"] for one in row["retrieval"]] == [top1]
        assert row["surrogate"]["cosine"]["value"] == pytest.approx(rho, abs=6e-6)
        assert ("of layer.6.patches" in alignment_table([row])) == (target != "embeddings")
    with pytest.raises(AlignvisError, match="holds no 'layer.9.class'"):
        score_tables(root, [path], shared_data / "things", target="layer.9.class")
