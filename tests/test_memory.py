import subprocess
import sys

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
