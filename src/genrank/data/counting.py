"""Counting events by key and time: how many, and with what sums, before a moment and since another.

The only counting of window statistics, in `prepare` and when ranking. Everything is an integer, so that the order in
which events come changes nothing.

Shapes: E events, Q questions, V summed values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.groups import changes
from genrank.data.timelines import offsets_of, ranges

Ints = NDArray[np.int64]


class EventCounts:
    """Events sorted by (key, time) with running sums of their values: 8 bytes an event, and 8 more per value."""

    def __init__(self, keys: Ints, rows: Ints, *, times: Ints, values: Sequence[NDArray[np.integer]]):
        """`keys`: (E) in any order; event e has the time and the values of row `rows[e]`."""
        order = np.lexsort((times[rows], keys))
        keys, rows = keys[order], rows[order]
        times = times[rows]
        first = changes(keys)
        self.keys = keys[first]
        self.first_time = int(times.min()) if len(times) else 0
        self.span = int(times.max()) - self.first_time + 2 if len(times) else 2
        self.place = (np.cumsum(first) - 1) * self.span + (times - self.first_time)
        self.sums = np.zeros((len(keys) + 1, len(values)), np.int64)
        for number, value in enumerate(values):
            np.cumsum(value[rows], out=self.sums[1:, number])

    def between(self, keys: Ints, begins: Sequence[Ints | None], ends: Ints) -> list[Ints]:
        """Per begin: (Q, V) sums over each key's events with begin <= time < end; None begins with the first."""
        if not len(self.keys):
            return [np.zeros((len(keys), self.sums.shape[1]), np.int64) for _ in begins]
        rank = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        # Questions in order of key and time find their places several times faster than at random.
        order = np.argsort(rank * self.span + self._since_first(ends))
        rank, ends, known = rank[order], ends[order], (self.keys[rank] == keys)[order]
        upto = self.sums[self._before(rank, ends)]
        answers = []
        for begin in begins:
            start = np.full(len(keys), self.first_time) if begin is None else begin[order]
            answer = np.empty_like(upto)
            answer[order] = np.where(known[:, None], upto - self.sums[self._before(rank, start)], 0)
            answers.append(answer)
        return answers

    def _before(self, rank: Ints, times: Ints) -> Ints:
        """(Q) how many of all sorted events stand before each (key, time)."""
        found: Ints = np.searchsorted(self.place, rank * self.span + self._since_first(times))
        return found

    def _since_first(self, times: Ints) -> Ints:
        """Seconds since the first event, kept within the room that a key has: later than its last is `span - 1`."""
        clipped: Ints = np.clip(times - self.first_time, 0, self.span - 1)
        return clipped


def spread(values: Jagged, rows: NDArray[np.integer]) -> tuple[Ints, Ints]:
    """The values of the given rows one after another, and their offsets."""
    lengths = np.diff(values.offsets)[rows]
    return values.values[ranges(values.offsets[:-1][rows], lengths)].astype(np.int64), offsets_of(lengths)


def summed(parts: Ints, offsets: Ints) -> Ints:
    """(Q, V) sums of consecutive rows of `parts`."""
    if np.array_equal(offsets, np.arange(len(parts) + 1)):
        return parts
    total = np.concatenate([np.zeros((1, parts.shape[1]), np.int64), np.cumsum(parts, axis=0)])
    sums: Ints = total[offsets[1:]] - total[offsets[:-1]]
    return sums
