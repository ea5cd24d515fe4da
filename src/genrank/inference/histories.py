"""A user's history as the model sees it: what `prepare` knew, then what has happened since.

Both become one timeline in the order of docs/architecture.md. Every exposure carries a stamp that changes when anything
about it does, so that an encoded history can be told to be still the beginning of this one. What the store has archived
is decoded once, and again when the archive or the items have changed.

Shapes: N exposures of one user.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.manifest import Manifest
from genrank.data.past_search import SearchConfig
from genrank.data.request import FeatureEncoder, exposures, index_in
from genrank.data.requests import number_requests, request_times, requests_by_gap
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, joined
from genrank.data.vocabulary_files import read_vocabulary
from genrank.errors import RequestError, shown
from genrank.inference.cache import ByteBudgetCache
from genrank.inference.catalogue import Catalogue
from genrank.inference.left_out import LeftOut
from genrank.inference.pasts import Past, PastOnDisk
from genrank.inference.sizes import entry_bytes
from genrank.inference.store import Event, EventStore, StoreUnavailable
from genrank.schema import LogSchema

Ints = NDArray[np.int64]
MAX_BYTES = 256 * 2**20
LONGEST = 1e9  # seconds of a duration
BEFORE_EVENTS = 2**40  # identities of prepared exposures are below 0, in their order; events' are their revisions


@dataclass(frozen=True, kw_only=True)
class UserHistory:
    """All exposures of a user. `row`: of users.parquet, 0 for one who isn't there."""

    user: str
    row: int
    timeline: Timelines  # one user
    stamps: Ints  # (N, 3)
    current: bool = True  # false: the store was out of reach; these are the events that were last seen


@dataclass(frozen=True, kw_only=True)
class _Exposures:
    """Prepared exposures, then events, not yet in order. Those of equal `request` and close in time are one request.

    `code`: the number in `request` of every request id that came with an event.
    """

    timeline: Timelines
    identity: Ints  # (N) see BEFORE_EVENTS
    request: Ints  # (N)
    code: Mapping[str, int]


class Histories:
    """Histories of all users for one model: its vocabularies, the past it was prepared with, the live events.

    max_bytes: of decoded histories that are kept in memory, a quarter of it for users with archived events. Nothing is
    kept of a user who is in no table and has no events.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        past: Past,
        catalogue: Catalogue,
        users: FeatureTable,
        store: EventStore | None = None,
        max_bytes: int = MAX_BYTES,
        left_out: LeftOut | None = None,
    ):
        """`folder`: holds the vocabularies; a prepared folder or a bundle's. left_out: stored events go there that
        the schema can't read."""
        self.schema, self.spec = manifest.schema, manifest.spec
        self.past, self.store, self.left_out = past, store, left_out or LeftOut("stored events")
        self.catalogue, self.user_table = catalogue, users
        self.users = {name: row for row, name in enumerate(users.ids.to_pylist()) if row}
        self.context = FeatureEncoder(folder, manifest, "exposure")
        self.feedback = {part.name: read_vocabulary(folder, part.name, part.size) for part in self.spec.feedback}
        self._kept: ByteBudgetCache[str, tuple[tuple[int, int], UserHistory]] = ByteBudgetCache(
            max_bytes - max_bytes // 4, size=entry_bytes
        )
        self._older: ByteBudgetCache[str, tuple[tuple[int, int], _Exposures]] = ByteBudgetCache(
            max_bytes // 4, size=entry_bytes
        )
        self._nobody = self._in_order("", self._past(""))

    @property
    def num_bytes(self) -> int:
        """Of decoded histories that are kept."""
        return self._kept.counts().num_bytes + self._older.counts().num_bytes

    def of(self, user: str) -> UserHistory:
        """The user's history, with all events that are in the store now, or were when it was last in reach."""
        kept = self._kept.get(user)
        try:
            version = (self.store.version(user) if self.store is not None else 0, self.catalogue.version)
            if kept is not None and kept[0] == version:
                return kept[1]
            history = self._read(user, version[1], has_events=bool(version[0]))
        except StoreUnavailable:
            return replace(self._prepared(user) if kept is None else kept[1], current=False)
        if history.row or history.timeline.num_exposures:
            self._kept.put(user, (version, history))
        return history

    def builder(
        self, timelines: Sequence[Timelines], sequence: SequenceConfig, search: SearchConfig
    ) -> SequenceBuilder:
        """What cuts samples from users' timelines, with the items and users that are known now."""
        return SequenceBuilder(
            sequence,
            self.spec,
            timelines=joined(timelines),
            items=self.catalogue.table,
            users=self.user_table,
            search=search,
        )

    def collected(self, users: Iterable[str], *, scratch: Path | None = None) -> AbstractContextManager[None]:
        """Within the block, histories on disk are read for many users in any order: see PastOnDisk. DataError."""
        if not isinstance(self.past, PastOnDisk):
            return nullcontext()
        wanted = np.zeros(len(self.user_table), np.bool_)
        for user in users:
            wanted[self.users.get(user, 0)] = True
        return self.past.collected(np.flatnonzero(wanted[1:]) + 1, scratch=scratch)

    def prepared(self, event: Event) -> bool:
        """Whether the past has this exposure already."""
        row = self.users.get(event.user, 0)
        if row == 0:
            return False
        past, item = self.past.of(row), self.catalogue.find([event.item])[0]
        return bool(item and np.any((past.time == event.time) & (past.item == item)))

    def check(self, event: Event) -> None:
        """RequestError where an event names what the schema doesn't have, or has a value of another kind."""
        known = [task.name for task in self.spec.tasks] + [part.name for part in self.spec.feedback]
        for name in event.actions:
            if name not in known:
                raise RequestError(f"actions: there is no task or feedback {shown(name)}; there is {', '.join(known)}")
        if event.known_at and not event.time <= event.known_at:
            raise RequestError(
                f"known_at of item {shown(event.item)} is {event.known_at}, before its time {event.time}"
            )
        if event.known_at > event.time and not self.schema.known_later:
            raise RequestError(
                f"known_at of item {shown(event.item)} is after its time, and the model's log knows all actions at "
                "once; leave it out, or set [columns] known_at or [history] settle in the schema and train again"
            )
        self.context.check(event.context)
        self.check_values(event)

    def check_values(self, event: Event) -> None:
        """RequestError where an event has a value of another kind than the schema's."""
        self.context.encode_each([event.context])
        self._actions([event])

    def _read(self, user: str, items: int, *, has_events: bool) -> UserHistory:
        """The history with the store's events. items: version of the catalogue."""
        if self.store is None or not has_events:
            return self._prepared(user)
        kept = self._older.get(user)
        known = kept[0][0] if kept is not None and kept[0][1] == items else -1
        live = self.store.events(user, archive=known)
        if kept is None or live.archived is not None:
            kept = ((live.archive, items), self._with_readable(self._past(user), live.archived or ()))
            if live.archived:
                self._older.put(user, kept)
        return self._in_order(user, self._with_readable(kept[1], live.events))

    def _prepared(self, user: str) -> UserHistory:
        if user not in self.users:
            return replace(self._nobody, user=user)
        return self._in_order(user, self._past(user))

    def _past(self, user: str) -> _Exposures:
        past = self.past.of(self.users.get(user, 0))
        identity = np.arange(past.num_exposures) - BEFORE_EVENTS
        return _Exposures(timeline=past, identity=identity, request=past.request.astype(np.int64), code={})

    def _with_readable(self, before: _Exposures, events: Sequence[tuple[Event, int]]) -> _Exposures:
        """With the stored events; those whose values this model's schema can't read are left out and named.

        They may have been stored under another schema: names that this one lacks are ignored.
        """
        try:
            return self._with_events(before, events)
        except RequestError:
            return self._with_events(before, [pair for pair in events if self._reads(pair[0])])

    def _reads(self, event: Event) -> bool:
        try:
            self.check_values(event)
        except RequestError as problem:
            self.left_out.event(event.user, event.key, str(problem))
            return False
        return True

    def _with_events(self, before: _Exposures, events: Sequence[tuple[Event, int]]) -> _Exposures:
        """With the events that the prepared exposures don't have."""
        past, prepared = before.timeline, before.identity < 0
        known = set(zip(past.time[prepared].tolist(), past.item[prepared].tolist(), strict=True))
        item = self.catalogue.find([event.item for event, _ in events])
        fresh = np.array(
            [own == 0 or (event.time, own) not in known for (event, _), own in zip(events, item.tolist(), strict=True)],
            np.bool_,
        )
        if not fresh.any():
            return before
        chosen, item = [pair for pair, new in zip(events, fresh, strict=True) if new], item[fresh]
        code = dict(before.code)
        first = int(before.request.max(initial=-1)) + 1
        for event, _ in chosen:
            code.setdefault(request_id(event), first + len(code))
        added = self._timeline(past, [event for event, _ in chosen], item)
        request = np.array([code[request_id(event)] for event, _ in chosen], np.int64)
        return _Exposures(
            timeline=joined([past, added], one_user=True),
            identity=np.concatenate([before.identity, np.array([revision for _, revision in chosen], np.int64)]),
            request=np.concatenate([before.request, request]),
            code=code,
        )

    def _in_order(self, user: str, found: _Exposures) -> UserHistory:
        """The exposures as `prepare` would arrange them (data/arranging.py)."""
        t = found.timeline
        nobody, ties = np.zeros(t.num_exposures, np.int64), (t.position, found.identity)
        number = requests_of(nobody, found.request, t.time, ties, self.schema)
        timeline = replace(t, request=number, request_time=request_times(nobody, number, t.time))
        order = np.lexsort((found.identity, t.position, number, t.time, t.known_time))
        timeline = timeline.take(order)
        identity = found.identity[order]
        stamps = np.stack([identity, timeline.item, self.catalogue.revisions[timeline.item]], axis=1)
        return UserHistory(user=user, row=self.users.get(user, 0), timeline=timeline, stamps=stamps)

    def _timeline(self, past: Timelines, events: Sequence[Event], item: Ints) -> Timelines:
        """Events as rows behind the past's."""
        tasks, censored, feedback = self._actions(events)
        return exposures(
            past,
            len(events),
            time=[event.time for event in events],
            known_at=[known_time(event, self.schema) for event in events],
            request=0,
            item=item,
            position=[event.position for event in events],
            tasks=tasks,
            censored=censored,
            feedback=feedback,
            features=self.context.encode_each([event.context for event in events]),
        )

    def _actions(self, events: Sequence[Event]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Columns of tasks, of their censoring, and of feedback."""
        tasks: dict[str, Any] = {}
        censored: dict[str, Any] = {}
        for task in self.spec.tasks:
            binary = task.kind == "binary"
            tasks[task.name] = [_number(event, task.name, binary=binary) for event in events]
            if not binary:
                censored[task.name] = np.zeros(len(events), np.bool_)
        feedback = {
            name: [
                index_in(vocabulary.index, event.actions.get(name), f"actions: {name} of item {shown(event.item)}")
                for event in events
            ]
            for name, vocabulary in self.feedback.items()
        }
        return tasks, censored, feedback


def request_id(event: Event) -> str:
    """What tells an event's request from others of its user; without an id, it is that of the user's equal second."""
    return event.request or f"@{event.time}"


def known_time(event: Event, schema: LogSchema) -> int:
    """When an event's actions are known: see History in schema.py. Seconds since the epoch."""
    if not schema.known_later:
        return event.time
    return max(event.known_at, event.time + schema.history.settle_seconds)


def requests_of(
    user: Ints, key: Ints, time: Ints, ties: tuple[NDArray[Any], ...], schema: LogSchema
) -> NDArray[np.int32]:
    """(N) the number of every exposure's request among its user's, as `prepare` numbers them. Rows in any order."""
    order = np.lexsort((time, user))
    user, key, time, ties = user[order], key[order], time[order], tuple(column[order] for column in ties)
    if schema.columns.request is None:
        numbers = requests_by_gap(user, time, schema.requests.gap_seconds)
    else:
        numbers, _ = number_requests(user, key, time, ties, max_gap=schema.requests.max_gap_seconds)
    found = np.empty_like(numbers)
    found[order] = numbers
    return found


def _number(event: Event, name: str, *, binary: bool) -> float:
    """A task's value: what an event leaves out was not done, or not timed; null is unknown."""
    if name not in event.actions:
        return 0 if binary else np.nan
    value = event.actions[name]
    if value is None:
        return -1 if binary else np.nan
    if isinstance(value, bool | int | float) and (value in (0, 1) if binary else 0 <= value <= LONGEST):
        return float(value)
    wanted = "true, false or null" if binary else "seconds, at most 10^9, or null"
    raise RequestError(f"actions: {name} of item {shown(event.item)} must be {wanted}, found {shown(value)}")
