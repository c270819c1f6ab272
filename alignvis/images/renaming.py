"""Renaming of tensors by a table of regular expressions."""

import re

from torch import Tensor

Tensors = dict[str, Tensor]
Table = list[tuple[str, str]]


def rename(table: Table, tensors: Tensors) -> Tensors:
    """Rename by the first line that fits the whole name; what fits none keeps its name, and is found left over.

    Args:
        table: regular expressions, and what becomes of a name that fits; an empty name drops the tensor.
    """
    renamed = {}
    for name, tensor in tensors.items():
        line = next((line for line in table if re.fullmatch(line[0], name)), None)
        new = name if line is None else re.sub(line[0], line[1], name)
        if new:
            renamed[name if new in renamed else new] = tensor
    return renamed
