"""The service's clock: events it can't have come to, and what is said when it is set back."""

import os
from pathlib import Path

import pytest

from genrank.artifacts.bundle import Bundle, load_bundle
from genrank.errors import RequestError
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.server.clock import AHEAD, Clock
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions

NOW = 1_790_000_000


class Time:
    """The machine's clock."""

    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def bundle(run) -> Bundle:
    return load_bundle(run)


@pytest.fixture
def service(bundle: Bundle, time: Time) -> RankingService:
    made = RankingService(bundle, store=SQLiteStore(":memory:"), options=ServiceOptions(deadline=20.0))
    made.clock = Clock(now=time)
    return made


def test_events_further_ahead_than_a_log_may_be_are_refused(time: Time) -> None:
    clock = Clock(now=time)
    clock.check(Event(user="u", item="i", time=NOW + AHEAD))
    for ahead in (
        Event(user="u", item="i", time=NOW + AHEAD + 1),
        Event(user="u", item="i", time=5, known_at=2**40 - 1),
    ):
        with pytest.raises(RequestError, match="milliseconds are divided by 1000"):
            clock.check(ahead)


def test_a_clock_that_is_set_back_refuses_no_real_event(time: Time) -> None:
    clock = Clock(now=time)
    assert clock.now() == NOW
    time.now -= 400 * AHEAD
    clock.check(Event(user="u", item="i", time=NOW + AHEAD))
    Clock(earliest=NOW, now=time).check(Event(user="u", item="i", time=NOW))  # nor before it has been asked


def test_a_clock_that_was_set_back_while_the_service_was_down_is_seen(bundle: Bundle, tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite")
    store.append([Event(user="u", item="i", time=NOW)])
    os.utime(tmp_path / "s.sqlite", (0, store.last_written() + 365 * AHEAD))
    service = RankingService(bundle, store=store, options=ServiceOptions(deadline=20.0))
    assert service.rank(PipelineQuery(user="u", candidates=("a",))).result().clock_behind > 364 * AHEAD
    service.take_events([Event(user="u", item="i", time=int(store.last_written()))])  # as a right clock has it


def test_a_future_event_leaves_the_real_ones_where_they_are(service: RankingService) -> None:
    service.take_events([Event(user="u", item="real", time=NOW - 5)])
    with pytest.raises(RequestError, match="days after now"):
        service.take_events([Event(user="u", item="real", time=NOW), Event(user="u", item="far", time=NOW + 10**8)])
    assert service.user("u")["exposures"] == 1


def test_a_clock_that_is_set_back_is_said_in_answers(
    service: RankingService, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    request = PipelineQuery(user="u", candidates=("a",))
    assert service.rank(request).result().clock_behind == 0
    time.now -= 1  # as a clock that is kept right may be
    assert service.rank(request).result().clock_behind == 0
    time.now -= 59
    for _ in range(3):
        answer = service.rank(request).result()
        assert (answer.clock_behind, answer.time) == (60, NOW - 60)
    assert service.rank(PipelineQuery(user="u", candidates=("a",), time=NOW)).result().clock_behind == 0
    assert caplog.text.count("the clock is 60 s behind") == 1
    time.now = NOW + 1
    assert service.rank(request).result().clock_behind == 0
