"""Window statistics: what happened to an item, its author, its category and with a user before a request.

Per entity (item, user, each feature F of the item named in the schema, user × F), window w and binary task, over the
events with t - w <= known time < t, t the request's time:

    count       log(1 + n)                               n the events, once per window: of the first task
    rate        logit((c + αp) / (n + α)) - logit(p)     c positives, p the training part's rate: 0 is "as everywhere"
    residual    Σ (y - r) / (n + α)                      r the rate, at the event's own request, of the user (for item
                                                         and F) or of the item (for user and user × F)

An event counts where its label is known and the log calls it a target. Events of the same second never count, nor do
those of the request itself. An item with several values of F counts for each, and asks for the sum over its own.
`prepare` and ranking call this module with the same integers and so get the same numbers, bit for bit.

Shapes: N exposures, Q questions, T tasks, S columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.counting import EventCounts, Ints, spread, summed
from genrank.schema import LogSchema, Statistics

Halves = NDArray[np.float16]
Rows = NDArray[np.integer]  # of users.parquet or items.parquet
FIXED_POINT = 2**20  # residuals are summed as integers


class Entity(NamedTuple):
    """Whose events are counted: those of the item or of items with its value of `feature`, the user's own or all."""

    of_user: bool
    feature: str | None = None

    @property
    def name(self) -> str:
        """The beginning of its columns' names."""
        if self.feature is None:
            return "user" if self.of_user else "item"
        return f"user_{self.feature}" if self.of_user else self.feature


ITEM, USER = Entity(of_user=False), Entity(of_user=True)


@dataclass(frozen=True, kw_only=True)
class Events:
    """What is counted: N exposures. 25 bytes each, and one per task."""

    user: NDArray[np.int32]  # (N) row of users.parquet
    item: NDArray[np.int32]  # (N) row of items.parquet
    time: Ints  # (N) when its actions were known
    request_time: Ints  # (N)
    target: NDArray[np.bool_]  # (N)
    labels: Mapping[str, NDArray[np.int8]]  # (N) per task, -1 unknown
    sign: NDArray[np.int8] | None = None  # (N) -1 takes back an exposure that was counted; None: all count

    def take(self, rows: Ints) -> "Events":
        """The given exposures."""
        return _mapped(lambda column: column[rows], self)

    def joined(self, *others: "Events") -> "Events":
        """These, then the others."""
        return _mapped(lambda *columns: np.concatenate(columns), self, *others)


def _mapped(change: Callable[..., Any], *parts: Events) -> Events:
    """Column by column; signs are written out where any part has them."""
    first, signed = parts[0], any(part.sign is not None for part in parts)
    signs = [np.ones(len(part.time), np.int8) if part.sign is None else part.sign for part in parts]
    return Events(
        user=change(*(part.user for part in parts)),
        item=change(*(part.item for part in parts)),
        time=change(*(part.time for part in parts)),
        request_time=change(*(part.request_time for part in parts)),
        target=change(*(part.target for part in parts)),
        labels={task: change(*(part.labels[task] for part in parts)) for task in first.labels},
        sign=change(*signs) if signed else None,
    )


def statistics_tasks(schema: LogSchema) -> tuple[str, ...]:
    """The binary tasks that are counted."""
    return schema.statistics.tasks or tuple(task.name for task in schema.tasks if task.kind == "binary")


def statistics_entities(schema: LogSchema) -> tuple[Entity, ...]:
    """The entities in the order of their columns."""
    known = (f.name for f in schema.features if f.owner == "item" and f.kind in ("categorical", "multi"))
    features = schema.statistics.by or tuple(known)
    return (ITEM, USER, *(Entity(False, name) for name in features), *(Entity(True, name) for name in features))


def statistics_columns(schema: LogSchema) -> tuple[str, ...]:
    """The names of the columns, in order; none where statistics are off."""
    if not schema.statistics.enabled:
        return ()
    tasks = statistics_tasks(schema)
    return tuple(name for entity in statistics_entities(schema) for name in _names(entity, schema.statistics, tasks))


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
    """Answers questions (user, item, time) from events. Beside them it holds 16 bytes per event and task."""

    def __init__(
        self,
        schema: LogSchema,
        events: Events,
        *,
        rates: Mapping[str, float],
        item_features: Mapping[str, Any],
        residuals: Mapping[Entity, Mapping[str, Ints]] | None = None,
    ):
        """`item_features`: columns by row of items.parquet, int32 or Jagged. `rates`: `base_rates` of training.

        residuals: of the events, by the item's and by the user's rate, where they are known; else from the events.
        """
        self.schema, self.config, self.tasks, self.rates = schema, schema.statistics, statistics_tasks(schema), rates
        self.events, self.entities = events, statistics_entities(schema)
        self.know_items(item_features)
        self.residuals = residuals or {owner: self._residuals(owner) for owner in (ITEM, USER)}
        self._indices: dict[Entity, EventCounts] = {}

    def know_items(self, item_features: Mapping[str, Any]) -> None:
        """Answer by these features of the items from now on; events that were counted stay where they are."""
        features = {entity.feature for entity in self.entities if entity.feature is not None}
        self.columns = {name: _as_jagged(item_features[name]) for name in features}

    def answers(self, user: Rows, item: Rows, time: Ints, *, beside: Sequence["WindowStatistics"] = ()) -> Halves:
        """(Q, S) float16, over these events and those of `beside`. Indices stay in memory for the next question."""
        parts = (self, *beside)
        blocks = [
            self.block(entity, [part.kept_index(entity) for part in parts], user, item, time)
            for entity in self.entities
        ]
        return np.concatenate(blocks, axis=1)

    def kept_index(self, entity: Entity) -> EventCounts:
        """The entity's index, which stays in memory."""
        if entity not in self._indices:
            self._indices[entity] = self.index(entity)
        return self._indices[entity]

    def names(self, entity: Entity) -> list[str]:
        """The columns of an entity."""
        return _names(entity, self.config, self.tasks)

    def block(self, entity: Entity, indices: Sequence[EventCounts], user: Rows, item: Rows, time: Ints) -> Halves:
        """(Q, columns of the entity). `indices`: the entity's own, whose counts are added up."""
        keys, offsets = self._keys(entity, user, item)
        repeated = np.repeat(time, np.diff(offsets))
        begins = [None if w is None else repeated - w for w in self.config.window_seconds]
        columns: list[NDArray[Any]] = []
        for sums in zip(*(index.between(keys, begins, repeated) for index in indices), strict=True):
            columns += self._columns(summed(sum(sums[1:], start=sums[0]), offsets))
        return np.stack(columns, axis=1).astype(np.float16)

    def _columns(self, sums: Ints) -> list[NDArray[Any]]:
        """One window's columns from (Q, 3T) sums of known labels, positives and residuals."""
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

    def index(self, entity: Entity) -> EventCounts:
        """The entity's events, counted."""
        residuals = self.residuals[ITEM if entity.of_user else USER]
        values: list[NDArray[np.integer]] = []
        for task in self.tasks:
            known, yes = self._known(task)
            values += [known, yes, known * residuals[task]]
        keys, offsets = self._keys(entity, self.events.user, self.events.item)
        return EventCounts(keys, _row_of(offsets), times=self.events.time, values=values)

    def residuals_of(self, events: Events, beside: Sequence["WindowStatistics"] = ()) -> dict[Entity, dict[str, Ints]]:
        """Residuals of other events, by the rates that these events and those of `beside` had at their requests."""
        found: dict[Entity, dict[str, Ints]] = {}
        for owner in (ITEM, USER):
            keys, offsets = self._keys(owner, events.user, events.item)
            asked = events.request_time[_row_of(offsets)]
            parts = [part.kept_index(owner).between(keys, [None], asked)[0] for part in (self, *beside)]
            sums = summed(sum(parts[1:], start=parts[0]), offsets).astype(np.float64)
            found[owner] = {}
            for number, task in enumerate(self.tasks):
                n, c = sums[:, 3 * number], sums[:, 3 * number + 1]
                rate = (c + self.config.smoothing * self.rates[task]) / (n + self.config.smoothing)
                found[owner][task] = np.rint(((events.labels[task] == 1) - rate) * FIXED_POINT).astype(np.int64)
        return found

    def _residuals(self, owner: Entity) -> dict[str, Ints]:
        """(N) per task: label minus the owner's rate at the event's own request, in fixed point."""
        events, alpha = self.events, self.config.smoothing
        keys, offsets = self._keys(owner, events.user, events.item)
        row = _row_of(offsets)
        residuals = {}
        for task in self.tasks:
            known, yes = self._known(task)
            index = EventCounts(keys, row, times=events.time, values=[known, yes])
            sums = summed(index.between(keys, [None], events.request_time[row])[0], offsets).astype(np.float64)
            rate = (sums[:, 1] + alpha * self.rates[task]) / (sums[:, 0] + alpha)
            residuals[task] = np.rint((yes - rate) * FIXED_POINT).astype(np.int64)
        return residuals

    def _known(self, task: str) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """(N) 1 where the task's label counts, and where it is a yes too."""
        label = self.events.labels[task]
        known = self.events.target & (label >= 0)
        sign = np.int8(1) if self.events.sign is None else self.events.sign
        return known.astype(np.int8) * sign, (known & (label == 1)).astype(np.int8) * sign

    def _keys(self, entity: Entity, user: Rows, item: Rows) -> tuple[Ints, Ints]:
        """The keys that each row counts for, one after another, and their offsets; unknown ones have none."""
        if entity == USER:
            return user.astype(np.int64), np.arange(len(user) + 1)
        if entity.feature is None:
            values, offsets = item.astype(np.int64), np.arange(len(item) + 1)
        else:
            values, offsets = spread(self.columns[entity.feature], item)
        known = values > 0
        lengths = np.diff(np.concatenate([[0], np.cumsum(known)])[offsets])
        if entity.of_user:
            values = np.repeat(user.astype(np.int64), np.diff(offsets)) * 2**31 + values
        return values[known], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _row_of(offsets: Ints) -> Ints:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _names(entity: Entity, config: Statistics, tasks: tuple[str, ...]) -> list[str]:
    names = []
    for window in config.windows:
        names.append(f"{entity.name}_{window}_count")
        for task in tasks:
            names += [f"{entity.name}_{window}_{task}_{what}" for what in ("rate", "residual")]
    return names


def _as_jagged(column: Any) -> Jagged:
    if isinstance(column, Jagged):
        return column
    return Jagged(column, np.arange(len(column) + 1))
