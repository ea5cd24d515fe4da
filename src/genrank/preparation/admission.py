"""The admission of values to an index: counts by period, and the order of admission.

A period is a day of UTC; it also ends where the training or validation part ends, so that what training knows doesn't
depend on what comes later. A value is admitted at the end of the first period by which it has been seen `min_count`
times. Indices are in order of (admission, count in that period, the largest first, text).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.data.manifest import SplitTimes
from genrank.data.vocabulary_files import NEVER, StoredVocabulary

DAY = 86_400  # seconds
DENSE = 2**22  # counters of one column up to which all of them are kept, seen or not
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Periods:
    """`ends`: seconds since the epoch, ascending. Times before the first period belong to it."""

    ends: Ints

    @classmethod
    def of(cls, split: SplitTimes, first_time: int, last_time: int) -> "Periods":
        """The days from that of `first_time` to that of `last_time`, cut where the parts begin."""
        days = np.arange(first_time // DAY + 1, last_time // DAY + 2) * DAY
        begin, end = first_time // DAY * DAY, days[-1]
        cuts = [time for time in (split.valid_start, split.test_start) if begin < time < end]
        return cls(ends=np.unique(np.append(days, cuts)).astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def of_times(self, times: Ints) -> Ints:
        """The period of every time."""
        periods: Ints = np.searchsorted(self.ends, times, side="right")
        return np.minimum(periods, len(self.ends) - 1)


@dataclass(frozen=True)
class PeriodCounts:
    """How often every code was seen in each period; code 0 is counted too, but not used."""

    num_codes: int
    num_periods: int
    _dense: list[Ints] = field(default_factory=list)
    _sparse: list[tuple[Ints, Ints]] = field(default_factory=list)

    def add(self, codes: NDArray[np.integer], periods: Ints) -> None:
        """Count occurrences, each a code and a period."""
        keys = codes.astype(np.int64) * self.num_periods + periods
        size = self.num_codes * self.num_periods
        if size > max(DENSE, 8 * len(keys)):
            self._sparse.append(np.unique(keys, return_counts=True))
        elif not self._dense:
            self._dense.append(np.bincount(keys, minlength=size))
        else:
            self._dense[0] += np.bincount(keys, minlength=size)

    def seen(self) -> tuple[Ints, Ints, Ints]:
        """(code, period, count), in that order."""
        keys = [np.flatnonzero(dense) for dense in self._dense] + [keys for keys, _ in self._sparse]
        counts = [dense[dense > 0] for dense in self._dense] + [counts for _, counts in self._sparse]
        if not keys:
            return (np.zeros(0, np.int64),) * 3
        all_keys, place = np.unique(np.concatenate(keys), return_inverse=True)
        total = np.zeros(len(all_keys), np.int64)
        np.add.at(total, place, np.concatenate(counts))
        return all_keys // self.num_periods, all_keys % self.num_periods, total

    def until(self, num_periods: int) -> Ints:
        """(codes) how often each was seen in the first periods."""
        code, period, count = self.seen()
        early = period < num_periods
        totals = np.zeros(self.num_codes, np.int64)
        np.add.at(totals, code[early], count[early])
        return totals


def admit(
    values: pa.Array,
    counts: PeriodCounts,
    periods: Periods,
    *,
    min_count: int = 1,
    known: StoredVocabulary | None = None,
    max_values: int | None = None,
) -> StoredVocabulary:
    """The vocabulary of `values`, in order of code; `known`: the previous vocabulary, of the first of them.

    `counts`: of the new rows, by code from 0.
    """
    total = len(values)
    index, admitted = np.zeros(total, np.int32), np.full(total, NEVER)
    before = np.zeros(total, np.int64)
    if known is not None:
        index[: len(known)], admitted[: len(known)] = known.index, known.admitted
        before[: len(known)] = known.count
    code, period, seen = counts.seen()
    asked = code > 0
    asked[asked] = admitted[code[asked] - 1] == NEVER
    code, period, seen = code[asked] - 1, period[asked], seen[asked]
    so_far = before[code] + _running(code, seen)
    enough = np.flatnonzero(so_far >= max(1, min_count))
    enough = enough[np.append(True, np.diff(code[enough]) != 0)] if len(enough) else enough
    count = before.copy()
    np.maximum.at(count, code, so_far)
    new, when = code[enough], period[enough]
    count[new], admitted[new] = so_far[enough], periods.ends[when]
    order = np.lexsort((_text_ranks(values, new), -seen[enough], when))
    index[new[order]] = index.max(initial=0) + 1 + np.arange(len(new), dtype=np.int32)
    return StoredVocabulary(values=values, index=index, count=count, admitted=admitted, max_values=max_values)


def first_sight(values: Sequence[pa.Array], days: Sequence[Ints]) -> pa.Array:
    """All distinct values in order of (the first day of each, text): the order of codes."""
    table = pa.table({"value": pa.concat_arrays(values), "day": np.concatenate(days)})
    first = table.group_by("value", use_threads=False).aggregate([("day", "min")])
    order = pc.sort_indices(first, sort_keys=[("day_min", "ascending"), ("value", "ascending")])
    return first.column("value").take(order).combine_chunks()


def _running(code: Ints, seen: Ints) -> Ints:
    """The sums so far within every run of equal codes."""
    total = np.cumsum(seen)
    begins = np.flatnonzero(np.append(True, np.diff(code) != 0)) if len(code) else np.zeros(0, np.int64)
    before = np.repeat(total[begins] - seen[begins], np.diff(np.append(begins, len(code))))
    sums: Ints = total - before
    return sums


def _text_ranks(values: pa.Array, rows: Ints) -> Ints:
    """The place of each of the given values among them in order of text."""
    ranks = np.empty(len(rows), np.int64)
    ranks[pc.sort_indices(values.take(pa.array(rows))).to_numpy()] = np.arange(len(rows))
    return ranks
