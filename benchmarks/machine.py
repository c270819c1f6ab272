"""What a figure was measured on, and how a benchmark sets its process up and reads the clock."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignvis.memory import keep_freed_memory  # noqa: E402


def set_up(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options, with those that every benchmark of training has, and do what these say."""
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--default-allocator", action="store_true", help="do not keep freed memory")
    options = parser.parse_args()
    if not options.default_allocator:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    return options


def allocator(options: argparse.Namespace) -> str:
    return "default" if options.default_allocator else "keeps freed memory"


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def machine() -> dict[str, Any]:
    """Name the processor, the cores given to us, the threads torch uses, and the versions."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
