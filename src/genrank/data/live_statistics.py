"""Window statistics of a prepared log and of later events, by the definitions of data/statistics.py.

Counts are sums, so those of the log and of later events add up. Later events are kept in a few parts, each at most an
eighth of the one before it, so that an event is counted again only a few times. An exposure's residual is fixed when
it arrives: a late exposure changes the counts, but not the residuals of the exposures after it.

Shapes: N exposures, Q questions, S columns.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from genrank.data.counting import Ints
from genrank.data.statistics import Entity, Events, Halves
from genrank.data.window_statistics import Rows, WindowStatistics

RATIO = 8
Residuals = Mapping[Entity, Mapping[str, Ints]]


class LiveStatistics:
    """Safe to use from several threads."""

    def __init__(self, log: WindowStatistics):
        """`log`: the statistics of the prepared log."""
        self.log = log
        self._parts: list[WindowStatistics] = []
        self._lock = threading.Lock()

    def over(self, log: WindowStatistics) -> "LiveStatistics":
        """The same later events, over another account of the same log."""
        found = LiveStatistics(log)
        with self._lock:
            found._parts = list(self._parts)
        return found

    @property
    def num_events(self) -> int:
        """The number of exposures added since, and of removals."""
        return sum(len(part.events.time) for part in self._parts)

    def know_items(self, item_features: Mapping[str, Any]) -> None:
        """See WindowStatistics."""
        with self._lock:
            self.log.know_items(item_features)

    def answers(self, user: Rows, item: Rows, time: Ints) -> Halves:
        """(Q, S) float16."""
        with self._lock:
            return self.log.answers(user, item, time, beside=self._parts)

    def add(self, events: Events) -> None:
        """Count exposures. Those of the same request don't count for one another; those of earlier requests do."""
        for start in np.unique(events.request_time).tolist():
            own = events.take(np.flatnonzero(events.request_time == start))
            with self._lock:
                residuals = self.log.residuals_of(own, beside=self._parts)
                self._parts.append(self._part(own, residuals))
                while len(self._parts) > 1 and RATIO * _size(self._parts[-1]) > _size(self._parts[-2]):
                    self._merge()

    def _merge(self) -> None:
        other, one = self._parts.pop(), self._parts.pop()
        residuals = {
            owner: {task: np.concatenate([values, other.residuals[owner][task]]) for task, values in tasks.items()}
            for owner, tasks in one.residuals.items()
        }
        self._parts.append(self._part(one.events.joined(other.events), residuals))

    def _part(self, events: Events, residuals: Residuals) -> WindowStatistics:
        columns = self.log.columns
        return WindowStatistics(
            self.log.schema, events, rates=self.log.rates, item_features=columns, residuals=residuals
        )


def _size(part: WindowStatistics) -> int:
    return len(part.events.time)
