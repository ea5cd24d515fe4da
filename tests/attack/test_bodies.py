"""No body stops the event loop for more than 50 ms, or holds more than 16 times its size.

The application runs in this process. What is measured is the processor time of the event loop's thread between two
turns, and that of every step of another thread which can't be interrupted; wall-clock time would be the machine's.
"""

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette

from attack.worst_bodies import Attack, all_attacks
from genrank.artifacts.bundle import load_bundle
from genrank.inference.sqlite_store import SQLiteStore
from genrank.server import body_reading as reading
from genrank.server import wire
from genrank.server.app import build_app
from genrank.server.ranking_service import RankingService
from genrank.server.retrieval_service import RetrievalService
from genrank.server.run import SWITCH, settle_objects
from genrank.server.service_options import ServiceOptions

pytestmark = pytest.mark.slow
STOP = 0.05  # seconds
TIMES = 16  # of a body's bytes
SMALL = 4 * 2**20  # bytes that a request may hold, whatever its size
TRIES = 3


@pytest.fixture(scope="module")
def app(run: Path, grank: Path) -> Iterator[Starlette]:
    """A service of rankings and retrieval, with the switches of `genrank serve`."""
    bundle = load_bundle(run)
    store, options = SQLiteStore(":memory:"), ServiceOptions(deadline=60.0)
    service = RankingService(bundle, Path(bundle.config.data), store=store, options=options)
    retrieval = RetrievalService(grank, contexts=service.contexts, options=options)
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    settle_objects()
    yield build_app(service, retrieval)
    sys.setswitchinterval(before)
    retrieval.stop()
    service.stop()


class Longest:
    """The longest of the calls that `timed` has wrapped, in seconds of their thread."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds = max(self.seconds, time.thread_time() - began)

        return call


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Longest:
    """Of the turns of event loops, and of what else holds the interpreter."""
    found = Longest()
    monkeypatch.setattr(asyncio.events.Handle, "_run", found.timed(asyncio.events.Handle._run))
    monkeypatch.setattr(reading, "decoded", found.timed(reading.decoded))
    monkeypatch.setattr(wire, "decoded", found.timed(wire.decoded))
    monkeypatch.setattr(reading.BodyLimits, "check_structure", found.timed(reading.BodyLimits.check_structure))
    return found


async def answer(app: Starlette, attack: Attack) -> tuple[int, bytes]:
    """Its status and body, as a server would call the application."""
    parts = [attack.body[at : at + 2**16] for at in range(0, max(len(attack.body), 1), 2**16)]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        part = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(attack.body)).encode())]
    scope = {
        "type": "http", "http_version": "1.1", "method": attack.method, "path": attack.path, "query_string": b"",
        "raw_path": attack.path.encode(), "root_path": "", "scheme": "http", "headers": headers,
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_no_body_stops_the_loop_or_costs_many_times_its_size(
    app: Starlette, longest: Longest, record_property: Callable[[str, object], None]
) -> None:
    took: dict[str, float] = {}
    held: dict[str, float] = {}
    wrong = []
    for attack in all_attacks():
        times = []
        for _ in range(TRIES):
            longest.seconds = 0.0
            status, said = asyncio.run(answer(app, attack))
            times.append(longest.seconds)
            if longest.seconds < STOP / 4:
                break
        took[attack.name] = min(times)
        if status not in attack.statuses:
            wrong.append((attack.name, status, said[:200]))
        if status != 200:
            error = msgspec.json.decode(said)["error"]
            if not 0 < len(error) <= 350:  # at most 200 of them the caller's
                wrong.append((attack.name, len(error), error[:400]))
    for attack in all_attacks():
        tracemalloc.start()
        asyncio.run(answer(app, attack))
        held[attack.name] = max(tracemalloc.get_traced_memory()[1] - SMALL, 0) / max(len(attack.body), 1)
        tracemalloc.stop()
    for name in sorted(took, key=lambda name: -took[name])[:5]:
        record_property("longest stop", f"{1e3 * took[name]:5.1f} ms  {name}")
    for name in sorted(held, key=lambda name: -held[name])[:5]:
        record_property("most held", f"{held[name]:5.1f} times its size (above 4 MiB)  {name}")
    assert not wrong
    assert {name: seconds for name, seconds in took.items() if seconds > STOP} == {}
    assert {name: times for name, times in held.items() if times > TIMES} == {}
