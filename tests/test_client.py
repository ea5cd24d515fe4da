"""The client and its asynchronous twin, against a service that breaks, is busy, or never answers."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from genrank import client as module
from genrank.client import AsyncClient, Client, ServiceError, ServiceUnreachable

Step = Callable[[BaseHTTPRequestHandler], None]


class Fake(ThreadingHTTPServer):
    """A service that takes the next of its steps at every request, and notes what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps: list[Step] = []
        self.heard: list[tuple[str, str, Any, str]] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fake: Fake = self.server  # type: ignore[assignment]
        given = json.loads(body) if body else None
        fake.heard.append((self.command, self.path, given, self.headers.get("authorization", "")))
        fake.steps.pop(0)(self)

    do_POST = do_PUT = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


def answers(body: bytes = b'{"ok": true}', status: int = 200, **headers: str) -> Step:
    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return step


def breaks(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def sleeps(handler: BaseHTTPRequestHandler) -> None:
    handler.server.released.wait(20)  # type: ignore[attr-defined]
    handler.close_connection = True


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def in_turn(url: str, call: str, *arguments: Any, **options: Any) -> Any:
    with Client(url, **options) as client:
        return getattr(client, call)(*arguments)


def awaited(url: str, call: str, *arguments: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await getattr(client, call)(*arguments)

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [in_turn, awaited])


@both
def test_what_is_sent(fake: Fake, ask: Callable[..., Any]) -> None:
    fake.steps = [answers()] * 4
    assert ask(f"{fake.url}/behind/", "rank", "ü/1", ["a", {"item": "b"}], token="secret") == {"ok": True}
    ask(fake.url, "user", "ü/1 %")
    ask(fake.url, "send_events", [{"user": "u"}])
    ask(fake.url, "put_items", [{"item": "i"}])
    method, path, body, authorization = fake.heard[0]
    assert (method, path, authorization) == ("POST", "/behind/v1/rank", "Bearer secret")
    assert body["candidates"] == ["a", {"item": "b"}]
    assert body["user"] == "ü/1"
    assert fake.heard[1][:2] == ("GET", "/v1/users/%C3%BC%2F1%20%25")
    assert [call[:3] for call in fake.heard[2:]] == [
        ("POST", "/v1/events", {"events": [{"user": "u"}]}),
        ("PUT", "/v1/items", {"items": [{"item": "i"}]}),
    ]


@both
def test_a_connection_that_breaks_is_made_anew_and_the_call_sent_again(fake: Fake, ask: Callable[..., Any]) -> None:
    fake.steps = [breaks, breaks, answers()]
    assert ask(fake.url, "ready") == {"ok": True}
    assert len(fake.heard) == 3


@both
def test_it_is_sent_again_so_often_and_no_more(fake: Fake, ask: Callable[..., Any]) -> None:
    fake.steps = [breaks] * 3
    with pytest.raises(ServiceUnreachable, match="can't be reached or doesn't answer") as raised:
        ask(fake.url, "ready", retries=1)
    assert isinstance(raised.value, OSError)
    assert len(fake.heard) == 2


@both
def test_a_busy_service_is_asked_again_when_it_says(
    fake: Fake, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    clock = SimpleNamespace(sleep=waits.append, monotonic=time.monotonic)  # other threads of this process sleep, too
    monkeypatch.setattr(module, "clock", clock)
    monkeypatch.setattr(module.asyncio, "sleep", no_sleep)
    fake.steps = [answers(b'{"error": "busy"}', 503, retry_after="3"), answers()]
    assert ask(fake.url, "ready") == {"ok": True}
    assert waits == [3.0]


@both
@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (503, {"retry_after": "60"}, "busy"),  # longer than the caller waits
        (503, {}, "busy"),
        (503, {"retry_after": "soon"}, "busy"),
        (500, {"retry_after": "1"}, "busy"),
        (422, {}, "busy"),
    ],
)
def test_other_refusals_are_raised_at_once(
    fake: Fake, ask: Callable[..., Any], status: int, headers: dict[str, str], said: str
) -> None:
    fake.steps = [answers(b'{"error": "busy"}', status, **headers)]
    with pytest.raises(ServiceError, match=said) as raised:
        ask(fake.url, "ready", timeout=5.0)
    assert raised.value.status == status
    assert raised.value.retry_after == float({"60": 60, "1": 1}.get(headers.get("retry_after", ""), 0))


@both
def test_an_answer_that_is_no_json_is_quoted(fake: Fake, ask: Callable[..., Any]) -> None:
    fake.steps = [answers(b"<html>bad gateway", 502)]
    with pytest.raises(ServiceError, match="502: <html>bad gateway"):
        ask(fake.url, "ready")


@both
def test_a_service_that_never_answers_is_not_waited_for_longer_than_asked(fake: Fake, ask: Callable[..., Any]) -> None:
    fake.steps = [sleeps, answers()]
    with pytest.raises(ServiceUnreachable, match="raise timeout"):
        ask(fake.url, "ready", timeout=0.3)
    assert len(fake.heard) == 1


@both
def test_nobody_listens(ask: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ServiceUnreachable, match=f"http://127.0.0.1:{port} can't be reached"):
        ask(f"http://127.0.0.1:{port}", "ready")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("localhost:8080", "", "no address of a service"),
        ("ftp://host", "", "no address"),
        ("http://", "", "no address"),
        ("http://host", "a b", "no header can carry"),
        ("http://host", "ü", "no header can carry"),
    ],
)
def test_addresses_and_tokens_that_make_no_sense(kind: Any, url: str, token: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(url, token=token)


def test_threads_share_a_client(fake: Fake) -> None:
    fake.steps = [answers()] * 40
    with Client(fake.url) as client:
        threads = [threading.Thread(target=lambda: [client.ready() for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(fake.heard) == 40
