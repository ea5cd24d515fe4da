"""The window statistics of a service: counts of its prepared log and of later events."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.counted_features import codes_of_indices, counted_features
from genrank.data.live_statistics import LiveStatistics
from genrank.data.manifest import Manifest
from genrank.data.past_counts import PastCounts
from genrank.data.request import load_events
from genrank.data.requests import request_times
from genrank.data.statistics import Events, statistics_tasks
from genrank.data.window_statistics import WindowStatistics
from genrank.inference.histories import Histories, known_time, request_id, requests_of
from genrank.inference.names import NameNumbers
from genrank.inference.store import Change, Event

Ints = NDArray[np.int64]
DAY = 86_400  # seconds


class ServedStatistics:
    """Window statistics for users by name; users who are in no table are counted separately from one another.

    The log's counts are those of its totals, unless the model counts in another way or doesn't know all days; the first
    request or event of more than two days before the log's end has the whole log read.

    Exposures of a request that come in one call don't count for one another's residuals.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, histories: Histories, *, events: Sequence[Event], until: int | None
    ):
        """events: those in the store already; events that the prepared log has too count once."""
        self.schema, self.histories = manifest.schema, histories
        self.tasks = statistics_tasks(manifest.schema)
        self._names = NameNumbers(max(histories.users.values(), default=0) + 1)  # of users whom no table has
        with histories.collected(event.user for event in events):
            fresh = [event for event in events if not histories.prepared(event)]
        self._fresh = self._events(fresh, [1] * len(fresh)) if fresh else None
        self._prepared = counted_features(folder, manifest.schema)
        self._codes = codes_of_indices(folder, manifest.schema)
        self._known_items = histories.catalogue.version
        self._folder, self._manifest, self._until, self._lock = folder, manifest, until, threading.Lock()
        self._end = (Manifest.load(folder).layout.last_day + 1) * DAY  # days that are added later aren't counted
        past = PastCounts.open(folder, manifest) if until is None else None
        if past is not None and self._fresh is not None and self._fresh.request_time.min() < past.until:
            past = None
        self.live = LiveStatistics(self._whole_log(until) if past is None else self._recent(past))

    def _recent(self, past: PastCounts) -> WindowStatistics:
        """Of the folder's totals and the fresh events."""
        fresh = Events.none(self.schema) if self._fresh is None else self._fresh
        rates = self._manifest.base_rates
        return WindowStatistics(self.schema, fresh, rates=rates, item_features=self._features(), past=past)

    def _whole_log(self, until: int | None) -> WindowStatistics:
        """Of all events before `until` (seconds) if given, for questions of any time."""
        log = load_events(self._folder, self._manifest, until=until)
        log = log if self._fresh is None else log.joined(self._fresh)
        return WindowStatistics(self.schema, log, rates=self._manifest.base_rates, item_features=self._features())

    def _reach_back(self, time: int) -> None:
        """Read the whole log, once, if a time (seconds) is before those that its totals answer."""
        past = self.live.log.past
        if past is not None and time < past.until:
            self.live = self.live.over(self._whole_log(self._end))

    def answers(self, user: str, items: Ints, time: int) -> NDArray[np.float16]:
        """(C, S) statistics of candidates at one time."""
        self._learn_items()
        with self._lock:
            self._reach_back(time)
        key = self.histories.users.get(user) or self._names.find(user)
        return self.live.answers(np.full(len(items), key), items, np.full(len(items), time))

    def count(self, changes: Iterable[Change]) -> None:
        """Update the counts by changes in the store."""
        events, signs = [], []
        for change in changes:
            if self.histories.prepared(change.event):
                continue
            for event, sign in ((change.before, -1), (change.event, 1)):
                if event is not None:
                    events.append(event)
                    signs.append(sign)
        if events:
            self._learn_items()
            counted = self._events(events, signs)
            with self._lock:
                self._reach_back(int(counted.request_time.min()))
                self.live.add(counted)

    def _learn_items(self) -> None:
        version = self.histories.catalogue.version
        if version != self._known_items:
            self.live.know_items(self._features())
            self._known_items = version

    def _features(self) -> Mapping[str, Any]:
        return self.histories.catalogue.over(self._prepared, self._codes)

    def _events(self, events: Sequence[Event], signs: Sequence[int]) -> Events:
        known = self.histories.users
        user = np.array([known.get(event.user) or self._names.add(event.user) for event in events], np.int64)
        time = np.array([event.time for event in events], np.int64)
        return Events(
            user=user,  # type: ignore[arg-type]  # wider than the tables' rows, which it may go beyond
            item=self.histories.catalogue.find([event.item for event in events]).astype(np.int32),
            time=np.array([known_time(event, self.schema) for event in events], np.int64),
            request_time=self._request_times(user, events, time),
            target=np.ones(len(events), np.bool_),
            labels={task: np.array([_label(event, task) for event in events], np.int8) for task in self.tasks},
            sign=np.array(signs, np.int8),
        )

    def _request_times(self, user: Ints, events: Sequence[Event], time: Ints) -> Ints:
        code: dict[str, int] = {}
        key = np.array([code.setdefault(request_id(event), len(code)) for event in events], np.int64)
        number = requests_of(user, key, time, (np.arange(len(events)),), self.schema)
        order = np.argsort(user, kind="stable")
        times = np.empty_like(time)
        times[order] = request_times(user[order], number[order], time[order])
        return times


def _label(event: Event, task: str) -> int:
    value = event.actions.get(task, False)
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else -1
