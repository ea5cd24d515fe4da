"""Window statistics in NumPy, entity by entity and window by window: the reference that the package must equal, bit for
bit. Shapes: N exposures, E events, Q questions, V summed values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrank.batch import Jagged
from genrank.data.groups import changes
from genrank.data.statistics import FIXED_POINT, ITEM, USER, Entity, Events, statistics_entities, statistics_tasks
from genrank.data.timelines import offsets_of, ranges
from genrank.schema import LogSchema

Ints = Any


class PlainCounts:
    """Events sorted by (key, time) with running sums of their values."""

    def __init__(self, keys: Ints, rows: Ints, *, times: Ints, values: Sequence[Ints]):
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
        return np.searchsorted(self.place, rank * self.span + self._since_first(times))

    def _since_first(self, times: Ints) -> Ints:
        """Seconds since the first event, kept within the room that a key has: later than its last is `span - 1`."""
        return np.clip(times - self.first_time, 0, self.span - 1)


class PlainStatistics:
    """Answers questions (user, item, time) from events."""

    def __init__(
        self, schema: LogSchema, events: Events, *, rates: Mapping[str, float], item_features: Mapping[str, Any]
    ):
        self.schema, self.config, self.tasks, self.rates = schema, schema.statistics, statistics_tasks(schema), rates
        self.events, self.entities = events, statistics_entities(schema)
        features = {entity.feature for entity in self.entities if entity.feature is not None}
        self.columns = {name: _as_jagged(item_features[name]) for name in features}
        self.residuals = {owner: self._residuals(owner) for owner in (ITEM, USER)}

    def answers(self, user: Ints, item: Ints, time: Ints) -> Any:
        """(Q, S) float16."""
        blocks = [self.block(entity, self.index(entity), user, item, time) for entity in self.entities]
        return np.concatenate(blocks, axis=1)

    def block(self, entity: Entity, index: PlainCounts, user: Ints, item: Ints, time: Ints) -> Any:
        """(Q, columns of the entity), whose index is given."""
        keys, offsets = self._keys(entity, user, item)
        repeated = np.repeat(time, np.diff(offsets))
        begins = [None if w is None else repeated - w for w in self.config.window_seconds]
        columns: list[Any] = []
        for sums in index.between(keys, begins, repeated):
            columns += self._columns(_summed(sums, offsets))
        return np.stack(columns, axis=1).astype(np.float16)

    def _columns(self, sums: Ints) -> list[Any]:
        """One window's columns from (Q, 3T) sums of known labels, positives and residuals."""
        alpha = self.config.smoothing
        columns: list[Any] = []
        for number, task in enumerate(self.tasks):
            n, c, residual = (sums[:, 3 * number + part].astype(np.float64) for part in range(3))
            if number == 0:
                columns.append(np.log1p(n))
            rate, base = (c + alpha * self.rates[task]) / (n + alpha), self.rates[task]
            columns.append(np.log(rate / (1 - rate)) - np.log(base / (1 - base)))
            columns.append(residual / FIXED_POINT / (n + alpha))
        return columns

    def index(self, entity: Entity) -> PlainCounts:
        """The entity's events, counted."""
        residuals = self.residuals[ITEM if entity.of_user else USER]
        values: list[Any] = []
        for task in self.tasks:
            known, yes = self._known(task)
            values += [known, yes, known * residuals[task]]
        keys, offsets = self._keys(entity, self.events.user, self.events.item)
        return PlainCounts(keys, _row_of(offsets), times=self.events.time, values=values)

    def _residuals(self, owner: Entity) -> dict[str, Ints]:
        """(N) per task: label minus the owner's rate at the event's own request, in fixed point."""
        events, alpha = self.events, self.config.smoothing
        keys, offsets = self._keys(owner, events.user, events.item)
        row = _row_of(offsets)
        residuals = {}
        for task in self.tasks:
            known, yes = self._known(task)
            index = PlainCounts(keys, row, times=events.time, values=[known, yes])
            sums = _summed(index.between(keys, [None], events.request_time[row])[0], offsets).astype(np.float64)
            rate = (sums[:, 1] + alpha * self.rates[task]) / (sums[:, 0] + alpha)
            residuals[task] = np.rint((yes - rate) * FIXED_POINT).astype(np.int64)
        return residuals

    def _known(self, task: str) -> tuple[Any, Any]:
        """(N) 1 where the task's label counts, and where it is positive too."""
        label = self.events.labels[task]
        known = self.events.target & (label >= 0)
        return known.astype(np.int8), (known & (label == 1)).astype(np.int8)

    def _keys(self, entity: Entity, user: Ints, item: Ints) -> tuple[Ints, Ints]:
        """The keys that each row counts for, one after another, and their offsets; unknown ones have none."""
        if entity == USER:
            return user.astype(np.int64), np.arange(len(user) + 1)
        if entity.feature is None:
            values, offsets = item.astype(np.int64), np.arange(len(item) + 1)
        else:
            values, offsets = _spread(self.columns[entity.feature], item)
        known = values > 0
        lengths = np.diff(np.concatenate([[0], np.cumsum(known)])[offsets])
        if entity.of_user:
            values = np.repeat(user.astype(np.int64), np.diff(offsets)) * 2**31 + values
        return values[known], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _row_of(offsets: Ints) -> Ints:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _as_jagged(column: Any) -> Jagged:
    if isinstance(column, Jagged):
        return column
    return Jagged(column, np.arange(len(column) + 1))


def _spread(values: Jagged, rows: Ints) -> tuple[Ints, Ints]:
    """The values of the given rows one after another, and their offsets."""
    lengths = np.diff(values.offsets)[rows]
    return values.values[ranges(values.offsets[:-1][rows], lengths)].astype(np.int64), offsets_of(lengths)


def _summed(parts: Ints, offsets: Ints) -> Ints:
    """(Q, V) sums of consecutive rows of `parts`."""
    if np.array_equal(offsets, np.arange(len(parts) + 1)):
        return parts
    total = np.concatenate([np.zeros((1, parts.shape[1]), np.int64), np.cumsum(parts, axis=0)])
    return total[offsets[1:]] - total[offsets[:-1]]
