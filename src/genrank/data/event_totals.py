"""Totals of the events before some moment, enough for the statistics of later requests, and much smaller.

A window that ends after `until` reaches back to `since` at most, unless it has no beginning. So events from `since` on
are kept, and earlier ones are summed into one per key, in the second before `since`: the statistics of every request
from `until` on are the same, bit for bit.

    totals.json             since, until, num_partitions, rates
    E-PPPP.npz              counts of entity number E and partition or bucket number P; no file without events
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from genrank.data.counting import EventCounts, joined_counts
from genrank.errors import DataError
from genrank.schema import LogSchema

FILE_NAME = "totals.json"


@dataclass(frozen=True, kw_only=True)
class EventTotals:
    """Counts on disk. `num_partitions`: number of partitions of item-side keys.

    `rates`: the base rates of their residuals; those of later events need the same.
    """

    folder: Path = field(repr=False)
    since: int  # seconds
    until: int  # seconds
    num_partitions: int
    rates: dict[str, float]

    @classmethod
    def of(
        cls, schema: LogSchema, folder: Path, *, until: int, num_partitions: int, rates: dict[str, float]
    ) -> "EventTotals":
        """Empty totals in a new folder."""
        folder.mkdir()
        since = until - max((window for window in schema.statistics.window_seconds if window is not None), default=0)
        values = {"since": since, "until": until, "num_partitions": num_partitions}
        (folder / FILE_NAME).write_text(json.dumps(values | {"rates": rates}), encoding="utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "EventTotals":
        """The totals of a folder. DataError if they can't be read."""
        try:
            return cls(folder=folder, **json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as problem:
            raise DataError(f"{folder}: totals can't be read ({problem}); run genrank prepare again") from None

    def save(self, entity: int, part: int, counts: list[EventCounts]) -> None:
        """The events of all counts together, summed as far as later windows allow."""
        keys, times, values = joined_counts(counts).events()
        kept = EventCounts(keys, np.maximum(times, self.since - 1), values)
        if len(kept.keys):
            np.savez(self._path(entity, part), keys=kept.keys, times=kept.times, starts=kept.starts, sums=kept.sums)

    def load(self, entity: int, part: int) -> list[EventCounts]:
        """The counts of one file; empty if it doesn't exist. DataError if they can't be read."""
        path = self._path(entity, part)
        if not path.exists():
            return []
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return [EventCounts.of_arrays(**arrays)]
        except (OSError, ValueError, TypeError, BadZipFile) as problem:
            raise DataError(f"{path}: can't be read ({problem}); run genrank prepare again") from None

    def _path(self, entity: int, part: int) -> Path:
        return self.folder / f"{entity}-{part:04d}.npz"
