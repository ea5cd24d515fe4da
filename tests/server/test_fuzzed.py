"""Whatever is sent to it, the service answers as its OpenAPI page says, and never with a 500."""

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hypothesis import HealthCheck

from amounts import examples
from conftest_service import Running
from genrank.client import Client

Serve = Callable[..., Running]


def test_any_request_gets_an_answer_that_the_page_describes(serve: Serve) -> None:
    import schemathesis  # takes two seconds
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    running = serve()
    page = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    sent: dict[str, int] = {}
    for operation in page.get_all_operations():
        ready = operation.ok()

        def call(case: schemathesis.Case) -> None:
            response = case.call(timeout=20)
            checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
            case.validate_response(response, checks=checks)
            sent[case.operation.label] = sent.get(case.operation.label, 0) + 1

        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode is schemathesis.GenerationMode.NEGATIVE and not ready.body:
                continue  # nothing that is wrong can be sent to it
            run(ready.as_strategy(generation_mode=mode), call)
    assert {"POST /v1/rank", "POST /v1/events", "PUT /v1/items", "GET /v1/users/{user}"} <= set(sent)
    with running.client() as client:
        assert client.ready()["status"] == "ready"


def run(strategy: object, call: Callable[[Any], None]) -> None:
    from hypothesis import given

    tried = given(case=strategy)(call)
    examples(40, 8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))(tried)()


def test_killed_under_traffic_it_has_every_acknowledged_event_once(serve: Serve, tmp_path: Path) -> None:
    running = serve()
    acknowledged: list[int] = []
    stopped = threading.Event()

    def send(first: int) -> None:
        number = first
        with running.client() as client:
            while not stopped.is_set():
                told = [{"user": f"u{n % 3}", "item": f"i{n}", "time": 1_790_000_000 + n} for n in (number, number + 4)]
                try:
                    client.send_events(told)
                except (OSError, http.client.HTTPException):
                    return
                acknowledged.extend((number, number + 4))
                number += 8

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    while len(acknowledged) < 60 and time.monotonic() < until:
        time.sleep(0.01)
    running.process.kill()
    stopped.set()
    for thread in threads:
        thread.join()
    assert len(acknowledged) >= 60
    with serve().client() as client:
        found = [event["time"] - 1_790_000_000 for user in ("u0", "u1", "u2") for event in all_events(client, user)]
        assert len(set(found)) == len(found)
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 8  # of four calls that were not answered
        sent_again = [{"user": f"u{n % 3}", "item": f"i{n}", "time": 1_790_000_000 + n} for n in acknowledged[:50]]
        assert client.send_events(sent_again)["changed"] == 0


def all_events(client: Client, user: str) -> list[dict[str, int]]:
    answer = client.user(user)
    assert answer["exposures"] == len(answer["window"])  # short enough to be shown whole
    return list(answer["window"])


def test_a_body_that_never_comes_does_not_hold_up_others(serve: Serve) -> None:
    running = serve()
    parts = urlsplit(running.url)
    half = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    half.putrequest("POST", "/v1/rank")
    half.putheader("Content-Length", "100")
    half.endheaders(b'{"user": "u"')
    with running.client() as client:
        assert client.rank("u", ["i1"])["places"]
    half.close()
    with running.client() as client:
        assert client.rank("u", ["i1"])["places"]
