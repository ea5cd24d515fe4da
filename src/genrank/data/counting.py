"""Counting events by key and time: how many, and with what sums, before a moment and since another.

The only counting of window statistics, in `prepare` and when ranking. Everything is an integer, so that the order in
which events come changes nothing.

Shapes: E events, K distinct keys, Q questions, V summed values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.timelines import offsets_of, ranges

Ints = NDArray[np.int64]


class EventCounts:
    """Events sorted by (key, time) with running sums of their values: 8 bytes an event, and 8 more per value."""

    def __init__(self, keys: Ints, times: Ints, values: Ints):
        order = np.lexsort((times, keys))
        keys, times = keys[order], times[order]
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        self.keys = keys[first]
        self.first_time = int(times.min(initial=0)) if len(times) else 0
        self.span = int(times.max(initial=0)) - self.first_time + 2 if len(times) else 2
        self.place = (np.cumsum(first) - 1) * self.span + (times - self.first_time)
        self.sums = np.concatenate([np.zeros((1, values.shape[1]), np.int64), np.cumsum(values[order], axis=0)])

    def between(self, keys: Ints, begins: Sequence[Ints | None], ends: Ints) -> list[Ints]:
        """Per begin: (Q, V) sums over each key's events with begin <= time < end; None begins with the first."""
        if not len(self.keys):
            return [np.zeros((len(keys), self.sums.shape[1]), np.int64) for _ in begins]
        rank = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = (self.keys[rank] == keys)[:, None]
        upto = self.sums[self._before(rank, ends)]
        floor = np.full(len(keys), self.first_time)
        return [np.where(known, upto - self.sums[self._before(rank, floor if b is None else b)], 0) for b in begins]

    def _before(self, rank: Ints, times: Ints) -> Ints:
        """(Q) how many of all sorted events stand before each (key, time)."""
        wanted = rank * self.span + np.clip(times - self.first_time, 0, self.span - 1)
        found: Ints = np.searchsorted(self.place, wanted)
        return found


def spread(values: Jagged, rows: Ints) -> tuple[Ints, Ints]:
    """The values of the given rows one after another, and their offsets."""
    lengths = np.diff(values.offsets)[rows]
    return values.values[ranges(values.offsets[:-1][rows], lengths)].astype(np.int64), offsets_of(lengths)


def summed(parts: Ints, offsets: Ints) -> Ints:
    """(Q, V) sums of consecutive rows of `parts`."""
    total = np.concatenate([np.zeros((1, parts.shape[1]), np.int64), np.cumsum(parts, axis=0)])
    sums: Ints = total[offsets[1:]] - total[offsets[:-1]]
    return sums
