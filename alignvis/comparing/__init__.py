"""Two groups of scored runs against each other: like is compared with like, and nothing is trained or encoded again."""

from alignvis.comparing.comparisons import compare, same_comparisons, write_comparisons
from alignvis.comparing.text import comparisons_table
from alignvis.comparing.values import METRICS

__all__ = ["METRICS", "compare", "comparisons_table", "same_comparisons", "write_comparisons"]
