"""How long `alignvis --help` takes, as a whole process."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    times = []
    for _ in range(options.runs + 1):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "alignvis", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    times = times[1:]  # the first one fills the disk cache
    print(
        json.dumps(
            {
                "benchmark": "help",
                "n": len(times),
                "seconds_median": round(median(times), 3),
                "seconds_most": round(max(times), 3),
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
