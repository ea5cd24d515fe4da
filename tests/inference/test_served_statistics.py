"""The window statistics of a service: what the log has already counts once, and new items count by their features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import growing_logs
from counted_logs import random_log, schema
from exposure_logs import Prepared, prepare_log
from genrank.data.past_counts import PastCounts
from genrank.data.prepared import PreparedData
from genrank.data.statistics import statistics_columns
from genrank.inference.catalogue import Catalogue, Item
from genrank.inference.histories import Histories
from genrank.inference.pasts import PastInMemory
from genrank.inference.served_statistics import ServedStatistics
from genrank.inference.store import Change, Event
from genrank.preparation.extending import extend
from genrank.preparation.sources.files import files
from growing_logs import DAY, OPTIONS, START


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_log(tmp_path_factory.mktemp("served"), random_log(3), schema(request=True, gap=60))


def histories_of(prepared: Prepared) -> Histories:
    data, manifest = PreparedData.load(prepared.folder), prepared.manifest
    return Histories(
        prepared.folder,
        manifest,
        past=PastInMemory(prepared.folder, manifest.spec),
        catalogue=Catalogue(data.items, prepared.folder, manifest),
        users=data.users,
    )


@pytest.fixture
def histories(prepared: Prepared) -> Histories:
    return histories_of(prepared)


def served(prepared: Prepared, histories: Histories, *events: Event) -> ServedStatistics:
    return ServedStatistics(prepared.folder, prepared.manifest, histories, events=events, until=None)


def logged(prepared: Prepared) -> Event:
    """The last exposure of the log, as if it were sent again with a click."""
    row = max(prepared.rows(), key=lambda row: row["time"])
    return Event(user=row["user"], item=row["item"], time=row["time"], actions={"click": True})


def answers(statistics: ServedStatistics, event: Event, item: str) -> list[float]:
    rows = statistics.histories.catalogue.find([item])
    return statistics.answers(event.user, rows, event.time + 60)[0].tolist()


def test_events_count_once_whether_they_were_stored_before_or_come_later(
    prepared: Prepared, histories: Histories
) -> None:
    known = logged(prepared)
    fresh = Event(user=known.user, item=known.item, time=known.time + 25, actions={"click": True})
    log_only, before, later = (served(prepared, histories, *events) for events in ((), (known, fresh), (known,)))
    assert answers(later, fresh, known.item) == answers(log_only, fresh, known.item)
    later.count([Change(known, None)])
    assert later.live.num_events == 0
    later.count([Change(fresh, None), Change(known, None)])
    assert later.live.num_events == 1
    assert answers(later, fresh, known.item) == answers(before, fresh, known.item)
    assert answers(before, fresh, known.item) != answers(log_only, fresh, known.item)


def test_an_item_that_comes_later_has_the_statistics_of_its_author(prepared: Prepared, histories: Histories) -> None:
    known, statistics = logged(prepared), served(prepared, histories)
    histories.catalogue.put([Item(id="new", features={"author": "a"})])
    of_author = [name.startswith("author_") for name in statistics_columns(prepared.manifest.schema)]
    found, other = (np.array(answers(statistics, known, item))[of_author] for item in ("new", "i0"))
    assert found.tolist() == other.tolist()  # i0 is of author a
    assert found.any()


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Histories]:
    """Six days, of which totals answer for the last three."""
    prepared = prepare_log(tmp_path_factory.mktemp("days"), growing_logs.random_log(3), growing_logs.SCHEMA, OPTIONS)
    return prepared, histories_of(prepared)


@pytest.mark.parametrize("early", [False, True])
def test_totals_answer_as_the_whole_log_does(
    days: tuple[Prepared, Histories], monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """With events of before, and events and questions that come later; early: some of them of before the totals."""
    prepared, histories = days
    end = prepared.manifest.split.last_time
    stored = [Event(user="u1", item="i2", time=end + 60, actions={"click": True})]
    later = [Event(user=f"u{n}", item=f"i{n}", time=end + 600 * n, actions={"click": n % 2 == 0}) for n in range(1, 5)]
    if early:
        later.append(Event(user="u1", item="i1", time=START + 7, actions={"click": True}))
    totals = served(prepared, histories, *stored)
    monkeypatch.setattr(PastCounts, "open", lambda *_: None)
    whole = served(prepared, histories, *stored)
    assert totals.live.log.past is not None
    assert whole.live.log.past is None
    items = np.arange(len(histories.catalogue.table))
    for statistics in (totals, whole):
        statistics.count([Change(event, None) for event in later])
    assert (totals.live.log.past is None) == early
    assert totals.live.num_events == whole.live.num_events == len(later)
    for time in [end + 5000, end + 3 * DAY, end - DAY, *([START + DAY] if early else [])]:
        for user in ("u0", "u1", "u2", "nobody"):
            found = totals.answers(user, items, time)
            assert found.tobytes() == whole.answers(user, items, time).tobytes()
    assert found.any()


def test_a_question_from_before_the_totals_has_the_whole_log_read_once(days: tuple[Prepared, Histories]) -> None:
    prepared, histories = days
    statistics = served(prepared, histories)
    statistics.answers("u1", np.arange(3), START + 2 * DAY)
    whole = statistics.live.log
    assert whole.past is None
    statistics.answers("u1", np.arange(3), START + DAY)
    assert statistics.live.log is whole


def test_days_that_are_added_while_a_service_runs_do_not_count(tmp_path: Path) -> None:
    first, more = growing_logs.by_days(growing_logs.random_log(3), [4])
    prepared = prepare_log(tmp_path, first, growing_logs.SCHEMA, OPTIONS)
    histories = histories_of(prepared)
    before, after = served(prepared, histories), served(prepared, histories)
    early, late, items = START + DAY // 2, START + 9 * DAY, np.arange(4)
    expected = [before.answers("u1", items, time).tobytes() for time in (early, late)]
    assert before.live.log.past is None
    pq.write_table(pa.table(more), tmp_path / "more.parquet")
    extend(files([tmp_path / "more.parquet"], schema=growing_logs.SCHEMA), prepared.folder, options=OPTIONS)
    assert [after.answers("u1", items, time).tobytes() for time in (early, late)] == expected
    assert after.live.log.past is None


def test_totals_that_were_counted_otherwise_are_not_used(days: tuple[Prepared, Histories]) -> None:
    prepared, _ = days
    manifest = prepared.manifest
    assert PastCounts.open(prepared.folder, manifest) is not None
    assert PastCounts.open(prepared.folder, replace(manifest, base_rates={"click": 0.9})) is None
    smoother = replace(manifest.schema, statistics=replace(manifest.schema.statistics, smoothing=7.0))
    assert PastCounts.open(prepared.folder, replace(manifest, schema=smoother)) is None
