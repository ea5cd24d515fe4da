"""The service as a feed's backend meets it: a real server, real sockets."""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from conftest_service import Running
from genrank import GenRanker
from genrank.cli import main
from genrank.client import Client, ServiceError

Serve = Callable[..., Running]


@pytest.fixture
def items(data: Path) -> list[str]:
    return pq.read_table(data / "items.parquet").column("id").to_pylist()[1:9]


@pytest.fixture
def user(data: Path) -> str:
    return str(pq.read_table(data / "users.parquet").column("id").to_pylist()[1])


def test_a_days_work(serve: Serve, run: Path, items: list[str], user: str) -> None:
    """One server for all: starting one takes seconds."""
    running = serve()
    with running.client() as client:
        ranks_as_offline(client, run, items, user)
        takes_events(client, items)
        takes_items(client, items, user)
        says_what_is_wrong(client, running, items, user)
        counts(running)
    assert raw(running, "GET", "/v1/users/seen", **{"x-forwarded-for": "203.0.113.9"})[0] == 200
    assert running.stop() == 0
    lines = [json.loads(line) for line in running.said]  # all of them: nothing else is on stderr
    assert "serving" in lines[0]["message"]
    assert not any("there is no token" in line for line in running.said)
    assert callers(running) == ["127.0.0.1"]  # no proxy is trusted to say who calls
    assert {"time", "level", "request_id", "method", "path", "status", "ms", "client"} == set(lines[1])


def ranks_as_offline(client: Client, run: Path, items: list[str], user: str) -> None:
    ranker = GenRanker.load(run)
    offline = ranker.rank(user, items, context={"device": "phone"})
    for turn in range(2):
        served = client.rank(user, items, time=offline.time, context={"device": "phone"})
        assert [place["item"] for place in served["places"]] == [place.item for place in offline.places]
        for place, expected in zip(served["places"], offline.places, strict=True):
            assert place["scores"] == pytest.approx(expected.scores, abs=1e-5, rel=1e-5)
        assert served["history"] == offline.num_history > 0
        assert served["encoded"] == (0 if turn else served["history"])
    best = client.rank(user, items, time=offline.time, top_k=2, tasks=["like"], value={"like": 1.0})
    assert len(best["places"]) == 2
    assert set(best["places"][0]["scores"]) == {"like"}
    own = client.rank(user, [items[0], {"item": items[1], "context": {"device": "tablet"}}], time=offline.time)
    assert len(own["places"]) == 2


def takes_events(client: Client, items: list[str]) -> None:
    now = int(time.time()) + 3600  # clocks may differ
    event = {"user": "new/user", "item": items[0], "time": now, "actions": {"click": True, "dwell": 3.5}}
    assert client.send_events([event]) == {"received": 1, "changed": 1}
    assert client.send_events([event, {**event, "time": now + 60}]) == {"received": 2, "changed": 1}
    found = client.user("new/user")
    assert not found["known"]
    assert found["exposures"] == 2
    assert found["window"][0] == {
        "item": items[0],
        "time": now,
        "actions": {"click": True, "like": False, "follow": False, "dwell": 3.5},
    }
    assert client.rank("new/user", items, time=now + 60)["history"] == 1
    assert client.rank("new/user", items, time=now + 61)["history"] == 2
    assert client.rank("new/user", items)["history"] == 0  # now is before


def takes_items(client: Client, items: list[str], user: str) -> None:
    assert not client.rank(user, ["brand new"])["places"][0]["known"]
    assert client.put_items([{"item": "brand new", "features": {"length": 30.0}}]) == {"received": 1, "new": 1}
    assert client.rank(user, ["brand new"])["places"][0]["known"]
    assert client.put_items([{"item": "brand new"}, {"item": items[0]}]) == {"received": 2, "new": 0}


def says_what_is_wrong(client: Client, running: Running, items: list[str], user: str) -> None:
    def refused(status: int, said: str, call: Callable[[], Any]) -> None:
        with pytest.raises(ServiceError, match=said) as problem:
            call()
        assert problem.value.status == status

    refused(422, "candidates", lambda: client.rank(user, []))
    refused(400, "given twice", lambda: client.rank(user, [items[0], items[0]]))
    refused(400, "did you mean 'device'", lambda: client.rank(user, items, context={"devise": "x"}))
    refused(400, "no task 'clik'", lambda: client.rank(user, items, value={"clik": 1.0}))
    refused(400, "no formula 'x'", lambda: client.rank(user, items, value="x"))
    refused(400, "no task 'x'", lambda: client.rank(user, items, tasks=["x"]))
    refused(400, "send at most 2000", lambda: client.rank(user, [str(n) for n in range(2001)]))
    refused(400, "no task or feedback", lambda: client.send_events([event(items, actions={"clik": 1})]))
    refused(400, "true, false or null", lambda: client.send_events([event(items, actions={"click": "yes"})]))
    refused(422, "events.0.time", lambda: client.send_events([event(items, time="now")]))
    refused(422, "events.0.cilck", lambda: client.send_events([event(items, cilck=True)]))
    refused(400, "no feature 'colour'", lambda: client.put_items([{"item": "x", "features": {"colour": "red"}}]))
    refused(404, "Not Found", lambda: client._call("GET", "/v2/rank"))
    refused(413, "send less at once", lambda: client.rank("u" * 5_000_000, items))
    for method, path, body, status in (
        ("POST", "/v1/rank", b"{", 422),
        ("POST", "/v1/rank", b"\xff\xfe", 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": ["i"], "time": 1e99}', 422),
        ("POST", "/v1/rank", b"null", 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": ["i"], "context": {"item_age": NaN}}', 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": ["i"], "context": {"item_age": 1e999}}', 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": [true]}', 422),
        ("POST", "/v1/rank", b'{"user": "", "candidates": ["i"]}', 422),
        ("POST", "/v1/rank", b'{"user": "\\ud800", "candidates": ["i"]}', 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": ["i"], "context": ' + b"[" * 5000, 422),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": ["i"], "context": {"item_age": 1%s}}' % (b"0" * 400), 422),
        ("POST", "/v1/events", b'{"events": [{"user": "p", "item": "i", "time": 1, "position": 99999999999}]}', 422),
        (
            "POST",
            "/v1/events",
            b'{"events": [{"user": "p", "item": "i", "time": 1, "actions": {"dwell": 1e300}}]}',
            400,
        ),
        ("POST", "/v1/events", b'{"events": [{"user": "p", "item": "\\ud800", "time": 1}]}', 422),
        ("PUT", "/v1/items", b'{"items": [{"item": "n", "features": {"length": NaN}}]}', 422),
        ("DELETE", "/v1/rank", b"", 405),
    ):
        answered, content = raw(running, method, path, body)
        assert answered == status, (body, content)
    assert raw(running, "POST", "/v1/rank", b"{}", **{"content-type": "text/plain"})[0] == 415
    assert client.rank("p", items)["history"] == 0  # nothing of that was kept
    assert client.ready()["status"] == "ready"


def event(items: list[str], **changes: Any) -> dict[str, Any]:
    return {"user": "u", "item": items[0], "time": 1_790_000_000, **changes}


def raw(running: Running, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    parts = urlsplit(running.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request(method, path, body, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def counts(running: Running) -> None:
    status, page = raw(running, "GET", "/metrics")
    assert status == 200
    text = page.decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['genrank_requests_total{route="/v1/rank",status="200"}']) >= 8
    assert float(figures['genrank_requests_total{route="/v1/rank",status="400"}']) >= 6
    assert float(figures["genrank_cache_hits_total"]) >= 1
    assert float(figures["genrank_cache_bytes"]) > 0
    assert float(figures["genrank_events_total"]) == 2
    assert "genrank_model_info" in text
    paths = json.loads(raw(running, "GET", "/openapi.json")[1])["paths"]
    assert {"/v1/rank", "/v1/events", "/v1/items", "/v1/users/{user}"} <= set(paths)


def test_a_token_is_asked_for_and_what_came_outlives_the_service(serve: Serve, items: list[str]) -> None:
    running = serve("--token", "secret", "--host", "0.0.0.0")
    assert not any("there is no token" in line for line in running.said)
    assert raw(running, "GET", "/health/live")[0] == 200
    assert raw(running, "GET", "/metrics")[0] == 401
    for token in ("", "guess"):
        with running.client(token=token) as client, pytest.raises(ServiceError, match="bearer token"):
            client.user("u")
    with running.client(token="secret") as client:
        client.send_events([event(items)])
        client.put_items([{"item": "brand new", "features": {"length": 30.0}}])
        before = client.rank("u", [*items, "brand new"])["places"]
    assert running.stop() == 0
    with serve("--token", "secret").client(token="secret") as client:
        assert client.user("u")["exposures"] == 1
        after = client.rank("u", [*items, "brand new"])["places"]
    assert [place["value"] for place in after] == pytest.approx([place["value"] for place in before], abs=1e-5)
    assert all(place["known"] for place in after)


def callers(running: Running) -> list[str]:
    """Who asked for the user `seen`, by the log."""
    return [json.loads(line)["client"] for line in running.said if '"/v1/users/seen"' in line]


def test_a_trusted_proxy_says_who_calls_and_an_address_beyond_this_machine_needs_a_token(serve: Serve) -> None:
    running = serve("--trust-proxy", "127.0.0.0/8", "--host", "0.0.0.0")
    assert raw(running, "GET", "/v1/users/seen", **{"x-forwarded-for": "203.0.113.9"})[0] == 200
    assert running.stop() == 0  # then its log is whole
    assert callers(running) == ["203.0.113.9"]
    assert any("there is no token" in line for line in running.said)


def test_an_address_that_cannot_be_taken(serve: Serve, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = urlsplit(serve().url).port
    assert main(["serve", str(run), "--port", str(port)]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert main(["serve", str(run), "--port", "99999"]) == 2
    assert "at most 65535" in capsys.readouterr().err
    assert main(["serve", str(run), "--set", "deadlien=1.0"]) == 2
    assert "did you mean 'deadline'" in capsys.readouterr().err
