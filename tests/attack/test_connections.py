"""Connections that are many, slow, endless or unread: callers are served beside them, and health is answered."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from conftest_service import Running

pytestmark = pytest.mark.slow
Serve = Callable[..., Running]
Record = Callable[[str, object], None]
HEAD = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SLOW = {
    "silent": b"",
    "heads": HEAD,
    "bodies": HEAD + b"content-length: 1000000\r\n\r\n{",
    "idle": b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n",
    "unread": b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 8,
}


def connected(running: Running) -> socket.socket:
    parts = urlsplit(running.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)


class Attacker:
    """A connection that has sent `first`, and goes on: another byte where that is incomplete, the same anew where its
    answers aren't read. When the service closes it, it connects again."""

    def __init__(self, running: Running, first: bytes):
        self.running, self.first = running, first
        self.rest = b"x" if first.endswith((b"json\r\n", b"{")) else first if first.count(b"\r\n\r\n") > 1 else b""
        self.connection = connected(running)

    def start(self) -> None:
        if self.rest == self.first:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with suppress(OSError):  # it has been closed in favour of another
            self.connection.sendall(self.first)
        self.connection.setblocking(False)

    def press(self) -> None:
        with suppress(BlockingIOError):
            try:
                if self.rest:
                    self.connection.send(self.rest)
                elif self.connection.recv(1000) == b"":
                    raise ConnectionError
            except ConnectionError:
                self.connection.close()
                self.connection = connected(self.running)
                self.start()


@contextmanager
def attackers(running: Running, count: int, first: bytes) -> Iterator[None]:
    """So many at once, pressing until the end."""
    stopping = threading.Event()
    all_of_them = [Attacker(running, first) for _ in range(count)]

    def press() -> None:
        while not stopping.wait(0.05):
            for each in all_of_them:
                each.press()

    for each in all_of_them:
        each.start()
    presser = threading.Thread(target=press)
    presser.start()
    try:
        yield
    finally:
        stopping.set()
        presser.join()
        for each in all_of_them:
            each.connection.close()


def is_served(running: Running, items: list[str], rounds: int = 20) -> None:
    """A caller ranks, and each time a balancer asks after the service's health over a connection of its own."""
    with running.client(timeout=20) as client:
        for turn in range(rounds):
            assert len(client.rank(f"u{turn}", items)["places"]) == len(items)
            with running.client(timeout=20) as balancer:
                assert balancer.ready()["status"] == "ready"


def metric(running: Running, name: str) -> float:
    parts = urlsplit(running.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def memory(running: Running) -> float:
    """The most that the process has held, in MiB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


@pytest.fixture
def items(data: Path) -> list[str]:
    return pq.read_table(data / "items.parquet").column("id").to_pylist()[1:9]


@pytest.mark.parametrize("kind", SLOW)
def test_slow_connections_shut_nobody_out(kind: str, serve: Serve, items: list[str], record_property: Record) -> None:
    running = serve("--set", "connections.most=50")
    before = memory(running)
    with attackers(running, 200, SLOW[kind]):
        is_served(running, items)
        assert metric(running, "genrank_connections ") <= 50 + 16
    ended = metric(running, "genrank_connections_ended_total")  # who sends too much ahead goes for that
    assert ended >= 100
    told = [line for line in running.said if "connections that the service has closed" in line]
    assert 1 <= len(told) <= 20
    assert kind == "unread" or any("the cap of 50 connections is reached" in line for line in told)
    assert not any("traceback" in line for line in running.said)
    record_property(f"200 connections, {kind}:", f"{ended:.0f} closed, {memory(running) - before:.0f} MiB more held")


@pytest.mark.parametrize("kind", ["silent", "bodies"])
def test_few_descriptors_shut_nobody_out(kind: str, serve: Serve, items: list[str], record_property: Record) -> None:
    running = serve(descriptors=128)
    with attackers(running, 300, SLOW[kind]):
        is_served(running, items)
        with running.client() as client:  # files can be opened beside them
            event = {"user": "u", "item": items[0], "time": 1_700_000_000, "actions": {"click": True}}
            assert client.send_events([event])["received"] == 1
        descriptors = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
    assert descriptors < 128
    assert any("connections is reached" in line for line in running.said)
    record_property(f"300 connections, {kind}, to 128 descriptors:", f"{descriptors} in use")


def sent_until_closed(running: Running, start: bytes, more: bytes) -> int:
    """Bytes that could be sent, of 400 MiB."""
    sent = 0
    with connected(running) as connection, suppress(OSError):
        connection.sendall(start)
        while sent < 400 * 2**20:
            sent += connection.send(more)
    return sent


def test_an_endless_header_is_stopped(serve: Serve, record_property: Record) -> None:
    running = serve("--token", "secret")
    before, most = memory(running), 0
    for start in (b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 90 + b"b: ", b""):
        most = max(most, sent_until_closed(running, start, (b"a" if start else b"\r\n") * 65536))
    grown = memory(running) - before
    record_property("an endless header:", f"stopped after {most / 2**20:.1f} MiB sent, {grown:.1f} MiB more held")
    assert most < 16 * 2**20  # what lies in the buffers of two sockets
    assert grown < 16


@pytest.mark.parametrize(
    ("sent", "reason", "answer"),
    [
        (b"", "slow_head", b""),
        (HEAD, "slow_head", b""),
        (SLOW["idle"] + HEAD, "slow_head", b'{"status":"live"'),
        (SLOW["bodies"], "slow_body", b""),
        (SLOW["unread"], "slow_reader", b'"openapi"'),
        (b"POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", "slow_body", b'"error"'),
    ],
)
def test_who_takes_too_long_is_closed(sent: bytes, reason: str, answer: bytes, serve: Serve) -> None:
    running = serve(
        *(word for name in ("head", "body", "answer") for word in ("--set", f"connections.{name}_seconds=1"))
    )
    with connected(running) as connection:
        if reason == "slow_reader":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(sent)
        until = time.monotonic() + 30
        connection.settimeout(0.01)
        while not metric(running, f'genrank_connections_ended_total{{reason="{reason}"}}'):
            assert time.monotonic() < until
            time.sleep(0.05)
            if reason == "slow_reader":
                with suppress(OSError):
                    connection.send(sent)
        connection.settimeout(30)
        received = b""
        with suppress(ConnectionResetError):
            while more := connection.recv(65536):
                received += more
        assert answer in received
    lines = [json.loads(line) for line in running.said]
    assert any(f"1 {reason}" in line.get("message", "") for line in lines)
    assert not any("traceback" in line for line in lines)
