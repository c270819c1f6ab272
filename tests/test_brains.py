"""What other projects recorded arrives at the right image, or is refused with a sentence."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
import torch

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.exchange import brains
from alignvis.exchange.brains import import_responses, recognise
from alignvis.recordings import filling, things_eeg2
from alignvis.store import load_responses
from tests import foreign_brains as foreign
from tests.test_pickles import F8, NEW, lengths, mutations, text

EEG, MEG = foreign.eeg(), foreign.meg()
PUBLISHED = np.array([1, 1, 3, 3])[[2, 1, 3, 0]]  # sessions of the four repetitions after the published permutation


def write(layout, folder):
    """Write a recording of sub-01 in this layout; returns its folder and what was planted."""
    place = folder / "data" / "sub-01"
    match layout:
        case "nice":
            return foreign.nice(place, EEG), EEG
        case "authors":
            return foreign.nice(place, EEG, wrapped=True, early=0), EEG
        case "ubp":
            place = folder / "data_whiten" / "sub-01"
            return foreign.ubp(place, foreign.ubp_documents(EEG)), EEG
        case "ubp-protocol-2":
            place = folder / "data_whiten" / "sub-01"
            return foreign.ubp(place, foreign.ubp_documents(EEG), protocol=2), EEG
        case "ubp-meg":
            return foreign.ubp(place, foreign.ubp_meg_documents(MEG)), MEG
        case "neurobridge":
            return foreign.neurobridge(place, EEG, 10), EEG
        case "neurobridge-meg":
            return foreign.neurobridge(place, MEG, 12, {}), MEG
        case "zeiss":
            return foreign.zeiss(place, EEG), EEG
        case "alignvis-meg":
            return foreign.alignvis_meg(place, foreign.alignvis_meg_documents(MEG)), MEG
        case "atm-meg":
            return foreign.atm_meg(place, MEG), MEG


NAMES = {
    "nice": "nice", "authors": "nice", "ubp": "ubp", "ubp-protocol-2": "ubp", "ubp-meg": "ubp",
    "neurobridge": "neurobridge", "neurobridge-meg": "neurobridge", "zeiss": "zeiss",
    "alignvis-meg": "alignvis-meg", "atm-meg": "atm-meg",
}  # fmt: skip
UNNAMED = ("nice", "authors", "neurobridge", "neurobridge-meg", "zeiss", "atm-meg")


def image_folder(layout, folder):
    if layout.endswith("meg"):
        return foreign.meg_tree(folder / "images", MEG) if layout in UNNAMED else None
    return foreign.images(folder / "images", EEG)


def holds(result, planted):
    """Compare a table with what was planted, image by image and repetition by repetition."""
    table = store.load_responses(result["path"])
    for part, images, found in (("train", table.train_images, table.train), ("test", table.test_images, table.test)):
        assert sorted(images) == sorted(planted.ids[part])
        for row, image in enumerate(images):
            wanted = planted.data[part][planted.ids[part].index(image)]
            assert len(found[row]) == len(wanted)
            for repetition in range(len(wanted)):
                np.testing.assert_array_equal(found[row, repetition], wanted[repetition])
    assert not set(table.train_images) & set(table.test_images)
    return table


@pytest.mark.parametrize("layout", NAMES)
def test_every_layout_is_recognised_and_comes_in_whole(layout, tmp_path):
    folder, planted = write(layout, tmp_path)
    assert recognise(folder) == NAMES[layout]
    for file in folder.iterdir():
        assert recognise(file) == NAMES[layout], file
    assert recognise(folder.parent) == NAMES[layout]
    result = import_responses(folder, root=tmp_path / "root", images=image_folder(layout, tmp_path))
    table = holds(result, planted)
    assert result["layout"] == NAMES[layout] and result["subject"] == 1 and not result["kept"]
    kind = "meg" if layout.endswith("meg") else "eeg2"
    assert result["dataset"] == f"things-{kind}-{NAMES[layout]}"
    assert result["path"] == str(tmp_path / "root/responses" / result["dataset"] / "sub-01.safetensors")
    assert table.document["sfreq"] == (200 if kind == "meg" else 250) and table.document["tmin"] == 0
    assert table.document["unit"] == ("baseline" if kind == "meg" else "noise") + " standard deviations"
    assert table.document["simulated"] is False
    if layout not in ("ubp-meg", "neurobridge-meg", "alignvis-meg"):
        assert table.document["channels"] == planted.channels
    else:
        assert table.document["channels"] == ["channel-001", "channel-002", "channel-003"]
        assert any("name no channels" in claim for claim in result["claims"])


@pytest.mark.parametrize("layout", NAMES)
def test_claims_say_what_nothing_confirms(layout, tmp_path):
    folder, _ = write(layout, tmp_path)
    images = image_folder(layout, tmp_path)
    claims = " ".join(import_responses(folder, root=tmp_path / "root", images=images)["claims"])
    assert "3.5" not in claims
    assert ("nothing in the files confirms" in claims) == (layout in UNNAMED)
    assert ("no image folder" in claims) == (images is None)
    assert ("when a sample was taken" in claims) == (layout in ("ubp-meg", "neurobridge-meg", "alignvis-meg"))
    again = import_responses(folder, root=tmp_path / "root", images=images)
    assert again["kept"] and " ".join(again["claims"]) == claims


@pytest.mark.parametrize("layout", UNNAMED)
def test_what_names_no_images_needs_the_folder_of_the_images(layout, tmp_path):
    folder, _ = write(layout, tmp_path)
    with pytest.raises(AlignvisError, match="does not name the images"):
        import_responses(folder, root=tmp_path / "root")


def test_images_are_looked_for_where_they_usually_are(tmp_path):
    folder, planted = write("nice", tmp_path)
    foreign.images(tmp_path / "root/images/things-eeg2", EEG)
    holds(import_responses(folder, root=tmp_path / "root"), planted)


@pytest.mark.parametrize("metadata, pictures", [(True, False), (False, True)])
def test_order_comes_from_metadata_or_from_the_sorted_tree(metadata, pictures, tmp_path):
    folder, planted = write("nice", tmp_path)
    images = foreign.images(tmp_path / "images", EEG, metadata, pictures)
    holds(import_responses(folder, root=tmp_path / "root", images=images), planted)


# --- whose ---------------------------------------------------------------------------------------------------------


def test_the_subject_is_read_off_the_path_and_contradictions_are_refused(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    for subject in (1, 2, 12):
        foreign.zeiss(tmp_path / "z" / f"sub-{subject:02d}", EEG, subject)
        foreign.nice(tmp_path / "n" / f"sub-{subject:02d}", EEG)
    root = tmp_path / "root"
    assert import_responses(tmp_path / "n/sub-12", root=root, images=images)["subject"] == 12
    file = tmp_path / "n/sub-02/preprocessed_eeg_test.npy"
    assert import_responses(file, root=root, images=images)["subject"] == 2
    assert import_responses(tmp_path / "z", subject=2, root=root, images=images)["path"].endswith(
        "zeiss/sub-02.safetensors"
    )
    with pytest.raises(AlignvisError, match="sub-01, sub-02, sub-12; say which"):
        import_responses(tmp_path / "n", root=root, images=images)
    with pytest.raises(AlignvisError, match="no subject 3"):
        import_responses(tmp_path / "n", subject=3, root=root, images=images)
    with pytest.raises(AlignvisError, match="says subject 2, and --subject 1 is asked for"):
        import_responses(file, subject=1, root=root, images=images)
    shutil.copytree(tmp_path / "n/sub-01", tmp_path / "somebody")
    with pytest.raises(AlignvisError, match="does not say whose"):
        import_responses(tmp_path / "somebody", root=root, images=images)
    assert import_responses(tmp_path / "somebody", subject=7, root=root, images=images)["subject"] == 7


def test_meg_files_of_several_subjects_in_one_folder_are_told_apart(tmp_path):
    for subject in (1, 2, 11):
        planted = foreign.meg(seed=subject)
        foreign.alignvis_meg(tmp_path / "preprocessed_meg", foreign.alignvis_meg_documents(planted), subject)
    for subject in (1, 11):
        result = import_responses(tmp_path / "preprocessed_meg", subject=subject, root=tmp_path / "root")
        holds(result, foreign.meg(seed=subject))
    file = tmp_path / "preprocessed_meg/test_sub2.pkl"
    holds(import_responses(file, root=tmp_path / "root"), foreign.meg(seed=2))
    with pytest.raises(AlignvisError, match="1 and 2 and 11; give one file"):
        import_responses(tmp_path / "preprocessed_meg", root=tmp_path / "root")
    with pytest.raises(AlignvisError, match="has no train_sub04.pkl"):
        import_responses(tmp_path / "preprocessed_meg", subject=4, root=tmp_path / "root")


# --- what the layouts are known for --------------------------------------------------------------------------------


def test_three_hundred_times_for_two_hundred_and_fifty_samples_mean_the_last_ones(tmp_path):
    planted = foreign.eeg(concepts=1, tests=1, samples=250)
    folder = foreign.nice(tmp_path / "sub-03", planted)
    result = import_responses(folder, root=tmp_path, images=foreign.images(tmp_path / "images", planted))
    document = holds(result, planted).document
    assert (document["sfreq"], document["tmin"]) == (250.0, 0.0)


def test_the_authors_files_get_the_times_at_which_they_were_measured_and_that_is_said(tmp_path):
    planted = foreign.eeg(concepts=1, tests=1, samples=100)
    folder = foreign.nice(tmp_path / "sub-01", planted, wrapped=True, early=0, rate=100)
    for path in folder.iterdir():
        document = np.load(path, allow_pickle=True).item()
        np.save(path, document | {"times": np.arange(-20, 80) / 100})
    images = foreign.images(tmp_path / "images", planted)
    result = import_responses(folder, root=tmp_path, images=images)
    found = holds(result, planted).document
    things_eeg2.prepare(tmp_path, subject=1, images=images, out=tmp_path / "prepared.safetensors")
    prepared = load_responses(tmp_path / "prepared.safetensors").document
    assert (found["tmin"], found["sfreq"]) == (prepared["tmin"], prepared["sfreq"])
    assert (found["tmin"], found["sfreq"]) == (pytest.approx(-0.2035, abs=1e-4), pytest.approx(100.1, abs=0.01))
    assert any("3.5 to 4.5 ms" in claim for claim in result["claims"])


def test_times_and_channels_of_other_kinds_are_refused(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    odd = [np.array(1.0), np.zeros((3, 40)), np.array(["a"] * 12), np.zeros(12, bool), {}, 5, np.array([]), [None] * 12]
    for key, match in (("times", "times do not fit"), ("ch_names", "does not name each of them once")):
        for value in odd:
            documents = foreign.ubp_documents(EEG)
            documents["train"][key] = value
            folder = foreign.ubp(tmp_path / "x_whiten" / "sub-01", documents)
            with pytest.raises(AlignvisError, match=match):
                import_responses(folder, root=tmp_path, images=images)


def test_parts_of_different_channels_or_times_are_refused(tmp_path):
    for key, value in (("ch_names", EEG.channels[::-1]), ("times", np.arange(12) / 250 + 0.1)):
        documents = foreign.ubp_documents(EEG)
        documents["test"][key] = value
        folder = foreign.ubp(tmp_path / "sub-01", documents)
        with pytest.raises(AlignvisError, match="differ in their channels or times"):
            import_responses(folder, root=tmp_path)


def test_times_that_do_not_fit_the_samples_are_refused(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    folder = foreign.zeiss(tmp_path / "sub-01", EEG)
    meta = json.loads((folder / "meta_sub-01.json").read_text())
    for times in (
        [0.0] * 12,
        list(range(11)),
        [*range(11), "12"],
        [-0.3 + 0.004 * i for i in range(40)],
        5,
        [1e300] * 12,
    ):
        (folder / "meta_sub-01.json").write_text(json.dumps(meta | {"times": times}))
        with pytest.raises(AlignvisError, match="times do not fit"):
            import_responses(folder, root=tmp_path, images=images)
    for channels in (["O1"] * 4, ["O1"], 4, ["O1", "O2", "Oz", 3]):
        (folder / "meta_sub-01.json").write_text(json.dumps(meta | {"ch_names": channels}))
        with pytest.raises(AlignvisError, match="does not name each of them once"):
            import_responses(folder, root=tmp_path, images=images)
    for content in ("[]", "{", '{"ch_names": NaN}', "[" * 100_000):
        (folder / "meta_sub-01.json").write_text(content)
        with pytest.raises(AlignvisError, match=r"meta_sub-01.json (holds a list|is not readable)"):
            import_responses(folder, root=tmp_path, images=images)
    with open(folder / "meta_sub-01.json", "wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(AlignvisError, match="take far fewer"):
        import_responses(folder, root=tmp_path, images=images)
    (folder / "meta_sub-01.json").unlink()
    with pytest.raises(AlignvisError, match="has no meta_sub-01.json or meta.json"):
        import_responses(folder, root=tmp_path, images=images)


def test_sessions_of_the_published_order_are_given_and_others_are_unknown(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    folder = foreign.nice(tmp_path / "sub-01", EEG)
    result = import_responses(folder, root=tmp_path / "a", images=images)
    table = store.load_responses(result["path"])
    assert (table.train_session == PUBLISHED).all() and not table.test_session.any()
    assert any("0 stands for that" in claim for claim in result["claims"])


def test_eighty_test_repetitions_are_twenty_a_session(tmp_path):
    planted = foreign.eeg(concepts=1, tests=1)
    repeated = dataclasses.replace(planted, data=planted.data | {"test": np.tile(planted.data["test"], (1, 10, 1, 1))})
    folder = foreign.nice(tmp_path / "sub-01", repeated)
    result = import_responses(folder, root=tmp_path, images=foreign.images(tmp_path / "images", planted))
    sessions = store.load_responses(result["path"]).test_session
    assert np.bincount(sessions[0]).tolist() == [0, 20, 20, 20, 20] and np.any(np.diff(sessions[0].astype(int)) < 0)
    assert any("published order of merging" in claim for claim in result["claims"])


def test_ubp_counts_sessions_from_zero(tmp_path):
    folder, planted = write("ubp", tmp_path)
    table = store.load_responses(import_responses(folder, root=tmp_path / "root")["path"])
    np.testing.assert_array_equal(table.train_session, planted.sessions["train"])
    np.testing.assert_array_equal(table.test_session, planted.sessions["test"])
    for session in (EEG.sessions["train"] - 1.5, EEG.sessions["train"] - 2.0, EEG.sessions["train"][:2] * 1.0, [1.0]):
        documents = foreign.ubp_documents(EEG)
        documents["train"]["session"] = session
        foreign.ubp(folder, documents)
        with pytest.raises(AlignvisError, match="session is"):
            import_responses(folder, root=tmp_path / "other")


def test_ubp_rows_in_another_order_are_joined_by_their_names(tmp_path):
    documents = foreign.ubp_documents(EEG)
    shuffle = np.random.default_rng(1).permutation(len(EEG.ids["train"]))
    for key in ("eeg", "label", "img", "text", "session"):
        documents["train"][key] = documents["train"][key][shuffle]
    folder = foreign.ubp(tmp_path / "sub-01", documents)
    images = foreign.images(tmp_path / "images", EEG)
    result = import_responses(folder, root=tmp_path, images=images)
    holds(result, EEG)
    assert any("joined by their names" in claim for claim in result["claims"])
    assert not any("joined" in claim and "test.pt" in claim for claim in result["claims"])


def test_ubp_without_whitening_has_no_known_unit(tmp_path):
    for name in ("Preprocessed_data_250Hz", "Preprocessed_data_250Hz_no_whiten"):
        folder = foreign.ubp(tmp_path / name / "sub-01", foreign.ubp_documents(EEG))
        result = import_responses(folder, root=tmp_path / name)
        assert store.load_responses(result["path"]).document["unit"] == "unknown"
        assert any("unit of the values is unknown" in claim for claim in result["claims"])


def test_ubp_names_may_be_a_list_an_array_of_objects_or_one_an_image(tmp_path):
    for number, change in enumerate(
        (
            lambda names: names.tolist(),
            lambda names: names.astype(object),
            lambda names: names[:, 0],
            lambda names: list(names[:, 0]),
        )
    ):
        documents = foreign.ubp_documents(EEG)
        for part in documents:
            documents[part]["img"] = change(documents[part]["img"])
        folder = foreign.ubp(tmp_path / f"{number}" / "sub-01", documents)
        holds(import_responses(folder, root=tmp_path / f"{number}"), EEG)


def test_ubp_names_that_disagree_are_refused(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)

    def changed(part, key, place, value, match, with_images=None):
        documents = foreign.ubp_documents(EEG)
        names = documents[part][key].astype(object)
        names[place] = value
        documents[part][key] = names
        folder = foreign.ubp(tmp_path / "sub-01", documents)
        with pytest.raises(AlignvisError, match=match) as caught:
            import_responses(folder, root=tmp_path / "root", images=with_images)
        assert "\n" not in str(caught.value)

    first, second = (image.replace("training", "train") for image in EEG.ids["train"][:2])
    changed(
        "train", "text", 0, "bat1", "text calls the picture 'training_images/00001_aardvark/aardvark_01s.jpg' 'bat1'"
    )
    changed("train", "img", (0, 3), second, "repetitions of row 1 are .*_01s.jpg' and .*_02b.jpg'")
    changed("train", "img", 0, second, "more than one row for the image .*_02b.jpg'")
    changed("train", "img", 0, EEG.ids["test"][0], "which is of the other part")
    changed("test", "img", 0, first, "which is of the other part")
    changed("test", "img", 0, 7, "no path of a file")
    changed("test", "img", 0, "test_images/../x.jpg", "no path of a file")
    changed("test", "img", 0, "somewhere/a/b.jpg", "names the picture 'somewhere/a/b.jpg'")
    changed("train", "img", 0, "train_images/00001_aardvark/aardvark_99s.jpg", "names 1 pictures that", images)


def test_the_wrong_image_folder_is_refused(tmp_path):
    images = foreign.images(tmp_path / "images", foreign.eeg(concepts=5))
    for layout, match in (
        ("nice", "responses to 60 images and .* has 50 train images"),
        ("neurobridge", "responses to 60 images and .* has 50 train images"),
        ("zeiss", "has the condition 5[1-9]|has the condition 60"),
        ("ubp", "names 10 pictures that"),
    ):
        folder, _ = write(layout, tmp_path / layout)
        with pytest.raises(AlignvisError, match=match):
            import_responses(folder, root=tmp_path / "root", images=images)
    few = foreign.images(tmp_path / "few", foreign.eeg(concepts=2))
    with pytest.raises(AlignvisError, match="4 sessions of 30 conditions, and .* has 20 train images"):
        import_responses(tmp_path / "zeiss/data/sub-01", root=tmp_path / "root", images=few)
    more = foreign.images(tmp_path / "more", foreign.eeg(concepts=7))
    for layout in ("nice", "neurobridge"):
        with pytest.raises(AlignvisError, match="responses to 60 images and .* has 70 train images"):
            import_responses(tmp_path / layout / "data/sub-01", root=tmp_path / "root", images=more)
    folder, _ = write("zeiss", tmp_path)
    with pytest.raises(AlignvisError, match="expected each condition of .* equally often"):
        import_responses(folder, root=tmp_path / "root", images=more)


def test_missing_pictures_are_counted_and_the_first_is_shown(tmp_path):
    folder, _ = write("ubp", tmp_path)
    images = foreign.images(tmp_path / "images", EEG)
    (images / EEG.ids["train"][3]).unlink()
    with pytest.raises(AlignvisError, match=f"1 of the 60 train images .*{EEG.ids['train'][3]}"):
        import_responses(folder, root=tmp_path / "root", images=images)
    none = foreign.images(tmp_path / "none", EEG, pictures=False)
    claims = import_responses(folder, root=tmp_path / "root", images=none)["claims"]
    assert sum("no picture of the" in claim for claim in claims) == 2


def test_zeiss_sessions_are_joined_through_their_conditions(tmp_path):
    folder, planted = write("zeiss", tmp_path)
    images = foreign.images(tmp_path / "images", EEG)
    table = holds(import_responses(folder, root=tmp_path / "root", images=images), planted)
    np.testing.assert_array_equal(table.train_session, planted.sessions["train"])
    np.testing.assert_array_equal(table.test_session, planted.sessions["test"])
    path = folder / "img_conditions_training_sub-01.npy"
    codes = np.load(path)
    for changed, match in (
        (codes - 1, "has the condition 0,"),
        (codes * 1.0, "needs a whole number"),
        (codes[:, :-1], "needs a whole number"),
        (np.where(codes == 3, 4, codes), "has the condition 3 0 times"),
    ):
        np.save(path, changed)
        with pytest.raises(AlignvisError, match=match):
            import_responses(folder, root=tmp_path / "other", images=images)


def test_zeiss_axis_may_keep_the_time_before_onset(tmp_path):
    planted = foreign.eeg(samples=12)
    folder = foreign.zeiss(tmp_path / "sub-01", planted)
    times = ((np.arange(12) - 5) / 250).tolist()
    (folder / "meta_sub-01.json").write_text(json.dumps({"ch_names": planted.channels, "times": times}))
    result = import_responses(folder, root=tmp_path, images=foreign.images(tmp_path / "images", planted))
    assert holds(result, planted).document["tmin"] == -0.02


def test_neurobridge_info_may_lie_beside_or_above_and_names_the_unit(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    folder = foreign.neurobridge(tmp_path / "a/sub-01", EEG, 10, beside=True)
    holds(import_responses(folder, root=tmp_path, images=images), EEG)
    (folder / "info.json").write_text(json.dumps({"ch_names": EEG.channels, "normalization": "zscore"}))
    result = import_responses(folder, root=tmp_path / "b", images=images)
    assert store.load_responses(result["path"]).document["unit"] == "unknown"
    (folder / "info.json").unlink()
    assert recognise(folder) is None
    with pytest.raises(AlignvisError, match="no recording in a layout that is known"):
        import_responses(folder, root=tmp_path / "c", images=images)


def test_arrays_by_concept_are_held_against_the_folders(tmp_path):
    folder = foreign.neurobridge(tmp_path / "a/sub-01", EEG, 12)
    with pytest.raises(AlignvisError, match="12 images of each concept, and image 11 in"):
        import_responses(folder, root=tmp_path, images=foreign.images(tmp_path / "images", EEG))


def test_fortran_order_is_read_by_its_indices(tmp_path):
    folder = foreign.neurobridge(tmp_path / "a/sub-01", EEG, 10)
    np.save(folder / "train.npy", np.asfortranarray(np.load(folder / "train.npy")))
    holds(import_responses(folder, root=tmp_path, images=foreign.images(tmp_path / "images", EEG)), EEG)


def test_meg_trials_are_gathered_by_picture_wherever_they_stand(tmp_path):
    documents = foreign.alignvis_meg_documents(MEG)
    order = np.random.default_rng(2).permutation(60)
    test = documents["test"] = {key: value[order] for key, value in documents["test"].items()}
    folder = foreign.alignvis_meg(tmp_path, documents)
    table = store.load_responses(import_responses(folder, root=tmp_path / "root")["path"])
    for row, image in enumerate(table.test_images):
        trials = [trial for trial, path in enumerate(test["meg_images"]) if path.split("/")[1] == image.split("/")[1]]
        np.testing.assert_array_equal(table.test[row], test["meg_data"][trials])


def test_meg_names_and_labels_that_disagree_are_refused(tmp_path):
    def changed(part, key, place, value, match):
        documents = foreign.alignvis_meg_documents(MEG)
        documents[part][key][place] = value
        folder = foreign.alignvis_meg(tmp_path, documents)
        with pytest.raises(AlignvisError, match=match):
            import_responses(folder, root=tmp_path / "root")

    changed("train", "meg_labels", 3, 99, "meg_labels has both 1 and 99 for the concept 'aardvark'")
    changed("train", "meg_labels", slice(0, 12), 2, "one label for several of its 6 concepts")
    changed("train", "meg_images", 0, "images_test_meg/hammer_14n.jpg", "of the other part")
    changed("train", "meg_images", 0, "aardvark_01s.jpg", "names the picture 'aardvark_01s.jpg'")
    changed("train", "meg_images", 0, "images_meg/aardvark/aardvark_02s.jpg", "between 1 and 2 trials of an image")
    changed("test", "meg_images", 0, "images_test_meg/hammer.jpg", "does not say its concept")
    changed("test", "meg_images", 0, None, "holds a NoneType")
    documents = foreign.alignvis_meg_documents(MEG)
    documents["test"]["meg_images"] = np.array(["images_meg/bat1/bat1_01s.jpg"] * 60, object)
    documents["test"]["meg_labels"][:] = 1
    with pytest.raises(AlignvisError, match="share 1 images .*bat1/bat1_01s.jpg"):
        import_responses(foreign.alignvis_meg(tmp_path, documents), root=tmp_path / "root")


def test_meg_without_names_needs_the_pictures_that_were_shown(tmp_path):
    folder, _ = write("atm-meg", tmp_path)
    things = tmp_path / "things"
    for image in MEG.ids["train"]:
        (things / image).parent.mkdir(parents=True, exist_ok=True)
        (things / image).touch()
    with pytest.raises(AlignvisError, match="has neither image_metadata.npy nor training_images"):
        import_responses(folder, root=tmp_path / "root", images=things)
    fewer = foreign.meg_tree(tmp_path / "fewer", foreign.meg(concepts=5))
    with pytest.raises(AlignvisError, match="responses to 72 images and .* has 60 train images"):
        import_responses(folder, root=tmp_path / "root", images=fewer)


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_or_too_large_are_refused_and_nothing_is_kept(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    for value in (np.nan, np.inf, 1e6):
        planted = foreign.eeg()
        planted.data["test"][1, 2, 3, 4] = value
        folder = foreign.nice(tmp_path / "sub-01", planted)
        with pytest.raises(AlignvisError, match="channel Oz has the value"):
            import_responses(folder, root=tmp_path / "root", images=images)
        assert not list((tmp_path / "root").rglob("*.safetensors*"))
    result = import_responses(folder, root=tmp_path / "root", images=images, dtype="float32")
    assert result["dtype"] == "float32" and store.load_responses(result["path"]).test[1, 2, 3, 4] == 1e6
    with pytest.raises(AlignvisError, match="not 'float64'"):
        import_responses(folder, root=tmp_path / "root", images=images, dtype="float64")


@pytest.mark.parametrize("layout", ["zeiss", "ubp", "alignvis-meg"])
def test_blocks_and_interruptions_do_not_change_a_byte(layout, tmp_path, monkeypatch):
    folder, _ = write(layout, tmp_path)
    images = image_folder(layout, tmp_path)
    whole = import_responses(folder, root=tmp_path / "whole", images=images)["path"]
    monkeypatch.setattr(brains, "VALUES", 500)
    monkeypatch.setattr(filling, "CHECKPOINT", 0)
    calls = iter(range(7))

    def interrupted(done, total, text):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_responses(folder, root=tmp_path / "parts", images=images, progress=interrupted)
    done = []
    parts = import_responses(folder, root=tmp_path / "parts", images=images, progress=lambda *said: done.append(said))
    a, b = (store.load_responses(path) for path in (whole, parts["path"]))
    for name in ("train", "test", "train_session", "test_session"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.document == b.document and len(done) > 8 and done[-1][0] == done[-1][1]


def test_a_table_of_other_files_is_not_passed_off_as_this_one(tmp_path):
    images = foreign.images(tmp_path / "images", EEG)
    folder = foreign.nice(tmp_path / "sub-01", EEG)
    import_responses(folder, root=tmp_path / "root", images=images)
    foreign.nice(folder, EEG, wrapped=True)
    with pytest.raises(AlignvisError, match="was made with bytes"):
        import_responses(folder, root=tmp_path / "root", images=images)
    assert not import_responses(folder, root=tmp_path / "root", images=images, overwrite=True)["kept"]
    assert import_responses(folder, root=tmp_path / "root", images=images, dataset="mine")["dataset"] == "mine"


# --- what is no recording ------------------------------------------------------------------------------------------


def test_other_files_are_not_taken_for_recordings(tmp_path):
    torch.save({"img_features": torch.zeros(2, 3)}, tmp_path / "features.pt")
    np.save(tmp_path / "features.npy", np.zeros((5, 1, 3), np.float32))
    np.save(tmp_path / "five.npy", np.zeros((1, 1, 1, 1, 1), np.float32))
    np.save(tmp_path / "image_metadata.npy", {"train_img_files": []})
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8")
    for name in ("features.pt", "features.npy", "five.npy", "image_metadata.npy", "picture.jpg", ""):
        assert recognise(tmp_path / name) is None
    with pytest.raises(AlignvisError, match="no recording in a layout that is known"):
        import_responses(tmp_path, root=tmp_path)


def test_recognising_reads_no_responses(tmp_path):
    """A file with room for 5 GB of responses that were never written is named in a moment."""
    size = 5 * 2**30
    path = tmp_path / "preprocessed_eeg_training.npy"
    with open(path, "wb") as file:
        file.write(b"\x80\x04}" + text("preprocessed_eeg_data") + NEW + b"(K\x01" + lengths(size // 32, 1, 1, 4) + F8)
        file.write(b"\x89\x8e" + size.to_bytes(8, "little"))
        file.seek(size, 1)
        file.write(b"tbs" + text("ch_names") + b"Ns" + text("times") + b"Ns.")
    begun = time.perf_counter()
    assert recognise(path) == recognise(tmp_path) == "nice"
    assert time.perf_counter() - begun < 0.2
    path.unlink()


def test_half_a_recording_says_which_file_is_missing(tmp_path):
    folder, _ = write("nice", tmp_path)
    (folder / "preprocessed_eeg_training.npy").unlink()
    assert recognise(folder) == "nice"
    with pytest.raises(AlignvisError, match="has no preprocessed_eeg_training.npy"):
        import_responses(folder, root=tmp_path / "root", images=foreign.images(tmp_path / "images", EEG))


@pytest.mark.parametrize("layout", ["nice", "neurobridge", "alignvis-meg", "atm-meg"])
def test_arrays_of_another_shape_are_refused(layout, tmp_path):
    folder, planted = write(layout, tmp_path)
    other = foreign.meg(channels=("MLO11-1609",)) if layout.endswith("meg") else foreign.eeg(channels=("O1",))
    there = tmp_path / "other"
    match layout:
        case "nice":
            foreign.nice(there, other)
        case "neurobridge":
            foreign.neurobridge(there, other, 10)
        case "alignvis-meg":
            foreign.alignvis_meg(there, foreign.alignvis_meg_documents(other))
        case "atm-meg":
            foreign.atm_meg(there, other)
    file = next(there.glob("*test*"))
    shutil.copy(file, folder / file.name)
    with pytest.raises(AlignvisError, match="channels x times"):
        import_responses(folder, root=tmp_path / "root", images=image_folder(layout, tmp_path))


@pytest.mark.parametrize("layout", NAMES)
def test_damaged_recordings_are_read_or_refused(layout, tmp_path):
    folder, _ = write(layout, tmp_path)
    images = image_folder(layout, tmp_path)
    files = sorted(folder.iterdir())
    whole = {file: file.read_bytes() for file in files}
    outcomes = []
    for number, file in enumerate(files * 5):
        for content in mutations([whole[file]], 2, seed=number):
            file.write_bytes(content)
            begun = time.perf_counter()
            try:
                import_responses(folder, root=tmp_path / "root", images=images, subject=1, overwrite=True)
                outcomes.append("read")
            except AlignvisError as error:
                assert "\n" not in str(error)
                outcomes.append("refused")
            assert time.perf_counter() - begun < 1
        file.write_bytes(whole[file])
    assert {"read", "refused"} == set(outcomes)
