"""One of several ways to do a thing, in a process of its own: its seconds and its memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def measure(script: str, *words: object) -> dict[str, float]:
    """Start ``script --run words ...``, which calls `tell`, and sample its anonymous memory every 20 ms."""
    command = [sys.executable, script, "--run", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.02)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{words[0]} ended with exit code {process.returncode}")
    return json.loads(output) | {"peak_anonymous_mb": round(peak / 1024)}


def tell(work: Callable[[], object]) -> None:
    """Do something, and say how long it took: by the clock, and the processor, which others' work disturbs less."""
    begun, before = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - before
    print(json.dumps({"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}))
