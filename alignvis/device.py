"""Where tensors live."""

import torch

from alignvis.errors import AlignvisError
from alignvis.processes import local_rank


def choose_device(name: str) -> torch.device:
    """Take a device of torch by name, or with "auto" CUDA where there is one.

    Of several processes on one machine each takes a GPU of its own, or shares one where there are fewer.

    Raises:
        AlignvisError: when it cannot be used here.
    """
    try:
        if name == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA device")
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank() % torch.cuda.device_count())
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise AlignvisError(f"the device {name!r} cannot be used here ({reason}); choose cpu, cuda or auto") from error
    return device
