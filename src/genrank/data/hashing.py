"""Draws that depend on what is drawn only, not on what else is in memory."""

import numpy as np
from numpy.typing import NDArray


def hashed(*columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each row of the columns: SplitMix64's output function (Steele et al. 2014), column after column."""
    state = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        state = (state ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state
