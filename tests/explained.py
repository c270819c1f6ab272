"""Runs with explanations, written by hand, that figures are drawn from in tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignvis import files, store
from alignvis.explanations.regions import regions
from alignvis.runs import save_tensors

WEIGHTS = "ab" * 32


def record(**changes: Any) -> dict[str, Any]:
    """What a run says of itself."""
    table = {"path": "", "fingerprint": ""}
    return {
        "version": 1,
        "dataset": "tiny",
        "simulated": True,
        "subject": 1,
        "encoder": "nice",
        "features": "good",
        "aligned": True,
        "twin": "good_noalign",
        "seed": 0,
        "shape": {"channels": 1, "times": 1, "dim": 1},
        "recipe": {"name": "test", "target": "embeddings", "sides": "both", "centre": True},
        "inputs": {"responses": [table], "features": table, "queries": table},
        "split": {"train": [], "validation": []},
        "history": [{"epoch": 0, "best": True, "held_out_top1": 0.5}],
        "protocol": "within",
        "trained_on": [1],
        "channels": ["Oz"],
        "recording": {},
        "seconds": 1.0,
        "weights_sha256": WEIGHTS,
        **changes,
    }


def explained(
    folder: Path,
    channels: list[str],
    times: list[float],
    *,
    n: int = 6,
    gradcam: np.ndarray | None = None,
    loss: np.ndarray | None = None,
    retrained: bool = False,
    bands: bool = True,
    changes: dict[str, Any] | None = None,
    **about: Any,
) -> Path:
    """Write an explained run.

    Args:
        gradcam: (channels or 1, times), of every query alike.
        loss: (channels,), of similarity without each channel; likewise.
        changes: of explain.json.
        about: changes of the record that the explanation repeats.
    """
    folder.mkdir(parents=True)
    one = record(**about)
    files.write_json(folder / "record.json", one)
    loss = np.linspace(0, 0.1, len(channels)) if loss is None else loss
    groups = regions(channels)
    timed = len(times) > 1
    step = times[1] - times[0] if timed else 0.05
    starts = times[: -4 or None : 2] if timed else []
    share = {"top1": 0.4, "drop": 0.1, "drop_interval": [0.05, 0.15], "similarity_drop": 0.02}
    windows = [{"start": start, "end": start + 4 * step} for start in starts]
    tensors = {"regions": np.zeros((n, len(groups))), "channels": np.tile(loss, (n, 1))}
    tensors["first_order"] = np.tile(np.outer(loss, np.linspace(1, 0.2, len(times))), (n, 1, 1))
    if timed:
        tensors["windows"] = np.zeros((n, len(windows)))
    if gradcam is not None:
        tensors["gradcam"] = np.tile(gradcam, (n, 1, 1))
    document = {"table": "explanation", "queries": [f"q{i}" for i in range(n)], "channels": channels, "times": times}
    save_tensors(
        {name: torch.tensor(array, dtype=torch.float32) for name, array in tensors.items()},
        folder / "explain.safetensors",
        document,
    )
    of_map = {"channel_axis": gradcam is not None and len(gradcam) == len(channels) > 1, "before_300ms": 0.7}
    band = {"only_top1": 0.3, "only_interval": [0.2, 0.4], "without_top1": 0.4, "without_interval": [0.3, 0.5]}
    band |= {"retrained_top1": 0.35, "retrained_interval": [0.25, 0.45]} if retrained else {"retrained_top1": None}
    limits = {"delta": (0.5, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30), "gamma": (30, 45)}
    kept = [{**window, "top1": 0.2, "top1_interval": [0.1, 0.3], "similarity": 0.1} for window in windows]
    found = {
        "version": 1,
        **{key: one[key] for key in ("dataset", "subject", "simulated", "encoder", "features", "aligned", "seed")},
        "recipe": "test",
        "n": n,
        "gallery": n,
        "repetitions": 4,
        "channels": channels,
        "times": times,
        "top1": 0.5,
        "top1_interval": [0.4, 0.6],
        "weights_sha256": WEIGHTS,
        "queries_fingerprint": "",
        "maps_sha256": store.fingerprint(folder / "explain.safetensors"),
        "gradcam": None if gradcam is None else {**of_map, "peak": 0.1, "share_by_region": {}, "note": ""},
        "first_order": {"before_300ms": 0.6 if timed else None, "peak": 0.1 if timed else None, "share_by_region": {}},
        "no_gradcam": "it has no convolution over time" if gradcam is None else None,
        "regions": {name: [channels[place] for place in places] for name, places in groups.items()},
        "occlusion": {
            "width": 4 * step,
            "step": 2 * step,
            "windows": [{**window, **share} for window in windows],
            "regions": [{"name": name, **share} for name in groups],
            "channels": [float(value) for value in loss],
            "channel_top1": [0.5] * len(channels),
        },
        "kept": kept,
        "retrained": [{**row, "run": "r"} for row in kept[::2]] if retrained else None,
        "bands": [{"name": name, "low": low, "high": high, **band} for name, (low, high) in limits.items()]
        if timed and bands
        else [],
        "bands_left_out": {},
        "randomised": {"seeds": [0, 1], "correlation": [0.1, 0.2], "between_seeds": None, "what": "gradcam"},
        **(changes or {}),
    }
    files.write_json(folder / "explain.json", found)
    return folder
