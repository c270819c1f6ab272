"""Decode vision from the brain: human-aligned image embeddings, small brain encoders, honest retrieval scores."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The verbs of the command line as functions. They are imported when first asked for, so that importing alignvis costs
# nothing: name -> (module, name in it).
_PUBLIC = {
    "AlignvisError": ("alignvis.errors", "AlignvisError"),
    "simulate": ("alignvis.recordings.simulate", "simulate_things_eeg2"),
    "simulate_meg": ("alignvis.recordings.simulate_meg", "simulate_things_meg"),
    "simulate_nsd": ("alignvis.recordings.simulate_nsd", "simulate_nsd"),
    "prepare": ("alignvis.recordings.things_eeg2", "prepare"),
    "prepare_meg": ("alignvis.recordings.things_meg", "prepare"),
    "prepare_nsd": ("alignvis.recordings.nsd", "prepare"),
    "prepare_own": ("alignvis.recordings.own", "prepare"),
    "import_responses": ("alignvis.exchange.brains", "import_responses"),
    "import_features": ("alignvis.exchange.features", "import_features"),
    "export_table": ("alignvis.exchange.export", "export_table"),
    "load_encoder": ("alignvis.images.catalogue", "load"),
    "extract": ("alignvis.images.extract", "extract"),
    "Recipe": ("alignvis.recipe", "Recipe"),
    "RECIPES": ("alignvis.recipe", "RECIPES"),
    "train": ("alignvis.train_runs", "train_run"),
    "evaluate": ("alignvis.scoring", "evaluate_run"),
    "score": ("alignvis.human_scores", "score_tables"),
    "load_features": ("alignvis.store", "load_features"),
    "load_responses": ("alignvis.store", "load_responses"),
}
__all__ = ["__version__", *_PUBLIC]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"alignvis has nothing called {name!r}; it has {', '.join(__all__)}")
    module, there = _PUBLIC[name]
    return getattr(import_module(module), there)
