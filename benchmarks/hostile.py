"""What readers make of damaged files: how many they refuse, the slowest, and the most memory above a file's own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine  # noqa: E402
from tests.hostile_readers import READERS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="damaged files a reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("readers", nargs="*", default=list(READERS))
    options = parser.parse_args()
    result = {"benchmark": "hostile", "n": options.count}
    for name in options.readers:
        command = [sys.executable, "-m", "tests.hostile", name, str(options.count), str(options.seed)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        rows = [json.loads(line) for line in ended.stdout.splitlines()]
        result[name] = {
            "files": len(rows),
            "refused": sum(row["ended"] == "refused" for row in rows),
            "read": sum(row["ended"] == "read" for row in rows),
            "slowest_ms": round(1000 * max(row["seconds"] for row in rows), 1),
            "most_mb_above": round(max(row["above"] for row in rows) / 1e6, 1),
        }
    print(json.dumps(result | {"machine": machine()}))


if __name__ == "__main__":
    main()
