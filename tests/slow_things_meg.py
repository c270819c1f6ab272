"""The slow twin of `alignvis.recordings.things_meg`, and small subjects to run both on.

The twin goes the way of the published notebooks: mne reads everything, crops, and loops sort trials out. It has no code
in common with the package.
"""

import mne
import numpy as np

COLUMNS = (
    "trial_type image_nr category_nr exemplar_nr test_image_nr things_category_nr things_image_nr things_exemplar_nr "
    "image_path onset image_on image_off responded key_id key_time RT session_nr run_nr"
).split()
NAMES = ["MLO11-1609", "MLF21-1609", "MRO52-1609", "MRT13-1609", "MZC01-1609", "MZO02-1609"]


def write_subject(folder, subject=1, seed=0, change=None, names=NAMES, rate=200.0, samples=281, split_size="1.1MB"):
    """Write a chain of 6 concepts, 2 of them test concepts, over 3 sessions; one image and one test image are shown
    once more. ``change(rows, events, data)`` may spoil it. Returns the rows of the metadata and the names of the parts.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for session in (3, 1, 2):  # not in the order of time, so that sorting shows
        shown = [("exp", concept, session) for concept in range(1, 7)]
        shown += [("test", concept, 9) for concept in (2, 5)] + [("catch", 1, 1)]
        shown += [("exp", 6, 2)] * (session == 2) + [("test", 5, 9)] * (session == 1)
        shown += [("test", 2, 9), ("test", 5, 9)]  # twice in a session, so that run and onset decide
        for place, which in enumerate(rng.permutation(len(shown))):
            kind, concept, exemplar = shown[which]
            row = dict.fromkeys(COLUMNS)
            row |= {"trial_type": kind, "session_nr": session, "run_nr": 1 + (7 * place) % 3, "onset": 40.0 - place}
            if kind == "catch":
                row["image_path"] = "images_catch_meg/catch001.jpg"
            else:
                file = f"a_thing{9 - concept}_{exemplar:02d}b.jpg"
                folder_name = f"images_meg/a_thing{9 - concept}" if kind == "exp" else "images_test_meg"
                row |= {"image_path": f"{folder_name}/{file}", "category_nr": float(concept)}
                row["things_image_nr"] = float(100 * concept + exemplar)
            rows.append(row)
    events = np.array([[7 * i + 1, 0, row["things_image_nr"] or 999999] for i, row in enumerate(rows)], dtype=int)
    data = 3 * rng.standard_normal((len(rows), len(names), samples)).cumsum(axis=2) / 10
    if change is not None:
        data = change(rows, events, data) or data
    epochs = mne.EpochsArray(
        data, mne.create_info(list(names), rate, "mag"), events, -0.1, metadata=rows, verbose="error"
    )
    folder.mkdir(parents=True, exist_ok=True)
    epochs.save(folder / f"preprocessed_P{subject}-epo.fif", split_size=split_size, overwrite=True, verbose="error")
    return rows, sorted(path.name for path in folder.glob("*.fif"))


def read(first, sfreq=200.0, window=(0.0, 1.0), channels=None):
    """Return all (trials, channels, times), the metadata as a list of dicts, and the times."""
    epochs = mne.read_epochs(first, preload=True, verbose="error")
    rows = epochs.metadata
    if sfreq < epochs.info["sfreq"]:
        epochs.resample(sfreq, verbose="error")
    epochs.crop(*window, include_tmax=True, verbose="error")
    if channels is not None:
        epochs = epochs.pick(channels).reorder_channels(list(channels))
    return epochs.get_data(copy=True), rows, epochs.times


def prepare(first, sfreq=200.0, window=(0.0, 1.0), channels=None, sessions=None):
    """Return {part: (ids, responses, sessions)} and the times."""
    data, rows, times = read(first, sfreq, window, channels)
    test_concepts = {row["category_nr"] for row in rows if row["trial_type"] == "test"}
    found = {"train": {}, "test": {}}
    for index, row in enumerate(rows):
        if row["trial_type"] == "catch" or (sessions is not None and row["session_nr"] not in sessions):
            continue
        part = "train" if row["trial_type"] == "exp" else "test"
        if part == "train" and row["category_nr"] in test_concepts:
            continue
        when = (row["session_nr"], row["run_nr"], row["onset"])
        found[part].setdefault(row["things_image_nr"], []).append((when, index))
    tables = {}
    for part, by_image in found.items():
        kept = min(len(shown) for shown in by_image.values())
        ids, responses, of_session = [], [], []
        for image in sorted(by_image):
            trials = [index for _, index in sorted(by_image[image])][:kept]
            file = rows[trials[0]]["image_path"].split("/")[-1]
            ids.append(f"{file[: file.rindex('_')]}/{file}")
            responses.append([data[index] for index in trials])
            of_session.append([rows[index]["session_nr"] for index in trials])
        tables[part] = ids, np.array(responses), np.array(of_session)
    return tables, times
