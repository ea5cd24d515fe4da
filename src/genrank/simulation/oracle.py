"""The AUC that the true probabilities reach, from a stream of exposures in bounded memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DROPPED_BITS = 12  # of a float32: the remaining bits distinguish probabilities that differ by 0.05 %
_BINS = (int(np.float32(1).view(np.uint32)) >> _DROPPED_BITS) + 1


class StreamingAuc:
    """AUC of scores from 0 to 1, computed chunk by chunk.

    Scores are counted in bins of equal relative width, the leading bits of their float32. Scores in one bin count as
    tied, which changes the AUC by less than 1e-4.
    """

    def __init__(self) -> None:
        self._positives = np.zeros(_BINS, np.int64)
        self._negatives = np.zeros(_BINS, np.int64)

    def add(self, scores: Array, labels: Array) -> None:
        """A chunk: `scores` (n) float32 from 0 to 1, `labels` (n) bool."""
        # Non-negative floats sort as their bits do.
        bins = np.asarray(scores, np.float32).view(np.uint32) >> _DROPPED_BITS
        positives = np.bincount(bins[labels], minlength=_BINS)
        self._positives += positives
        self._negatives += np.bincount(bins, minlength=_BINS) - positives

    def value(self) -> float | None:
        """The AUC, or None if one of the classes is absent."""
        pairs = int(self._positives.sum()) * int(self._negatives.sum())
        if pairs == 0:
            return None
        below = np.cumsum(self._negatives) - self._negatives
        return float((self._positives * (below + self._negatives / 2)).sum() / pairs)
