"""Several service processes over one Redis, and what they do when it is gone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest_service import Running
from genrank.artifacts.bundle import load_bundle
from genrank.client import ServiceError
from genrank.inference.catalogue import Item
from genrank.inference.redis_store import RedisStore
from genrank.inference.store import Event, StoreUnavailable
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions
from redis_server import RedisServer

pytestmark = pytest.mark.redis
LATER = 1_790_000_000


@pytest.fixture
def worker(counted: Path, redis_server: RedisServer) -> Iterator[Callable[[], RankingService]]:
    started = []

    def start() -> RankingService:
        store = RedisStore(redis_server.url, timeout=1.0)
        started.append(RankingService(load_bundle(counted), store=store, options=ServiceOptions(deadline=20.0)))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def values(service: RankingService, *candidates: str, user: str = "u") -> dict[str, float]:
    answer = service.rank(PipelineQuery(user=user, candidates=candidates, time=LATER + 1000)).result(20)
    assert answer.history_current
    return {place.item: place.value for place in answer.places}


def test_what_one_worker_learns_all_know(worker: Callable[[], RankingService]) -> None:
    one, other = worker(), worker()
    before = values(other, "new", "i1")
    assert one.put_items([Item(id="new", features={"length": 20.0})]) == 1
    for turn in range(6):
        told = (one, other)[turn % 2]
        assert told.take_events([Event(user="u", item="new", time=LATER + turn, actions={"click": True})]) == 1
        assert told.take_events([Event(user="u", item="new", time=LATER + turn, actions={"click": True})]) == 0
    for each in (one, other):
        each.catch_up()
    after = values(one, "new", "i1")
    assert after["new"] != pytest.approx(before["new"], abs=1e-6)
    assert values(other, "new", "i1") == after
    assert values(worker(), "new", "i1") == pytest.approx(after, abs=1e-6)  # one that starts now
    assert other.put_items([Item(id="new", features={"length": 20.0})]) == 0


def test_workers_follow_by_themselves(worker: Callable[[], RankingService]) -> None:
    one, other = worker(), worker()
    one.put_items([Item(id="new", features={"length": 20.0})])
    until = time.monotonic() + 10
    while not other.deployed.context.catalogue.find(["new"])[0]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_redis_that_lost_everything(worker: Callable[[], RankingService], redis_server: RedisServer) -> None:
    """Workers rank by what is left, not by what they remember."""
    service = worker()
    empty = values(service, "i1", "i2")
    service.take_events([Event(user="u", item="i1", time=LATER, actions={"click": True})])
    told = values(service, "i1", "i2")
    redis_server.send("FLUSHALL")
    service.catch_up()
    assert values(service, "i1", "i2") == pytest.approx(empty, abs=1e-6)
    assert service.user("u")["exposures"] == 0
    service.take_events([Event(user="u", item="i1", time=LATER, actions={"like": True})])  # the first revision again
    anew = values(service, "i1", "i2")
    assert anew != pytest.approx(told, abs=1e-6)
    assert values(worker(), "i1", "i2") == pytest.approx(anew, abs=1e-6)


def test_redis_gone_slow_and_back(worker: Callable[[], RankingService], redis_server: RedisServer) -> None:
    service = worker()
    service.take_events([Event(user="u", item="i1", time=LATER, actions={"click": True})])
    request = PipelineQuery(user="u", candidates=("i1", "i2"), time=LATER + 1000)
    known = service.rank(request).result(20)
    for leave, come_back in (
        (redis_server.kill, redis_server.start),
        (redis_server.pause, redis_server.resume),
    ):
        leave()
        answer = service.rank(request).result(20)
        assert not answer.history_current
        assert answer.places == known.places
        assert service.rank(PipelineQuery(user="nobody", candidates=("i1",), time=LATER)).result(20).num_history == 0
        assert not service.user("u")["current"]
        with pytest.raises(StoreUnavailable):
            service.take_events([Event(user="u", item="i2", time=LATER + 1)])
        come_back()
        until = time.monotonic() + 30
        while not (answer := service.rank(request).result(20)).history_current:
            assert time.monotonic() < until
            time.sleep(0.05)
    sent = Event(user="u", item="i2", time=LATER + 1)
    service.take_events([sent])  # whether or not the one before was kept although it was refused
    assert service.take_events([sent]) == 0
    assert service.rank(request).result(20).num_history == 2


def test_over_http(serve: Callable[..., Running], redis_server: RedisServer) -> None:
    one, other = (serve("--store", redis_server.url + "#feed") for _ in range(2))
    sent = [{"user": "u", "item": f"i{turn}", "time": LATER + turn} for turn in range(4)]
    with one.client() as first, other.client() as second:
        assert first.send_events(sent)["changed"] == 4
        assert second.send_events(sent)["changed"] == 0
        assert second.rank("u", ["i1"], time=LATER + 100)["history"] == 4
        redis_server.kill()
        with pytest.raises(ServiceError, match="send it again") as refused:
            first.send_events([{"user": "u", "item": "i9", "time": LATER + 9}])
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        answer = second.rank("u", ["i1"], time=LATER + 100)
        assert (answer["history"], answer["history_current"]) == (4, False)
        redis_server.start()
        until = time.monotonic() + 30
        while not second.rank("u", ["i1"], time=LATER + 100)["history_current"]:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert one.stop() == other.stop() == 0
    assert any("answers again" in line for line in other.said)
