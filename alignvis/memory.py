"""Memory: how much there is, and how the process treats what it has used and will soon use again."""

import ctypes
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next step instead of giving it back to the operating system.

    A training step frees and takes the same large arrays again and again, and each time glibc has the operating
    system map and clear fresh pages, which can cost more than the arithmetic. The setting holds for the whole
    process, so the command line makes it and the library never does. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_MMAP_MAX, 0)


def available_memory() -> int:
    """Bytes that this process may still take: what the system has left, or its control group allows, if less."""
    known = [2**40]  # where nothing can be read, nothing is known to be scarce
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(kept["file"])  # files kept in memory give way
        known.append(int((group / "memory.max").read_text()) - used)
    except (OSError, KeyError, ValueError):  # no such group, or "max"
        pass
    if len(known) == 1 and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known)
