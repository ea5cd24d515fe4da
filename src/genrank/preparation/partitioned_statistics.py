"""Window statistics of a log that memory can't hold, by the definitions of data/statistics.py.

A user is in one bucket, so counts by user are made bucket by bucket; counts by item, or by a feature's value, go
through files by key (key_partitions.py). Three passes over the buckets, with the partitions
counted between the second and the third:

    label counts ─▶ base rates
    the users' rates ─▶ residuals of item-side events ─▶ partitions ─▶ item-side columns, the items' rates
    the items' rates ─▶ residuals of user-side events ─▶ user-side columns

Days that are added later are counted on top of the totals of earlier days: data/event_totals.py.

Shapes: N exposures of a bucket, T tasks, S columns.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genrank.batch import Jagged
from genrank.data.counting import EventCounts, Ints
from genrank.data.event_totals import EventTotals
from genrank.data.statistics import ITEM, USER, Entity, Events, Formulas, Halves, counted_values, statistics_entities
from genrank.data.window_statistics import WindowStatistics, entity_keys, repeated
from genrank.errors import LogError
from genrank.preparation.key_partitions import KeyPartitions
from genrank.schema import LogSchema


class PartitionedStatistics:
    """Buckets are added, counted, and asked for their answers, in the same order and with the same events."""

    def __init__(
        self,
        schema: LogSchema,
        rates: Mapping[str, float],
        item_features: Mapping[str, Any],
        folder: Path,
        *,
        num_partitions: int,
        past: EventTotals | None = None,
    ):
        """`folder`: for files, which are removed by the caller.

        `past`: the totals of earlier events; `num_partitions` must be the same, and requests no earlier than its
        `until`.
        """
        self.schema, self.rates, self.item_features, self.past = schema, rates, item_features, past
        self.entities, self.formulas = statistics_entities(schema), Formulas(schema, rates)
        self.keep: EventTotals | None = None
        self.partitions = {
            entity: KeyPartitions(
                folder / str(number),
                self.formulas,
                num_partitions=num_partitions,
                as_sums=isinstance(self._column(entity), Jagged),
            )
            for number, entity in enumerate(self.entities)
            if not entity.of_user
        }

    def add(self, bucket: int, events: Events) -> None:
        """A bucket's exposures; buckets are numbered from 0."""
        if self.past is not None and len(events.time) and events.request_time.min() < self.past.until:
            number = int((events.request_time < self.past.until).sum())
            raise LogError(
                f"statistics: {number:,} late exposures belong to requests that began before those of which statistics "
                "can be counted; add later rows only, by --late, or prepare all days again"
            )
        residuals = self._statistics(events).residuals_by_user(self._past(USER, bucket))
        values = counted_values(events, self.formulas.tasks, residuals)
        for entity, partitions in self.partitions.items():
            keys, offsets = self._keys(entity, events)
            partitions.add(keys, *(repeated(each, offsets) for each in (events.time, events.request_time, values)))

    def count(self, keep: EventTotals | None = None, *, threads: int = 1) -> None:
        """Counts the added events. `keep`: receives them for later requests, also those that `answers` counts.

        Each of the `threads` holds a partition in memory.
        """
        self.keep = keep

        def count(entity: Entity, number: int) -> None:
            past = self._past(entity, number)
            self._keep(entity, number, self.partitions[entity].count(number, past, residuals=entity == ITEM))

        parts = [(entity, part) for entity, all_ in self.partitions.items() for part in range(all_.num_partitions)]
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for _ in pool.map(count, *zip(*parts, strict=True)):
                pass

    def answers(self, bucket: int, events: Events) -> Halves:
        """(N, S) of a bucket's exposures, the same that were added."""
        found = np.empty((len(events.time), len(self.entities) * self.formulas.width), np.float16)
        by_item = self.partitions[ITEM].residuals(bucket, self._keys(ITEM, events)[0])
        statistics, stop = self._statistics(events, {ITEM: by_item}), 0
        for entity in self.entities:
            start, stop = stop, stop + self.formulas.width
            out = found[:, start:stop]
            if entity.of_user:
                counted = statistics.index(entity)
                counts = [counted, *self._past(entity, bucket)]
                statistics.answer(entity, counts, events.user, events.item, events.request_time, out)
                self._keep(entity, bucket, [counted])
            else:
                keys, offsets = self._keys(entity, events)
                self.partitions[entity].columns(bucket, keys, offsets, out)
        return found

    def _past(self, entity: Entity, part: int) -> list[EventCounts]:
        return [] if self.past is None else self.past.load(self.entities.index(entity), part)

    def _keep(self, entity: Entity, part: int, counts: list[EventCounts]) -> None:
        if self.keep is not None:
            self.keep.add(self.entities.index(entity), part, counts)

    def _statistics(self, events: Events, residuals: Mapping[Entity, Any] | None = None) -> WindowStatistics:
        return WindowStatistics(
            self.schema, events, rates=self.rates, item_features=self.item_features, residuals=residuals or {}
        )

    def _keys(self, entity: Entity, events: Events) -> tuple[Ints, Ints | None]:
        return entity_keys(entity, events.user, events.item, self._column(entity))

    def _column(self, entity: Entity) -> Any:
        return None if entity.feature is None else self.item_features[entity.feature]
