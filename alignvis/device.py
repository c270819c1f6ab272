"""Where tensors live."""

import torch

from alignvis.errors import AlignvisError


def choose_device(name: str) -> torch.device:
    """Take a device of torch by name, or with "auto" CUDA where there is one.

    Raises:
        AlignvisError: when it cannot be used here.
    """
    try:
        if name == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA device")
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise AlignvisError(f"the device {name!r} cannot be used here ({reason}); choose cpu, cuda or auto") from error
    return device
