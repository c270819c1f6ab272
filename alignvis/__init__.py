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
    "write_features": ("alignvis.exchange.own_features", "write_features"),
    "train": ("alignvis.train_runs", "train_run"),
    "train_grid": ("alignvis.grid", "train_grid"),
    "ENCODERS": ("alignvis.encoders", "ENCODERS"),
    "evaluate": ("alignvis.scoring", "evaluate_run"),
    "evaluate_all": ("alignvis.scoring", "score_all"),
    "curve": ("alignvis.repetitions", "measure_curve"),
    "committees": ("alignvis.committee", "committees"),
    "compare": ("alignvis.comparing.comparisons", "compare"),
    "score": ("alignvis.human_scores", "score_tables"),
    "explain": ("alignvis.explanations.explain", "explain_run"),
    "show": ("alignvis.showing", "show"),
    "open_study": ("alignvis.representations.study", "open_study"),
    "rsa": ("alignvis.representations.rsa_analysis", "similarity_over_time"),
    "encode": ("alignvis.representations.encoding_analysis", "encode"),
    "search": ("alignvis.searching.search", "search_gallery"),
    "report": ("alignvis.reports.writing", "write_report"),
    "check_all": ("alignvis.check", "check_all"),
    "load_features": ("alignvis.store", "load_features"),
    "load_responses": ("alignvis.store", "load_responses"),
    # on arrays
    "similarity": ("alignvis.retrieval", "similarity"),
    "ranks": ("alignvis.retrieval", "ranks"),
    "measures": ("alignvis.retrieval", "measures"),
    "n_way": ("alignvis.retrieval", "n_way"),
    "subset_galleries": ("alignvis.retrieval", "subset_galleries"),
    "csls": ("alignvis.transductive", "csls"),
    "one_to_one": ("alignvis.transductive", "one_to_one"),
    "wilson": ("alignvis.stats", "wilson"),
    "student": ("alignvis.stats", "student"),
    "mean_interval": ("alignvis.stats", "mean_interval"),
    "median_interval": ("alignvis.stats", "median_interval"),
    "measure_interval": ("alignvis.intervals", "measure_interval"),
    "bootstrap": ("alignvis.stats", "bootstrap"),
    "bootstrap_of_medians": ("alignvis.stats", "bootstrap_of_medians"),
    "paired_t": ("alignvis.paired", "paired_t"),
    "wilcoxon": ("alignvis.paired", "wilcoxon"),
    "permutation": ("alignvis.paired", "permutation"),
    "holm": ("alignvis.paired", "holm"),
    "split_half": ("alignvis.reliability", "split_half"),
    "noise_ceiling": ("alignvis.reliability", "noise_ceiling"),
    "brain_dissimilarity": ("alignvis.representations.rsa", "brain_dissimilarity"),
    "nearest": ("alignvis.searching.nearest", "nearest"),
}
__all__ = ["__version__", *_PUBLIC]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"alignvis has nothing called {name!r}; it has {', '.join(__all__)}")
    module, there = _PUBLIC[name]
    return getattr(import_module(module), there)
