"""Statistics that are counted as events come are those that `prepare` counts afterwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counted_logs import random_log, schema
from exposure_logs import prepare_log
from genrank.data.counted_features import counted_features
from genrank.data.live_statistics import LiveStatistics
from genrank.data.request import load_statistics
from genrank.data.requests import request_times
from genrank.data.statistics import Events
from genrank.data.window_statistics import WindowStatistics


class Log:
    """A prepared log, and the events of some of its rows."""

    def __init__(self, folder: Path, seed: int):
        from genrank.data.prepared import PreparedData

        prepared = prepare_log(folder, random_log(seed, size=240), schema(request=True, gap=0))
        self.data = PreparedData.load(prepared.folder)
        self.features = counted_features(prepared.folder, self.data.manifest.schema)
        self.whole = load_statistics(prepared.folder, self.data.manifest)
        t, user = self.data.timelines, self.data.timelines.users[self.data.timelines.user_of_row()]
        self.request_time = request_times(user.astype(np.int64), t.request, t.time)

    def events(self, rows: np.ndarray) -> Events:
        return self.whole.events.take(rows)

    def statistics(self, rows: np.ndarray) -> WindowStatistics:
        return WindowStatistics(
            self.data.manifest.schema, self.events(rows), rates=self.whole.rates, item_features=self.features
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_counted_as_the_whole_log(seed: int, tmp_path: Path) -> None:
    log = Log(tmp_path, seed)
    t, times = log.data.timelines, log.request_time
    middle = int(np.median(times))
    live = LiveStatistics(log.statistics(np.flatnonzero(times < middle)))
    user, compared = t.users[t.user_of_row()], 0
    for start in np.unique(times[times >= middle]):
        rows = np.flatnonzero(times == start)
        given = live.answers(user[rows], t.item[rows], times[rows])
        assert given.tobytes() == t.statistics[rows].tobytes()
        live.add(log.events(rows))
        compared += len(rows)
    assert compared > 100
    assert live.num_events == compared
    assert len(live._parts) < 8


def test_a_batch_of_requests_is_counted_as_one_after_another(tmp_path: Path) -> None:
    log = Log(tmp_path, 7)
    t, times = log.data.timelines, log.request_time
    middle = int(np.median(times))
    live = LiveStatistics(log.statistics(np.flatnonzero(times < middle)))
    live.add(log.events(np.flatnonzero(times >= middle)))
    rows = np.arange(t.num_exposures)
    given = live.answers(t.users[t.user_of_row()], t.item, times)
    assert given.tobytes() == t.statistics[rows].tobytes()


def test_what_is_taken_back_was_never_there(tmp_path: Path) -> None:
    log = Log(tmp_path, 3)
    t, times = log.data.timelines, log.request_time
    middle, user = int(np.median(times)), t.users[t.user_of_row()]
    live = LiveStatistics(log.statistics(np.flatnonzero(times < middle)))
    late = np.full(t.num_exposures, times.max() + 9)
    before = live.answers(user, t.item, late)
    some = log.events(np.flatnonzero(times == times[times >= middle].min()))
    live.add(some)
    assert live.answers(user, t.item, late).tobytes() != before.tobytes()
    live.add(replace(some, sign=np.full(len(some.time), -1, np.int8)))
    assert live.answers(user, t.item, late).tobytes() == before.tobytes()


def test_new_items_and_users_are_counted(tmp_path: Path) -> None:
    log = Log(tmp_path, 3)
    live = LiveStatistics(log.whole)
    items = len(log.data.items)
    author = np.append(log.features["author"], 1).astype(np.int32)
    features = log.features | {"author": author}
    live.know_items({**features, **{name: _longer(features[name]) for name in log.whole.columns if name != "author"}})
    now = np.array([int(log.request_time.max()) + 100])
    user, item = np.array([10**6]), np.array([items])
    before = live.answers(user, item, now)
    labels = {task: np.ones(1, np.int8) for task in log.whole.tasks}
    live.add(Events(user=user, item=item, time=now - 50, request_time=now - 50, target=np.ones(1, bool), labels=labels))
    after = live.answers(user, item, now)
    assert (after != before).any()
    assert live.answers(user + 1, item * 0, now).tobytes() == live.answers(user + 2, item * 0, now).tobytes()


def _longer(column):
    if hasattr(column, "offsets"):
        return replace(column, offsets=np.append(column.offsets, column.offsets[-1]))
    return np.append(column, 0).astype(column.dtype)
