"""Two groups of scored runs against each other: like is compared with like, and nothing is trained or encoded again."""

from alignvis.comparing.comparisons import compare, write_comparisons
from alignvis.comparing.text import comparisons_table
from alignvis.comparing.values import METRICS

__all__ = ["METRICS", "compare", "comparisons_table", "write_comparisons"]
