"""The counts of a prepared log from its totals, for requests of its last days and later: see event_totals.py.

Counts by item, and by a feature's values, are in memory: one for each key and second of the longest window, and one for
each key before it. Counts by user, which are most, stay on disk and are mapped into memory.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrank.data.counting import EventCounts, joined_counts
from genrank.data.event_totals import EventTotals
from genrank.data.manifest import Manifest
from genrank.data.statistics import Entity, statistics_columns, statistics_entities
from genrank.schema import LogSchema


class PastCounts:
    """Every file is opened at once, so that an extension of the folder changes nothing here."""

    def __init__(self, totals: EventTotals, schema: LogSchema, num_buckets: int):
        self.until, self.num_buckets = totals.until, num_buckets  # until: seconds, from which questions are answered
        self._counts = {
            entity: [
                totals.load(number, part) for part in range(num_buckets if entity.of_user else totals.num_partitions)
            ]
            for number, entity in enumerate(statistics_entities(schema))
        }
        self._joined: dict[Entity, list[EventCounts]] = {}

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> "PastCounts | None":
        """Of a prepared folder; None where it was counted in another way than by this manifest, or has no totals."""
        stored = Manifest.load(folder)
        ours, theirs = manifest.schema, stored.schema
        alike = (
            statistics_columns(ours) == statistics_columns(theirs)
            and ours.statistics.smoothing == theirs.statistics.smoothing
            and manifest.base_rates == stored.base_rates
        )
        if not alike or not (folder / "totals").is_dir():
            return None
        return cls(EventTotals.open(folder / "totals"), theirs, stored.layout.num_buckets)

    def of(self, entity: Entity, users: NDArray[np.integer]) -> list[EventCounts]:
        """What these users' questions need, or, by item, all."""
        if entity.of_user:
            buckets = np.unique(users % self.num_buckets).tolist()
            return [counts for bucket in buckets for counts in self._counts[entity][bucket]]
        if entity not in self._joined:
            parts = [counts for part in self._counts.pop(entity) for counts in part]
            self._joined[entity] = [joined_counts(parts)] if parts else []
        return self._joined[entity]
