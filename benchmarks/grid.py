"""What a grid costs: `alignvis train` on 1 to 3 subjects, seeds and tables of features, tables read and runs written.

The recordings are noise of the shape asked for; the time does not depend on what there is to be learned.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.grid import train_grid  # noqa: E402
from benchmarks.machine import machine, set_up  # noqa: E402
from tests.tables import image_ids, write_features, write_responses  # noqa: E402

ASKED = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 2, 1), (1, 3, 1), (1, 1, 2), (1, 1, 3), (3, 3, 3)]


def tables(root: Path, concepts: int, channels: int, times: int, dim: int) -> None:
    ids = image_ids(concepts, 10), image_ids(20, 1, "test_images")
    names = [f"E{channel}" for channel in range(channels)]
    for number in range(3):
        generator = np.random.default_rng(number)
        shown, asked = (generator.standard_normal((len(part), 4, channels, times), dtype="f4") for part in ids)
        path = root / "responses" / "noise" / f"sub-{number + 1:02d}.safetensors"
        write_responses(path, shown, asked, ids, subject=number + 1, channels=names, dataset="noise")
        embeddings = generator.standard_normal((concepts * 10 + 20, dim), dtype="f4")
        name = f"features-{number}"
        write_features(
            root / "features" / "noise" / f"{name}.safetensors", embeddings, [*ids[0], *ids[1]], encoder=name
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=64, help="Of 10 images each.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--encoder", default="nice")
    parser.add_argument("--channels", type=int, default=17)
    parser.add_argument("--device", default="cpu")
    options = set_up(parser)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tables(root, options.concepts, options.channels, 250, 512)
        for subjects, seeds, features in [(1, 1, 1), *ASKED]:  # the first one warms up
            begun = time.perf_counter()
            made = train_grid(
                root,
                subjects=range(1, subjects + 1),
                seeds=range(seeds),
                features=[f"features-{number}" for number in range(features)],
                encoders=[options.encoder],
                changes={"epochs": options.epochs},
                device=options.device,
                say=lambda text: None,
                detail=lambda text: None,
            )
            seconds = time.perf_counter() - begun
            row = {"subjects": subjects, "seeds": seeds, "features": features, "runs": len(made)}
            rows.append(row | {"seconds": round(seconds, 2), "seconds_a_run": round(seconds / len(made), 3)})
            shutil.rmtree(root / "runs")
    about = {"benchmark": "grid", "n": 1, "encoder": options.encoder, "channels": options.channels}
    about |= {"images": options.concepts * 10, "epochs": options.epochs, "device": options.device}
    print(json.dumps(about | {"grids": rows[1:], "machine": machine()}))


if __name__ == "__main__":
    main()
