"""Window statistics: what happened to an item, its author, its category and with a user before a request.

Per entity (item, user, each feature F of the item named in the schema, user × F), window w and binary task, over the
events with t - w <= time < t, t the request's time:

    count       log(1 + n)
    rate        logit((c + αp) / (n + α)) - logit(p)     c yeses, p the training part's rate: 0 is "as everywhere"
    residual    Σ (y - r) / (n + α)                      r the rate, at the event's own request, of the user (for item
                                                         and F) or of the item (for user and user × F)

An event counts where its label is known and the log calls it a target. Events of equal time never count, nor do those
of the request itself. An item with several values of F counts for each, and asks for the sum over its own. `prepare`
and ranking call this module with the same integers and so get the same numbers, bit for bit.

Shapes: N exposures, Q questions, T tasks, S columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.counting import EventCounts, Ints, spread, summed
from genrank.data.timelines import Timelines
from genrank.schema import LogSchema, Statistics

Halves = NDArray[np.float16]
FIXED_POINT = 2**20  # residuals are summed as integers
RESIDUAL_OF = {True: "item", False: "user"}  # whose rate an event of a user-side entity is measured against


@dataclass(frozen=True, kw_only=True)
class Events:
    """What is counted: N exposures. 26 bytes each, and one per task."""

    user: Ints  # (N) row of users.parquet
    item: Ints  # (N) row of items.parquet
    time: Ints  # (N)
    request_time: Ints  # (N)
    target: NDArray[np.bool_]  # (N)
    labels: Mapping[str, NDArray[np.int8]]  # (N) per task, -1 unknown


def statistics_tasks(schema: LogSchema) -> tuple[str, ...]:
    """The binary tasks that are counted."""
    return schema.statistics.tasks or tuple(task.name for task in schema.tasks if task.kind == "binary")


def statistics_features(schema: LogSchema) -> tuple[str, ...]:
    """The item's features that are counted by."""
    known = (f.name for f in schema.features if f.owner == "item" and f.kind in ("categorical", "multi"))
    return schema.statistics.by or tuple(known)


def statistics_columns(schema: LogSchema) -> tuple[str, ...]:
    """The names of the columns, in order; none where statistics are off."""
    if not schema.statistics.enabled:
        return ()
    entities = _entities(statistics_features(schema))
    return tuple(name for entity in entities for name in _names(entity, schema.statistics, statistics_tasks(schema)))


def base_rates(schema: LogSchema, events: Events, valid_start: int) -> dict[str, float]:
    """The training part's rate of every counted task, kept from 0 and 1."""
    training = events.target & (events.time < valid_start)
    rates = {}
    for task in statistics_tasks(schema):
        label = events.labels[task][training]
        known = label >= 0
        rates[task] = float(np.clip(label[known].mean() if known.any() else 0.5, 1e-4, 1 - 1e-4))
    return rates


class WindowStatistics:
    """Answers questions (user, item, time) from events."""

    def __init__(
        self, schema: LogSchema, events: Events, *, rates: Mapping[str, float], item_features: Mapping[str, Any]
    ):
        """`item_features`: columns by row of items.parquet, int32 or Jagged. `rates`: `base_rates` of training."""
        self.config, self.tasks, self.rates = schema.statistics, statistics_tasks(schema), rates
        self.features = statistics_features(schema)
        self.columns = {name: _as_jagged(item_features[name]) for name in self.features}
        self.events, self.entities = events, _entities(self.features)
        self.residuals = {owner: self._residuals(owner) for owner in ("item", "user")}
        self._indices: dict[str, EventCounts] = {}

    def answers(self, user: Ints, item: Ints, time: Ints) -> Halves:
        """(Q, S) float16. Every entity's index stays in memory for the next question."""
        for entity in self.entities:
            if entity not in self._indices:
                self._indices[entity] = self.index(entity)
        blocks = [self.block(entity, self._indices[entity], user, item, time) for entity in self.entities]
        return np.concatenate(blocks, axis=1)

    def names(self, entity: str) -> list[str]:
        """The columns of an entity."""
        return _names(entity, self.config, self.tasks)

    def block(self, entity: str, index: EventCounts, user: Ints, item: Ints, time: Ints) -> Halves:
        """(Q, columns of the entity). `index`: the entity's own."""
        keys, offsets = self._keys(entity, user, item)
        repeated = np.repeat(time, np.diff(offsets))
        begins = [None if w is None else repeated - w for w in self.config.window_seconds]
        columns: list[NDArray[Any]] = []
        for sums in index.between(keys, begins, repeated):
            columns += self._columns(summed(sums, offsets))
        return np.stack(columns, axis=1).astype(np.float16)

    def _columns(self, sums: Ints) -> list[NDArray[Any]]:
        """One window's columns from (Q, 3T) sums of known labels, yeses and residuals."""
        alpha = self.config.smoothing
        columns: list[NDArray[Any]] = []
        for number, task in enumerate(self.tasks):
            n, c, residual = (sums[:, 3 * number + part].astype(np.float64) for part in range(3))
            if number == 0:
                columns.append(np.log1p(n))
            rate, base = (c + alpha * self.rates[task]) / (n + alpha), self.rates[task]
            columns.append(np.log(rate / (1 - rate)) - np.log(base / (1 - base)))
            columns.append(residual / FIXED_POINT / (n + alpha))
        return columns

    def index(self, entity: str) -> EventCounts:
        """The entity's events, counted."""
        e = self.events
        of_user = entity.startswith("user")
        keys, offsets = self._keys(entity, e.user, e.item)
        row = np.repeat(np.arange(len(e.user)), np.diff(offsets))
        parts = []
        for task in self.tasks:
            known = ((e.labels[task] >= 0) & e.target).astype(np.int64)
            parts += [known, known * (e.labels[task] == 1), known * self.residuals[RESIDUAL_OF[of_user]][task]]
        return EventCounts(keys, e.time[row], np.stack(parts, axis=1)[row])

    def _residuals(self, owner: str) -> dict[str, Ints]:
        """(N) per task: label minus the owner's rate at the event's own request, in fixed point."""
        e, alpha = self.events, self.config.smoothing
        keys, offsets = self._keys(owner, e.user, e.item)
        row = np.repeat(np.arange(len(e.user)), np.diff(offsets))
        residuals = {}
        for task in self.tasks:
            known = ((e.labels[task] >= 0) & e.target).astype(np.int64)
            yes = known * (e.labels[task] == 1)
            index = EventCounts(keys, e.time[row], np.stack([known, yes], axis=1)[row])
            sums = summed(index.between(keys, [None], e.request_time[row])[0], offsets).astype(np.float64)
            rate = (sums[:, 1] + alpha * self.rates[task]) / (sums[:, 0] + alpha)
            residuals[task] = np.rint((yes - rate) * FIXED_POINT).astype(np.int64)
        return residuals

    def _keys(self, entity: str, user: Ints, item: Ints) -> tuple[Ints, Ints]:
        """The keys that each row counts for, one after another, and their offsets; unknown ones have none."""
        if entity == "user":
            return user, np.arange(len(user) + 1)
        if entity == "item":
            values, offsets = item, np.arange(len(item) + 1)
        else:
            values, offsets = spread(self.columns[entity.removeprefix("user_by_")], item)
        known = values > 0
        lengths = np.diff(np.concatenate([[0], np.cumsum(known)])[offsets])
        if entity.startswith("user_by_"):
            values = np.repeat(user, np.diff(offsets)) * 2**31 + values
        return values[known], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def events_of(timelines: Timelines, request_time: Ints, tasks: tuple[str, ...]) -> Events:
    """All of the timelines' exposures."""
    t = timelines
    return Events(
        user=t.users.astype(np.int64)[t.user_of_row()],
        item=t.item.astype(np.int64),
        time=t.time,
        request_time=request_time,
        target=t.target,
        labels={task: t.tasks[task] for task in tasks},
    )


def _entities(features: tuple[str, ...]) -> list[str]:
    return ["item", "user", *features, *(f"user_by_{name}" for name in features)]


def _names(entity: str, config: Statistics, tasks: tuple[str, ...]) -> list[str]:
    names = []
    for window in config.windows:
        names.append(f"{entity}_{window}_count")
        for task in tasks:
            names += [f"{entity}_{window}_{task}_rate", f"{entity}_{window}_{task}_residual"]
    return names


def _as_jagged(column: Any) -> Jagged:
    if isinstance(column, Jagged):
        return column
    return Jagged(column, np.arange(len(column) + 1))
