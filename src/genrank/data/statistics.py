"""Window statistics: rates and counts of an item, its author, its category and a user before a request.

Per entity (item, user, each feature F of the item named in the schema, user × F), window w and binary task, over the
events with t - w <= known time < t, t the request's time:

    count       log(1 + n)                               n the events, once per window: of the first task
    rate        logit((c + αp) / (n + α)) - logit(p)     c positives, p the training part's rate: 0 is "as everywhere"
    residual    Σ (y - r) / (n + α)                      r the rate, at the event's own request, of the user (for item
                                                         and F) or of the item (for user and user × F)

An event counts if its label is known and it is a target in the log. Events of the same second or of the request itself
never count. An item with several values of F counts for each of them, and its statistics are over their sum. `prepare`
and ranking call this module with the same integers and so get the same numbers, bit for bit.

Shapes: N exposures, T tasks, W windows, V = 3T sums: per task known labels, positives and residuals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrank.data.counting import Ints, to_halves
from genrank.schema import LogSchema, Statistics

Halves = NDArray[np.float16]
FIXED_POINT = 2**20  # residuals are summed as integers


class Entity(NamedTuple):
    """A set of events to count: of the item or of items with its value of `feature`; of the user or of all users."""

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
    """The counted exposures, N: 25 bytes each, and one byte per task."""

    user: NDArray[np.int32]  # (N) row of users.parquet
    item: NDArray[np.int32]  # (N) row of items.parquet
    time: Ints  # (N) when the actions became known
    request_time: Ints  # (N)
    target: NDArray[np.bool_]  # (N)
    labels: Mapping[str, NDArray[np.int8]]  # (N) per task, -1 unknown
    sign: NDArray[np.int8] | None = None  # (N) -1 removes an exposure that was counted; None: all are added

    @classmethod
    def none(cls, schema: LogSchema) -> "Events":
        """No exposures."""
        ints = np.zeros(0, np.int64)
        rows, labels = ints.astype(np.int32), {task: ints.astype(np.int8) for task in statistics_tasks(schema)}
        return cls(user=rows, item=rows, time=ints, request_time=ints, target=ints.astype(np.bool_), labels=labels)

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
    return tuple(
        name for entity in statistics_entities(schema) for name in entity_columns(entity, schema.statistics, tasks)
    )


def label_counts(schema: LogSchema, events: Events, valid_start: int) -> Ints:
    """(T, 2) the known labels and the positives of the training part, of every counted task."""
    training = events.target & (events.time < valid_start)
    labels = [events.labels[task][training] for task in statistics_tasks(schema)]
    return np.array([[(label >= 0).sum(), (label == 1).sum()] for label in labels], np.int64)


def base_rates(schema: LogSchema, counts: Ints) -> dict[str, float]:
    """The training part's rate of every counted task, always inside (0, 1). `counts`: the sum of its `label_counts`."""
    return {
        task: float(np.clip(yes / known if known else 0.5, 1e-4, 1 - 1e-4))
        for task, (known, yes) in zip(statistics_tasks(schema), counts.tolist(), strict=True)
    }


def counted_values(
    events: Events, tasks: Sequence[str], residuals: Mapping[str, NDArray[np.integer]] | None = None
) -> NDArray[np.int32]:
    """(N, V) the values to sum; residuals are 0 if none are given."""
    sign = np.int8(1) if events.sign is None else events.sign
    values = np.zeros((len(events.time), 3 * len(tasks)), np.int32)
    for number, task in enumerate(tasks):
        known = (events.target & (events.labels[task] >= 0)).astype(np.int8) * sign
        values[:, 3 * number] = known
        values[:, 3 * number + 1] = known * (events.labels[task] == 1)
        if residuals is not None:
            values[:, 3 * number + 2] = known * residuals[task]
    return values


class Formulas:
    """From sums to columns and residuals."""

    def __init__(self, schema: LogSchema, rates: Mapping[str, float]):
        """`rates`: `base_rates` of the training part."""
        self.tasks, self.smoothing = statistics_tasks(schema), schema.statistics.smoothing
        self.windows = schema.statistics.window_seconds
        self.width = len(self.windows) * (1 + 2 * len(self.tasks))  # columns of an entity
        base = np.array([rates[task] for task in self.tasks])
        self.pseudo_positives = self.smoothing * base[:, None]  # (T, 1)
        self.base_logit = (np.log(base / (1 - base)))[:, None]  # (T, 1)

    def columns(self, sums: Ints) -> Halves:
        """(N, columns of an entity) of the (W, V, N) sums."""
        n, c, residual = (sums[:, part::3].astype(np.float64) for part in range(3))  # (W, T, N)
        rate = (c + self.pseudo_positives) / (n + self.smoothing)
        num_windows, num_tasks, size = n.shape
        columns = np.empty((num_windows, 1 + 2 * num_tasks, size))
        np.log1p(n[:, 0], out=columns[:, 0])
        np.subtract(np.log(rate / (1 - rate)), self.base_logit, out=columns[:, 1::2])
        np.divide(residual / FIXED_POINT, n + self.smoothing, out=columns[:, 2::2])
        return to_halves(columns.reshape(self.width, size))

    def rates(self, sums: Ints) -> NDArray[np.float64]:
        """(T, N) smoothed rates of the (V, N) sums."""
        rates: NDArray[np.float64] = (sums[1::3] + self.pseudo_positives) / (sums[0::3] + self.smoothing)
        return rates

    def residuals(self, positive: NDArray[np.bool_], rates: NDArray[np.float64]) -> Ints:
        """(T, N) label minus rate, in fixed point, of (T, N) labels and rates."""
        residuals: Ints = np.rint((positive - rates) * FIXED_POINT).astype(np.int64)
        return residuals


def entity_columns(entity: Entity, config: Statistics, tasks: tuple[str, ...]) -> list[str]:
    """The names of an entity's columns, in order."""
    names = []
    for window in config.windows:
        names.append(f"{entity.name}_{window}_count")
        for task in tasks:
            names += [f"{entity.name}_{window}_{task}_{what}" for what in ("rate", "residual")]
    return names
