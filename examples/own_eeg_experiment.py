"""An EEG experiment of one's own, from the raw recording to a score.

The recording is MADE UP here, and so is the brain: it answers to the colours of a picture, and its score says nothing
about people. With a real experiment, leave `make_up_experiment` out and give your own files to `prepare_own`: any
recording that mne reads (BrainVision, EDF, BDF, EEGLAB, FIF, CTF) and, for each, a table of events.

    python own_eeg_experiment.py --out my-experiment
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import alignvis

CHANNELS = "P7 P3 Pz P4 P8 PO7 POz PO8 O1 Oz O2".split()
RATE = 250  # samples a second


def make_up_experiment(root: Path, rng: np.random.Generator) -> None:
    """Draw pictures of coloured fields, show each several times, and record a brain that answers to the colours."""
    shown = []  # (image id, split): the id is the picture's path below its folder; its folder is its concept
    fields = {}
    for concept in range(70):
        split, pictures = ("train", 5) if concept < 30 else ("test", 1)  # no concept of the test is trained on
        for number in range(pictures):
            image = f"{split}/thing{concept:02d}/thing{concept:02d}_{number}.png"
            fields[image] = rng.uniform(0, 255, (2, 2, 3))
            path = root / "images" / "mine" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.kron(fields[image], np.ones((48, 48, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(path)
            shown += [(image, split)] * (3 if split == "train" else 10)
    rng.shuffle(shown)
    (root / "images" / "mine" / "simulated.json").write_text('{"simulated": true}')  # so that its features say so too

    onsets = 1.0 + 0.45 * np.arange(len(shown))  # seconds after the first sample of the recording
    volts = 1.5e-5 * rng.standard_normal((len(CHANNELS), int((onsets[-1] + 2) * RATE)))
    answers = rng.standard_normal((12, len(CHANNELS), 4))  # of 12 colour values, in four waves
    times = np.arange(0, 0.4, 1 / RATE)
    waves = np.exp(-(((times - np.array([[0.1], [0.16], [0.22], [0.3]])) / 0.03) ** 2))
    for onset, (image, _) in zip(onsets, shown, strict=True):
        start = round(onset * RATE)
        colours = (fields[image].ravel() - 127.5) / 73.6
        volts[:, start : start + len(times)] += 2e-6 * np.einsum("f,fcw,wt->ct", colours, answers, waves)
    write_brainvision(root / "raw" / "sub-01.vhdr", volts)
    rows = [f"{onset:.4f}\t{image}\t{split}" for onset, (image, split) in zip(onsets, shown, strict=True)]
    (root / "raw" / "sub-01.tsv").write_text("\n".join(["onset\timage\tsplit", *rows]) + "\n")


def write_brainvision(path: Path, volts: np.ndarray) -> None:
    """Write a recording as an amplifier would: 16-bit integers of 0.1 microvolts, (channels, samples)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.rint(volts.T / 1e-7).astype("<i2").tofile(path.with_suffix(".eeg"))
    channels = [f"Ch{number}={name},,0.1,µV" for number, name in enumerate(CHANNELS, start=1)]
    header = ["Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]", "Codepage=UTF-8",
              f"DataFile={path.stem}.eeg", "DataFormat=BINARY", "DataOrientation=MULTIPLEXED",
              f"NumberOfChannels={len(CHANNELS)}", f"SamplingInterval={1_000_000 // RATE}", "[Binary Infos]",
              "BinaryFormat=INT_16", "[Channel Infos]", *channels]  # fmt: skip
    path.write_text("\n".join(header) + "\n", encoding="utf-8")


def main(root: Path) -> None:
    make_up_experiment(root, np.random.default_rng(0))
    print(f"SIMULATED: made up an experiment in {root}: pictures, one recording, one table of events")

    # A dataset whose name ends in -simulated says in every table and figure that nobody was recorded.
    responses = root / "responses" / "mine-simulated" / "sub-01.safetensors"
    told = alignvis.prepare_own(
        [root / "raw" / "sub-01.vhdr"],
        events=[root / "raw" / "sub-01.tsv"],
        subject=1,
        dataset="mine-simulated",
        out=responses,
        window=(0.0, 0.4),  # seconds after the picture came on
    )
    for note in told["warnings"]:
        print("note:", note)
    table = alignvis.load_responses(responses)
    print(f"responses, (images, repetitions, channels, times): train {table.train.shape}, test {table.test.shape}")

    encoder = alignvis.load_encoder("lowlevel", root / "weights")  # needs none; `alignvis list` names all the others
    (features,) = alignvis.extract(root / "images" / "mine", [encoder], root / "features" / "mine")
    print(f"features: {features['images']} images x {features['dim']}")

    recipe = alignvis.Recipe(batch=32, epochs=20, rate=2e-3, schedule="cosine", validation="concept")
    run = root / "runs" / "mine"
    alignvis.train(responses, Path(features["table"]), run, encoder="linear", recipe=recipe)
    scores = alignvis.evaluate(run)
    low, high = scores["top1_interval"]
    print(
        f"SIMULATED brain: the right one of {scores['gallery']} pictures was named first for {scores['top1']:.0%} of "
        f"{scores['n']} test responses (95 % interval {low:.0%} to {high:.0%}; chance {scores['top1_chance']:.0%})"
    )
    print(f"next: alignvis --root {root} report")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("own-eeg-experiment"), help="new folder for all of it")
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists; name a new folder with --out")
    main(chosen.out)
