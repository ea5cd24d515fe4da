"""A user's history as the model sees it: what `prepare` knew, then what has happened since.

Both become one timeline in the order of docs/architecture.md. Every exposure carries a stamp that changes when anything
about it does, so that an encoded history can be told to be still the beginning of this one.

Shapes: N exposures of one user.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genrank.batch import map_arrays
from genrank.data.exposures import requests_by_gap
from genrank.data.manifest import Manifest
from genrank.data.request import FeatureEncoder, exposures, load_user, read_vocabulary
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, joined
from genrank.errors import RequestError
from genrank.schema import DataSpec
from genrank.serving.cache import ByteBudgetCache
from genrank.serving.catalogue import Catalogue
from genrank.serving.store import Event, EventStore, StoreUnavailable, UserEvents

Ints = NDArray[np.int64]
MAX_BYTES = 256 * 2**20
LONGEST = 1e9  # seconds of a duration


@dataclass(frozen=True, kw_only=True)
class UserHistory:
    """All exposures of a user. `row`: of users.parquet, 0 for one who isn't there."""

    user: str
    row: int
    timeline: Timelines  # one user
    stamps: Ints  # (N, 3)
    dropped: int = 0  # exposures before these that are no longer kept
    current: bool = True  # false: the store was out of reach; these are the events that were last seen

    @property
    def num_bytes(self) -> int:
        """Memory of its arrays."""
        sizes: list[int] = [self.stamps.nbytes]
        map_arrays(self.timeline, lambda column: sizes.append(column.nbytes))
        return sum(sizes)

    def aligned(self, step: int) -> "UserHistory":
        """The history that begins a multiple of `step` exposures after the user's first, as windows do."""
        cut = -self.dropped % step
        if cut == 0:
            return self
        rows = np.arange(min(cut, self.timeline.num_exposures), self.timeline.num_exposures)
        return replace(self, timeline=self.timeline.take(rows), stamps=self.stamps[rows], dropped=self.dropped + cut)


class Past(Protocol):
    """What `prepare` knew of users' exposures."""

    def of(self, row: int) -> Timelines:
        """The timeline of a user's row; without exposures where there is none."""


class PastOnDisk:
    """Read from the prepared folder, user by user: for few requests."""

    def __init__(self, folder: Path, spec: DataSpec):
        self.folder, self.spec = folder, spec

    def of(self, row: int) -> Timelines:
        """See Past."""
        return load_user(self.folder, row, self.spec)


class PastInMemory:
    """All timelines of the prepared folder, up to `until` (seconds, exclusive) if given: for a service."""

    def __init__(self, folder: Path, spec: DataSpec, *, until: int | None = None):
        self.spec, self.timelines, self.until = spec, Timelines.load(folder, spec), until
        self.index = {int(row): index for index, row in enumerate(self.timelines.users)}

    def of(self, row: int) -> Timelines:
        """See Past."""
        if row not in self.index:
            return Timelines.empty(self.spec, row)
        timeline = self.timelines.of_user(self.index[row])
        return timeline if self.until is None else timeline.take(np.flatnonzero(timeline.time < self.until))


@dataclass(frozen=True)
class NoPast:
    """Nothing was known before."""

    spec: DataSpec

    def of(self, row: int) -> Timelines:
        """See Past."""
        return Timelines.empty(self.spec, row)


class Histories:
    """Histories of all users for one model: its vocabularies, the past it was prepared with, the live events.

    max_bytes: of decoded histories that are kept in memory.
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
    ):
        """`folder`: holds the vocabularies; a prepared folder or a bundle's."""
        self.schema, self.spec = manifest.schema, manifest.spec
        self.past, self.store = past, store
        self.catalogue = catalogue
        self.users = {name: row for row, name in enumerate(users.ids.to_pylist()) if row}
        self.context = FeatureEncoder(folder, manifest, "exposure")
        self.feedback = {
            part.name: read_vocabulary(folder / "vocab" / f"{part.name}.parquet") for part in self.spec.feedback
        }
        self._kept: ByteBudgetCache[str, tuple[tuple[int, int], UserHistory]] = ByteBudgetCache(
            max_bytes, size=lambda kept: kept[1].num_bytes
        )

    def of(self, user: str) -> UserHistory:
        """The user's history, with all events that are in the store now, or were when it was last in reach."""
        kept = self._kept.get(user)
        try:
            version = (self.store.version(user) if self.store is not None else 0, self.catalogue.version)
            if kept is not None and kept[0] == version:
                return kept[1]
            live = self.store.events(user) if self.store is not None and version[0] else UserEvents()
        except StoreUnavailable:
            return replace(self._read(user, UserEvents()) if kept is None else kept[1], current=False)
        history = self._read(user, live)
        self._kept.put(user, ((live.version, version[1]), history))
        return history

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
                raise RequestError(f"actions: there is no task or feedback {name!r}; there is {', '.join(known)}")
        self.context.check(event.context)
        self.context.encode_each([event.context])
        self._actions([event])

    def _read(self, user: str, live: UserEvents) -> UserHistory:
        row = self.users.get(user, 0)
        past, dropped = self.past.of(row), 0
        if live.dropped:  # what lies between the past and the events that are left is gone, so the past is too
            dropped = past.num_exposures + live.dropped
            past = past.take(np.zeros(0, np.int64))
        identity = -1 - np.arange(past.num_exposures)
        if live.events:
            known = set(zip(past.time.tolist(), past.item.tolist(), strict=True))
            item = self.catalogue.find([event.item for event in live.events])
            fresh = [
                place
                for place, (event, own) in enumerate(zip(live.events, item.tolist(), strict=True))
                if own == 0 or (event.time, own) not in known
            ]
            events, item = [live.events[place] for place in fresh], item[fresh]
            if events:
                revisions = np.array([live.revisions[place] for place in fresh], np.int64)
                past = joined([past, self._timeline(past, events, item)], one_user=True)
                identity = np.concatenate([identity, revisions])
        order = np.lexsort((past.item, past.position, past.request, past.time))
        timeline = past.take(order)
        if self.schema.columns.request is None and live.events:
            gap = self.schema.requests.gap_seconds
            numbers = requests_by_gap(np.zeros(len(order), np.int64), timeline.time, gap)
            timeline = replace(timeline, request=numbers)
        stamps = np.stack([identity[order], timeline.item, self.catalogue.revisions[timeline.item]], axis=1)
        return UserHistory(user=user, row=row, timeline=timeline, stamps=stamps, dropped=dropped)

    def _timeline(self, past: Timelines, events: Sequence[Event], item: Ints) -> Timelines:
        """Live events as rows behind the past's."""
        before = int(past.request.max()) + 1 if past.num_exposures else 0
        names = [(event.request or f"@{event.time}") for event in events]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        tasks, censored, feedback = self._actions(events)
        return exposures(
            past,
            len(events),
            time=[event.time for event in events],
            request=[before + number[name] for name in names],
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
            name: [vocabulary.get(str(event.actions.get(name)), 0) for event in events]
            for name, vocabulary in self.feedback.items()
        }
        return tasks, censored, feedback


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
    raise RequestError(f"actions: {name} of item {event.item!r} must be {wanted}, found {value!r}")
