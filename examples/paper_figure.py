"""A figure for a paper: image encoders beside their unaligned twins, with intervals, as SVG, PDF or PNG.

With `--root` it draws the scored runs of that folder, however they were made. Without, it makes a SIMULATED study
first: three brains, and two made-up image embeddings of which one is only called aligned. Those numbers say nothing
about people.

    python paper_figure.py --root my-study --out figure.svg
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import alignvis
from alignvis.figures.scores import draw_scores
from alignvis.figures.style import save

SET = "things-eeg2-simulated"
SUBJECTS = (1, 2, 3)


def simulate_study(root: Path) -> None:
    """Make recordings, two embeddings that are each other's twins, and a scored run for each brain and embedding."""
    simulated = alignvis.simulate(root, subjects=SUBJECTS, concepts=20, test=30, test_repetitions=1, noise=0.6)
    pictures = root / "images" / SET
    images = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    tables = {}
    for name, side, twin in (("fine", 6, "fine_noalign"), ("fine_noalign", 2, None)):  # mean colours of so many fields
        small = [
            Image.open(pictures / image).convert("RGB").resize((side, side), Image.Resampling.BOX) for image in images
        ]
        embeddings = np.stack([np.asarray(one, dtype=np.float32).ravel() / 255 for one in small])
        about = {"encoder": name, "aligned": twin is not None, "twin": twin, "simulated": True}
        tables[name] = alignvis.write_features(root / "features" / SET, embeddings, images, **about)
    recipe = alignvis.Recipe(batch=32, epochs=15, rate=2e-3, schedule="cosine", validation="concept", window="0:0.5")
    for subject in SUBJECTS:
        responses = root / "responses" / SET / f"sub-{subject:02d}.safetensors"
        raw = Path(simulated["raw"])
        alignvis.prepare(raw, subject=subject, images=pictures, out=responses, channels="occipital", sfreq=100.0)
        for name, table in tables.items():
            run = root / "runs" / f"sub-{subject:02d}_{name}"
            alignvis.train(responses, table, run, encoder="linear", recipe=recipe)
            alignvis.evaluate(run)


def main(root: Path | None, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if root is None:
            root = Path(folder)
            print("SIMULATED: making up a study of three brains and two image embeddings")
            simulate_study(root)
        scores = alignvis.evaluate_all(root)
        save(draw_scores(scores), out)
        print(f"wrote {out}: {len(scores)} runs")
        try:
            rows = alignvis.compare(root)
        except alignvis.AlignvisError as error:  # no encoder has its twin beside it
            print("note:", error)
            rows = []
        for row in rows:
            low, high = (100 * end for end in row["interval"])
            print(
                f"{'SIMULATED: ' * row['simulated']}{row['first']['features']} minus {row['second']['features']}: "
                f"{100 * row['difference']:+.1f} points of top-1 (95 % interval {low:+.1f} to {high:+.1f}, over "
                f"{row['interval_over']}; {row['n_subjects']} subjects, {row['n_images']} pictures)"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with runs/ of your own; without it a study is simulated")
    parser.add_argument("--out", type=Path, default=Path("figure.svg"), help="file to draw into: .svg, .pdf or .png")
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists; name a new file with --out")
    main(chosen.root, chosen.out)
