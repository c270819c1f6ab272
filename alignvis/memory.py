"""How the process treats memory that it has used and will soon use again."""

import ctypes

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
