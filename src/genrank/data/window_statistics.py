"""The statistics of data/statistics.py over events in memory: for ranking, and for one bucket of users in `prepare`.

Shapes: N events, Q questions, D distinct ones of them, T tasks, S columns, W windows, V = 3T sums.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.counting import EventCounts, Ints, Questions, copy_rows, pieces, summed
from genrank.data.past_counts import PastCounts
from genrank.data.statistics import (
    ITEM,
    USER,
    Entity,
    Events,
    Formulas,
    Halves,
    counted_values,
    statistics_columns,
    statistics_entities,
    statistics_tasks,
)
from genrank.data.timelines import offsets_of, ranges
from genrank.schema import LogSchema

Rows = NDArray[np.integer]  # of users.parquet or items.parquet
NO_KEY = -1


class WindowStatistics:
    """Statistics of questions (user, item, time), from events. Besides them it holds 16 bytes per event and task."""

    def __init__(
        self,
        schema: LogSchema,
        events: Events,
        *,
        rates: Mapping[str, float],
        item_features: Mapping[str, Any],
        residuals: Mapping[Entity, Mapping[str, Ints]] | None = None,
        past: PastCounts | None = None,
    ):
        """`item_features`: columns by row of items.parquet, int32 or Jagged. `rates`: `base_rates` of training.

        residuals: of the events, by the item's and by the user's rate, where they are known; else from the events.
        past: counts of earlier events, which are not among `events`; questions are then of its `until` or later.
        """
        self.schema, self.config, self.tasks, self.rates = schema, schema.statistics, statistics_tasks(schema), rates
        self.events, self.entities = events, statistics_entities(schema)
        self.formulas, self.past = Formulas(schema, rates), past
        self.know_items(item_features)
        self._indices: dict[Entity, EventCounts] = {}
        self.residuals = dict(residuals or {})
        if residuals is None:
            self.residuals[USER] = self.residuals_by_user(self.past_counts(USER, events.user))
            self.residuals[ITEM] = self._residuals(ITEM, events, self.kept_counts(ITEM, events.user))

    def know_items(self, item_features: Mapping[str, Any]) -> None:
        """Use these features of the items in later questions; events already counted keep their keys."""
        features = {entity.feature for entity in self.entities if entity.feature is not None}
        self.columns = {name: item_features[name] for name in features}

    def answers(self, user: Rows, item: Rows, time: Ints, *, beside: Sequence["WindowStatistics"] = ()) -> Halves:
        """(Q, S) float16, over these events and those of `beside`. Indices stay in memory for the next question."""
        parts, stop = (self, *beside), 0
        found = np.empty((len(user), len(statistics_columns(self.schema))), np.float16)
        for entity in self.entities:
            start, stop = stop, stop + self.formulas.width
            indices = [counts for part in parts for counts in part.kept_counts(entity, user)]
            self.answer(entity, indices, user, item, time, found[:, start:stop])
        return found

    def answer(
        self, entity: Entity, indices: Sequence[EventCounts], user: Rows, item: Rows, time: Ints, out: Halves
    ) -> None:
        """Writes (Q, columns of the entity) into `out`. `indices`: of the entity; their counts are added up."""
        keys, offsets = self._keys(entity, user, item)
        questions = Questions(keys, repeated(time, offsets))
        if offsets is None:
            write_answers(self.formulas, indices, questions, out)
            return
        sums = sums_within(indices, questions.keys, questions.times, self.formulas.windows, by_question=True)
        write_summed(self.formulas, sums, questions.number, offsets, out)

    def kept_index(self, entity: Entity) -> EventCounts:
        """The entity's index, kept in memory."""
        if entity not in self._indices:
            self._indices[entity] = self.index(entity)
        return self._indices[entity]

    def kept_counts(self, entity: Entity, users: Rows) -> list[EventCounts]:
        """The entity's index, and the past's counts for these users."""
        return [self.kept_index(entity), *self.past_counts(entity, users)]

    def past_counts(self, entity: Entity, users: Rows) -> list[EventCounts]:
        """Those of the past alone."""
        return [] if self.past is None else self.past.of(entity, users)

    def index(self, entity: Entity) -> EventCounts:
        """The entity's events, counted."""
        residuals = self.residuals[ITEM if entity.of_user else USER]
        return self._count(entity, counted_values(self.events, self.tasks, residuals))

    def residuals_by_user(self, past: Sequence[EventCounts] = ()) -> dict[str, Ints]:
        """(N) per task, of the events: label minus the user's rate at the event's own request, in fixed point.

        `past`: counts of the users' other events.
        """
        counted = self._count(USER, counted_values(self.events, self.tasks))
        return self._residuals(USER, self.events, [counted, *past])

    def residuals_of(self, events: Events, beside: Sequence["WindowStatistics"] = ()) -> dict[Entity, dict[str, Ints]]:
        """Residuals of other events, by the rates that these events and those of `beside` had at their requests."""
        parts = (self, *beside)
        return {
            owner: self._residuals(
                owner, events, [counts for part in parts for counts in part.kept_counts(owner, events.user)]
            )
            for owner in (ITEM, USER)
        }

    def _residuals(self, owner: Entity, events: Events, indices: Sequence[EventCounts]) -> dict[str, Ints]:
        """(N) per task: label minus the owner's rate at the event's own request, in fixed point."""
        keys, _ = self._keys(owner, events.user, events.item)
        questions = Questions(keys, events.request_time)
        rates = self.formulas.rates(sums_within(indices, questions.keys, questions.times, [None])[0])
        positive = np.stack([events.labels[task] == 1 for task in self.tasks])
        return dict(zip(self.tasks, self.formulas.residuals(positive, rates[:, questions.number]), strict=True))

    def _count(self, entity: Entity, values: NDArray[np.int32]) -> EventCounts:
        """`values`: (N, V) of the events."""
        keys, offsets = self._keys(entity, self.events.user, self.events.item)
        return count_known(keys, repeated(self.events.time, offsets), repeated(values, offsets))

    def _keys(self, entity: Entity, user: Rows, item: Rows) -> tuple[Ints, Ints | None]:
        return entity_keys(entity, user, item, self.columns.get(entity.feature or ""))


def entity_keys(entity: Entity, user: Rows, item: Rows, column: Any = None) -> tuple[Ints, Ints | None]:
    """The keys that each row counts for, row after row, and the rows' offsets: None where each has exactly one.

    `column`: the entity's feature by row of items.parquet, int32 or Jagged. NO_KEY: an unknown item or value.
    """
    if entity == USER:
        return user.astype(np.int64), None
    offsets = None
    if isinstance(column, Jagged):
        lengths = np.diff(column.offsets)[item]
        offsets = offsets_of(lengths)
        values = column.values[ranges(column.offsets[:-1][item], lengths)].astype(np.int64)
    else:
        values = (item if column is None else column[item]).astype(np.int64)
    keys = repeated(user.astype(np.int64), offsets) * 2**31 + values if entity.of_user else values
    return np.where(values > 0, keys, NO_KEY), offsets


def repeated(values: NDArray[Any], offsets: Ints | None) -> NDArray[Any]:
    """Each row's value as often as the row has keys: see entity_keys."""
    return values if offsets is None else np.repeat(values, np.diff(offsets), axis=0)


def count_known(keys: Ints, times: Ints, values: NDArray[np.int32]) -> EventCounts:
    """(E), (E), (E, V): the counts of events that have a key."""
    known = keys != NO_KEY
    return EventCounts(keys, times, values) if known.all() else EventCounts(keys[known], times[known], values[known])


def write_answers(formulas: Formulas, indices: Sequence[EventCounts], questions: Questions, out: Halves) -> None:
    """Writes (Q, columns of an entity), over all indices together, into `out`."""
    columns = np.empty((len(questions), formulas.width), np.float16)  # (D, ...)
    for piece in pieces(len(questions)):
        sums = sums_within(indices, questions.keys[piece], questions.times[piece], formulas.windows)
        columns[piece] = formulas.columns(sums)
    copy_rows(columns, questions.number, out)


def write_summed(formulas: Formulas, sums: Ints, number: Ints, offsets: Ints, out: Halves) -> None:
    """Writes (Q, columns of an entity) into `out`, each from sums[number[i]] over i = offsets[q] .. offsets[q + 1].

    `sums`: (D, W, V).
    """
    for rows in pieces(len(out)):
        at = offsets[rows.start : rows.stop + 1]
        out[rows] = formulas.columns(summed(sums, number[at[0] : at[-1]], at - at[0]))


def sums_within(
    indices: Sequence[EventCounts], keys: Ints, times: Ints, windows: Sequence[int | None], *, by_question: bool = False
) -> Ints:
    """(W, V, Q), or by question (Q, W, V), over all indices together: see EventCounts."""
    first, *others = indices
    sums = first.within(keys, times, windows, by_question=by_question)
    for index in others:
        sums = index.within(keys, times, windows, by_question=by_question, onto=sums)
    return sums
