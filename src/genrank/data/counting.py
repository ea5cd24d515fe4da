"""Counting events by key and time: their number and the sums of their values within a window.

All window statistics are counted here, in `prepare` and when ranking. Everything is an integer, so the order of events
has no effect on the results. Sorting and looking up run in C++ (counting.cpp) where there is a compiler, else in
NumPy, with the same results.

Shapes: E events, K distinct keys, P distinct pairs of key and time (places), Q questions (key, time), D distinct ones,
V summed values, W windows.
"""

import ctypes
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.groups import changes
from genrank.native import build_library, or_none

Ints = NDArray[np.int64]
# Questions per block, few enough for the cache; no power of two, as its columns would evict one another; ours.
PIECE = 5000


class Questions:
    """Distinct questions (key, time), in order: the exposures of one request need the same counts of their user."""

    def __init__(self, keys: Ints, times: Ints):
        """`keys`, `times`: (Q) in any order."""
        order = sorted_rows(keys, times)
        keys, times = (column[order].astype(np.int64, copy=False) for column in (keys, times))
        distinct = changes(keys) | changes(times)
        self.keys, self.times = keys[distinct], times[distinct]  # (D)
        self.number = np.empty(len(order), np.int64)  # (Q) the index of each question among the D distinct ones
        self.number[order] = np.cumsum(distinct) - 1

    def __len__(self) -> int:
        return len(self.keys)


class EventCounts:
    """Events by (key, time), in order, with running sums of their values: 8 bytes per place, and 8 per value of it."""

    def __init__(self, keys: Ints, times: Ints, values: NDArray[np.int32] | Ints):
        """`keys`, `times`: (E), in any order. `values`: (E, V)."""
        order = sorted_rows(keys, times)
        keys, times = (column[order].astype(np.int64, copy=False) for column in (keys, times))
        first = changes(keys)
        places = np.flatnonzero(first | changes(times))
        self.keys = keys[first]  # (K)
        self.times = times[places]  # (P)
        self.starts = np.append(np.flatnonzero(first[places]), len(places))  # (K + 1)
        self.sums = _running_sums(values, order, np.append(places, len(keys))[1:])  # (P + 1, V)

    @classmethod
    def of_arrays(cls, *, keys: Ints, times: Ints, starts: Ints, sums: Ints) -> "EventCounts":
        """Counts from the arrays of other counts."""
        counts = cls.__new__(cls)
        counts.keys, counts.times, counts.starts, counts.sums = keys, times, starts, sums
        return counts

    def within(
        self,
        keys: Ints,
        times: Ints,
        windows: Sequence[int | None],
        *,
        by_question: bool = False,
        onto: Ints | None = None,
    ) -> Ints:
        """(W, V, Q) sums over each key's events with time - window <= their time < time; None: over all before.

        `keys`, `times`: (Q); questions in order are answered fastest. by_question: (Q, W, V). onto: sums of other
        counts, to which these are added.
        """
        keys, times = (np.ascontiguousarray(column, np.int64) for column in (keys, times))
        library, num_values = _library(), self.sums.shape[1]
        if library is None:
            plain = self._plain_within(keys, times, windows)
            plain = np.ascontiguousarray(plain.transpose(2, 0, 1)) if by_question else plain
            return plain if onto is None else plain + onto
        shape = (len(windows), num_values)
        found = onto
        if found is None:
            found = np.zeros((len(keys), *shape) if by_question else (*shape, len(keys)), np.int64)
        steps = (len(windows) * num_values, 1) if by_question else (1, len(keys))
        seconds = np.array([-1 if window is None else window for window in windows], np.int64)
        library.sums_within(
            _at(self.keys), _at(self.starts), _size(len(self.keys)), _at(self.times), _at(self.sums),
            _size(num_values), _at(keys), _at(times), _size(len(keys)), _at(seconds),
            _size(len(windows)), _at(found), *map(_size, steps),
        )  # fmt: skip
        return found

    def events(self) -> tuple[Ints, Ints, Ints]:
        """(P), (P), (P, V) keys, times and values of the counted events, added up by key and time."""
        return np.repeat(self.keys, np.diff(self.starts)), self.times, np.diff(self.sums, axis=0)

    def _plain_within(self, keys: Ints, times: Ints, windows: Sequence[int | None]) -> Ints:
        found = np.zeros((len(windows), self.sums.shape[1], len(keys)), np.int64)
        if not len(self.keys):
            return found
        rank = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[rank] == keys
        first_time = int(self.times.min())
        span = int(self.times.max()) - first_time + 2
        place = np.repeat(np.arange(len(self.keys)), np.diff(self.starts)) * span + (self.times - first_time)

        def before(moments: Ints) -> NDArray[np.intp]:
            since = np.clip(moments - first_time, 0, span - 1)  # after a key's last event: span - 1
            return np.searchsorted(place, rank * span + since)

        upto = self.sums[before(times)]
        for number, window in enumerate(windows):
            begin = self.starts[rank] if window is None else before(times - window)
            found[number] = np.where(known[:, None], upto - self.sums[begin], 0).T
        return found


def joined_counts(indices: Sequence[EventCounts]) -> EventCounts:
    """The events of all indices, counted together."""
    if len(indices) == 1:
        return indices[0]
    keys, times, values = zip(*(index.events() for index in indices), strict=True)
    return EventCounts(np.concatenate(keys), np.concatenate(times), np.concatenate(values))


def sorted_rows(keys: Ints, times: Ints) -> Ints:
    """(E) the rows in order of (key, time); equal rows keep their order."""
    keys, times = (np.ascontiguousarray(column, np.int64) for column in (keys, times))
    library = _library()
    if library is None:
        return np.lexsort((times, keys))
    order, scratch = np.empty(len(keys), np.int64), np.empty(4 * len(keys), np.int64)
    library.sort_rows(_at(keys), _at(times), ctypes.c_int64(len(keys)), _at(order), _at(scratch))
    return order


def pieces(count: int) -> Iterator[slice]:
    """The rows in short ranges."""
    return (slice(begin, min(begin + PIECE, count)) for begin in range(0, count, PIECE))


def summed(parts: Ints, number: Ints, offsets: Ints) -> Ints:
    """(..., N): row n is the sum of parts[number[i]] over i = offsets[n] .. offsets[n + 1]. `parts`: (D, ...)."""
    library, shape = _library(), (*parts.shape[1:], len(offsets) - 1)
    if library is None:
        total = np.concatenate([np.zeros((1, *parts.shape[1:]), np.int64), np.cumsum(parts[number], axis=0)])
        return np.ascontiguousarray(np.moveaxis(total[offsets[1:]] - total[offsets[:-1]], 0, -1))
    sums, num_columns = np.empty(shape, np.int64), int(np.prod(parts.shape[1:]))
    library.sum_rows(_at(parts), _size(num_columns), _at(number), _at(offsets), _size(len(offsets) - 1), _at(sums))
    return sums


def copy_rows(rows: NDArray[np.float16], number: Ints, out: NDArray[np.float16]) -> None:
    """out[q] = rows[number[q]]. `rows`: (D, C); `out`: (Q, C), which may be columns of a wider array."""
    library = _library()
    if library is None:
        out[:] = rows[number]
        return
    library.copy_rows(
        _at(rows, np.float16), _size(rows.strides[0]), _at(number), _size(len(number)),
        ctypes.c_void_p(out.ctypes.data), _size(out.strides[0]),
    )  # fmt: skip


def to_halves(values: NDArray[np.float64]) -> NDArray[np.float16]:
    """(N, C) of (C, N)."""
    library, (num_columns, num_rows) = _library(), values.shape
    if library is None:
        return np.ascontiguousarray(values.astype(np.float16).T)
    halves = np.empty((num_rows, num_columns), np.float16)
    library.to_halves(_at(values, np.float64), _size(num_columns), _size(num_rows), _at(halves, np.float16))
    return halves


def _running_sums(values: NDArray[np.int32] | Ints, order: Ints, ends: Ints) -> Ints:
    """(P + 1, V): row p + 1 is the sum of the values of the events order[0 .. ends[p])."""
    library, num_values = _library(), values.shape[1]
    sums = np.empty((len(ends) + 1, num_values), np.int64)
    if library is None:
        sums[0] = 0
        sums[1:] = np.cumsum(values[order], axis=0, dtype=np.int64)[ends - 1]
    else:
        sum_places = library.sum_places_32 if values.dtype == np.int32 else library.sum_places_64
        given = np.ascontiguousarray(values)
        sum_places(_at(given, given.dtype), _size(num_values), _at(order), _at(ends), _size(len(ends)), _at(sums))
    return sums


_size = ctypes.c_int64


def _at(array: NDArray[Any], kind: Any = np.int64) -> ctypes.c_void_p:
    assert array.dtype == kind
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def _library() -> ctypes.CDLL | None:
    return or_none(lambda: build_library([Path(__file__).with_suffix(".cpp")]), instead="window statistics use NumPy")
