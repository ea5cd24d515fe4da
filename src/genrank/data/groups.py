"""Runs of equal values in a sorted column. Shapes: N rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def changes(values_N: NDArray[Any]) -> NDArray[np.bool_]:
    """(N) whether a row's value differs from that of the row before; true for the first row."""
    first = np.ones(len(values_N), np.bool_)
    first[1:] = values_N[1:] != values_N[:-1]
    return first


def group_starts(values_N: NDArray[Any]) -> NDArray[np.int64]:
    """The first row of each run of equal values."""
    return np.flatnonzero(changes(values_N))
