"""Responses that an architecture cannot take."""

from alignvis.errors import AlignvisError


def require_times(name: str, needed: int, times: int) -> None:
    """Refuse responses with fewer than ``needed`` samples in time."""
    if times < needed:
        longer = "a longer --window, or " if times > 1 else ""
        raise AlignvisError(
            f"the encoder {name} needs at least {needed} samples in time and these responses have {times}; "
            f"choose {longer}brain-mlp, eegproject or linear, which take any shape"
        )
