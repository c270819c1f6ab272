"""What was seen, from single volumes of real fMRI: our encoders and ridge regression on the same folds of Haxby (2001).

One run of twelve is left out in turn; the run before it is the validation run. One JSON line an encoder.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine, set_up  # noqa: E402
from tests.haxby import RECIPES, RUNS, decode, summary  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--encoders", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--folds", type=int, default=RUNS)
    options = set_up(parser)
    for name in options.encoders:
        recipe = replace(RECIPES[name], epochs=options.epochs or RECIPES[name].epochs)
        begun = time.perf_counter()
        found = summary(decode(options.data, name, recipe, folds=options.folds))
        about = {"epochs": recipe.epochs, "seconds": round(time.perf_counter() - begun, 1), "machine": machine()}
        print(json.dumps({"benchmark": "haxby", "encoder": name, **found, **about}), flush=True)


if __name__ == "__main__":
    main()
