"""What numbers were made with: versions of Python, of alignvis and of the libraries that compute."""

import platform

import numpy as np
import scipy
import torch

import alignvis


def versions() -> dict[str, str]:
    """What every run, comparison and analysis says of that, by name."""
    libraries = {"torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__}
    return {"alignvis": alignvis.__version__, "python": platform.python_version()} | libraries
