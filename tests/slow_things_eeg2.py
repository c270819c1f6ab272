"""The slow twin of `alignvis.recordings.things_eeg2`, and raw subjects to run both on.

The twin goes the published way: mne for events, epochs and resampling, all in memory, a loop for each step. It has no
code in common with the package.
"""

from pathlib import Path

import mne
import numpy as np
from scipy.linalg import fractional_matrix_power

RECORDED = (
    "Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz C4 T8 FT10 FC6 FC2 F4 F8 Fp2 "
    "AF7 AF3 "
    "AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2 AF4 AF8"
).split()
NICE = (
    "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz "
    "C2 C4 "
    "C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"
).split()
SEED = 20200220


def write_recording(path, data, names=(*RECORDED, "stim"), sfreq=1000):
    """Write one raw file, exactly the published dictionary."""
    content = {"raw_eeg_data": data, "ch_names": list(names), "ch_types": ["eeg"] * (len(names) - 1) + ["stim"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(
        path, np.array(content | {"sfreq": sfreq, "highpass": 0.01, "lowpass": 100}, dtype=object), allow_pickle=True
    )


def write_metadata(folder, concepts, per_concept, test):
    """Write image_metadata.npy; the THINGS numbers differ from the local ones, so a mix-up shows."""
    names = [f"{i // per_concept + 1:05d}_thing{i // per_concept}" for i in range(concepts * per_concept)]
    tests = [f"{i + 1:05d}_other{i}" for i in range(test)]
    content = {
        "train_img_concepts": names,
        "train_img_concepts_THINGS": [f"1{name}" for name in names],
        "train_img_files": [f"{name[6:]}_{i % per_concept:02d}b.jpg" for i, name in enumerate(names)],
        "test_img_concepts": tests,
        "test_img_concepts_THINGS": [f"1{name}" for name in tests],
        "test_img_files": [f"{name[6:]}_06s.jpg" for name in tests],
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "image_metadata.npy", np.array(content, dtype=object), allow_pickle=True)


def recording(rng, codes, lead=300, tail=1100, asynchrony=200):
    """Make (64, samples) of brown noise that is correlated over channels, with offsets, and a pulse for each code."""
    samples = lead + asynchrony * len(codes) + tail
    mixing = np.eye(63) + 0.25 * rng.standard_normal((63, 63)) / 2
    noise = rng.standard_normal((63, samples))
    drift = np.cumsum(rng.standard_normal((63, samples)), axis=1)
    data = np.zeros((64, samples))
    data[:63] = 1e-6 * (mixing @ (5 * noise + 0.3 * drift)) + 2e-2 * rng.standard_normal((63, 1))
    onsets = lead + asynchrony * np.arange(len(codes)) + rng.integers(-3, 4, len(codes))
    data[63, onsets] = codes
    return data


def write_subject(root, seed=0, concepts=8, per_concept=2, test=2, train_repetitions=2, test_repetitions=20):
    """Write root/raw/sub-01 and root/images: sessions 1 and 2 share the concepts, and so do 3 and 4, otherwise "
    "divided."""
    rng = np.random.default_rng(seed)
    write_metadata(root / "images", concepts, per_concept, test)
    for pair in ((1, 2), (3, 4)):
        halves = np.array_split(rng.permutation(concepts), 2)
        for session, half in zip(pair, halves, strict=True):
            shown = (half[:, None] * per_concept + np.arange(per_concept)).ravel() + 1
            train = np.concatenate([np.repeat(shown, train_repetitions), shown[:3], shown[:1]])
            tests = np.concatenate([np.repeat(np.arange(test) + 1, test_repetitions), [1, test, test]])
            for name, codes in (("training", train), ("test", tests)):
                codes = np.concatenate([rng.permutation(codes), [99999]])
                codes[[1, -1]] = codes[[-1, 1]]
                folder = root / "raw" / "sub-01" / f"ses-{session:02d}"
                write_recording(folder / f"raw_eeg_{name}.npy", recording(rng, codes.astype(float)))
    return root / "raw", root / "images"


def shuffled(n):
    """Do what sklearn.utils.shuffle does: shuffle the numbers 0 .. n - 1 in place with a fresh generator."""
    order = np.arange(n)
    np.random.RandomState(SEED).shuffle(order)
    return order


def shrunk(trial):
    """Shrink one trial's covariance as scikit-learn writes it, on channels brought to unit variance."""
    x = trial.T
    n, p = x.shape
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    empirical = z.T @ z / n
    mu = np.trace(empirical) / p
    z2 = z**2
    beta_ = np.sum(z2.T @ z2)
    delta_ = np.sum((z.T @ z) ** 2) / n**2
    beta = (beta_ / n - delta_) / (p * n)
    delta = (delta_ - 2 * mu * np.trace(empirical) + p * mu**2) / p
    shrinkage = min(beta, delta) / delta
    result = (1 - shrinkage) * empirical
    result.flat[:: p + 1] += shrinkage * mu
    return scale[:, None] * result * scale[None, :]


def epochs(path, channels, sfreq, first, last):
    """Return (trials, channels, times) in the order shown, their codes, and the times, by mne alone."""
    content = np.load(path, allow_pickle=True).item()
    info = mne.create_info(content["ch_names"], content["sfreq"], content["ch_types"])
    raw = mne.io.RawArray(content["raw_eeg_data"], info, verbose=False)
    events = mne.find_events(raw, stim_channel="stim", verbose=False)
    events = events[events[:, 2] != 99999]
    raw.pick(channels)
    cut = mne.Epochs(raw, events, tmin=-0.2, tmax=last, baseline=(None, 0), preload=True, verbose=False)
    if sfreq < content["sfreq"]:
        cut.resample(sfreq, verbose=False)
    keep = cut.times >= first - 1e-9
    return cut.get_data(copy=False)[:, :, keep], cut.events[:, 2], cut.times[keep]


def prepare(folder, sessions=(1, 2, 3, 4), channels=NICE, sfreq=250, window=(0.0, 1.0), repetitions=(2, 20)):
    """Return {part: (codes, responses (images, repetitions, channels, times), sessions)} and the times of one "
    "subject."""
    merged = {"train": {}, "test": {}}
    for session in sessions:
        place = Path(folder) / f"ses-{session:02d}"
        chosen = {}
        for part, name, keep in (("train", "training", repetitions[0]), ("test", "test", repetitions[1])):
            data, codes, times = epochs(place / f"raw_eeg_{name}.npy", list(channels), sfreq, *window)
            for code in sorted(set(codes.tolist())):
                trials = [trial for trial, shown in zip(data, codes, strict=True) if shown == code]
                chosen[part, code] = [trials[i] for i in shuffled(len(trials))[:keep]]
        noise = np.mean([shrunk(t) for (part, _), trials in chosen.items() if part == "train" for t in trials], axis=0)
        whiten = fractional_matrix_power(noise, -0.5)
        for (part, code), trials in chosen.items():
            merged[part].setdefault(code, []).extend((whiten @ trial, session) for trial in trials)
    tables = {}
    for part, by_code in merged.items():
        count = min(len(trials) for trials in by_code.values())
        order = shuffled(count)
        codes = sorted(by_code)
        data = np.array([[by_code[code][i][0] for i in order] for code in codes])
        tables[part] = (codes, data, np.array([[by_code[code][i][1] for i in order] for code in codes]))
    return tables, times
