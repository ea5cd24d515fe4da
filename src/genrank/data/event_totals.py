"""Totals of the events so far, for the statistics of requests after some moment, in blocks of days.

    totals.json         format, since, until, num_partitions, rates
    DAY+N/E-PPPP.npy    counts of entity number E and partition or bucket number P, of N days from DAY (since the epoch)
                        on; no file without events
    later/E-PPPP.npy    of days after the log's: of actions that become known later

A window that ends after `until` reaches back to `since` at most, unless it has no beginning. So days from `since` on
have blocks of their own, with every event. Earlier days are joined to blocks of 4, 16, 64, … days, as soon as all days
of a block are past, and a block's events are summed into one per key: the statistics of every request from `until` on
are the same, bit for bit. Which blocks there are depends on `since` only. So days that are added write their own blocks
and those that become complete: a day is written again log4(days) times, and the rest of the folder stays.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrank.data.counting import EventCounts, Ints
from genrank.errors import DataError
from genrank.schema import LogSchema

FILE_NAME = "totals.json"
FORMAT = 2
DAY = 86_400  # seconds
LATER = "later"
SIZES = 4 ** np.arange(10)  # of blocks, in days
BEHIND = 3  # days from that of `until` on that have blocks of their own: those of the log


@dataclass(frozen=True, kw_only=True)
class EventTotals:
    """Counts on disk. `num_partitions`: number of partitions of item-side keys.

    `rates`: the base rates of their residuals; those of later events need the same. `past`: the totals of earlier
    events, whose unchanged blocks are not written again.
    """

    folder: Path = field(repr=False)
    since: int  # seconds
    until: int  # seconds
    num_partitions: int
    rates: dict[str, float]
    past: "EventTotals | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        schema: LogSchema,
        folder: Path,
        *,
        until: int,
        num_partitions: int,
        rates: dict[str, float],
        past: "EventTotals | None" = None,
    ) -> "EventTotals":
        """Totals in a new folder, empty but for those of `past`."""
        folder.mkdir()
        since = until - max((window for window in schema.statistics.window_seconds if window is not None), default=0)
        values = {"since": since, "until": until, "num_partitions": num_partitions}
        text = json.dumps({"format": FORMAT} | values | {"rates": rates})
        (folder / FILE_NAME).write_text(text, encoding="utf-8")
        return cls(folder=folder, since=since, until=until, num_partitions=num_partitions, rates=rates, past=past)

    @classmethod
    def open(cls, folder: Path) -> "EventTotals":
        """The totals of a folder. DataError if they can't be read."""
        try:
            values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
            if values.pop("format", 1) != FORMAT:
                raise ValueError("of an earlier version")
            return cls(folder=folder, **values)
        except (OSError, ValueError, TypeError, AttributeError) as problem:
            raise DataError(f"{folder}: totals can't be read ({problem}); run genrank prepare again") from None

    def add(self, entity: int, part: int, counts: list[EventCounts]) -> None:
        """Writes the blocks that change by the events of all counts. To be called once for every entity and part."""
        columns = [each.events() for each in counts]
        fresh = {name for _, times, _ in columns for name in self._blocks(times)[0]}
        for name, past in self.past.blocks(entity, part) if self.past is not None else ():
            if name in fresh or not self.keeps(name):
                columns.append(past.events())
        if not sum(len(keys) for keys, _, _ in columns):
            return
        keys, times, values = (np.concatenate(column) for column in zip(*columns, strict=True))
        names, number = self._blocks(times)
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=len(names)))
        for name, rows in zip(names, np.split(order, ends[:-1]), strict=True):
            first, _, size = name.partition("+")
            last = int(first) + int(size) if size not in ("", "1") else None
            moments = times[rows] if last is None else np.full(len(rows), last * DAY - 1)
            _write(self._path(name, entity, part), EventCounts(keys[rows], moments, values[rows]))

    def keeps(self, name: str) -> bool:
        """Whether a block of `past` is one of these totals too, unless it gets more events."""
        if name == LATER:
            return False
        first, _, _ = name.partition("+")
        return self._names(np.array([int(first)]))[0] == name

    def load(self, entity: int, part: int) -> list[EventCounts]:
        """The counts of one entity and part, block by block; they stay on disk. DataError if they can't be read."""
        return [counts for _, counts in self.blocks(entity, part)]

    def blocks(self, entity: int, part: int) -> Iterator[tuple[str, EventCounts]]:
        """The same, with the blocks' names."""
        for name in self._folders:
            path = self._path(name, entity, part)
            if path.exists():
                yield name, _read(path)

    @cached_property
    def _folders(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def _blocks(self, times: Ints) -> tuple[list[str], NDArray[np.intp]]:
        """The blocks of these times, by name, and (P) the number of each time's."""
        if not len(times):
            return [], np.zeros(0, np.intp)
        days = np.minimum(times // DAY, self.until // DAY + BEHIND)
        first = int(days.min())
        there = np.bincount(days - first) > 0
        names = self._names(np.flatnonzero(there) + first)
        distinct = list(dict.fromkeys(names))
        number = np.zeros(len(there), np.intp)
        number[there] = [distinct.index(name) for name in names]
        return distinct, number[days - first]

    def _names(self, days: NDArray[np.integer]) -> list[str]:
        """The name of each day's block."""
        past = self.since // DAY
        size = np.ones(len(days), np.int64)
        for each in SIZES:
            size[(days // each + 1) * each <= past] = each
        later = days >= self.until // DAY + BEHIND
        begins = days // size * size
        rows = zip(begins.tolist(), size.tolist(), later.tolist(), strict=True)
        return [LATER if is_later else f"{begin}+{days_}" for begin, days_, is_later in rows]

    def _path(self, name: str, entity: int, part: int) -> Path:
        return self.folder / name / f"{entity}-{part:04d}.npy"


def _write(path: Path, counts: EventCounts) -> None:
    """One array of integers, so that it can be mapped into memory: the numbers of keys, places and values, then all."""
    path.parent.mkdir(exist_ok=True)
    sizes = [len(counts.keys), len(counts.times), counts.sums.shape[1]]
    parts = (np.array(sizes), counts.keys, counts.starts, counts.times, counts.sums.ravel())
    np.save(path, np.concatenate(parts, dtype=np.int64), allow_pickle=False)


def _read(path: Path) -> EventCounts:
    try:
        numbers = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        num_keys, num_places, num_values = numbers[:3].tolist()
        ends = np.cumsum([3, num_keys, num_keys + 1, num_places, (num_places + 1) * num_values])
        if numbers.dtype != np.int64 or numbers.shape != (ends[-1],):
            raise ValueError(f"{numbers.shape} numbers, expected {ends[-1]}")
    except (OSError, ValueError, TypeError) as problem:
        raise DataError(f"{path}: can't be read ({problem}); run genrank prepare again") from None
    keys, starts, times, sums = np.split(numbers, ends[:-1])[1:]
    return EventCounts.of_arrays(keys=keys, times=times, starts=starts, sums=sums.reshape(num_places + 1, num_values))
