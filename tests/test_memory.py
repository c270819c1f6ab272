import subprocess
import sys
from pathlib import Path

from alignvis.memory import available_memory

CODE = """
import resource, sys
import numpy as np
from alignvis.memory import keep_freed_memory
if sys.argv[1] == "keep": keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(12_500_000, "f4")
before = faults()
for _ in range(10): np.ones(12_500_000, "f4")
print(faults() - before)
"""


def test_memory_that_was_freed_is_used_again_without_asking_for_it_anew():
    """Ten arrays of 50 MB one after the other: kept, they are the same 12,208 pages; given back, ten times as many."""
    pages = {
        mode: int(subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keep", "give")
    }
    assert pages["keep"] < 2_000 and pages["keep"] * 5 < pages["give"]


def test_the_memory_that_is_left_is_what_the_system_or_the_group_says(monkeypatch):
    """The files of Linux, with its numbers; where there are none nothing is known to be scarce."""
    files = {
        "/proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:   10000 kB\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/memory.current": "5000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1000000\nfile 3000000\n",
    }

    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert available_memory() == 10_240_000
    files["/sys/fs/cgroup/memory.max"] = "6000000\n"
    assert available_memory() == 6_000_000 - (5_000_000 - 3_000_000)
    files["/sys/fs/cgroup/memory.max"] = "60000000000\n"
    assert available_memory() == 10_240_000
    files.clear()
    assert 2**20 < available_memory() <= 2**40
