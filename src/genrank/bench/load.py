"""A load generator for one HTTP service on loopback: ready-made requests over kept-alive connections.

Closed loop: every connection sends its next request after the answer to the last one, which finds the rate that a
service can sustain. Open loop: requests come at random times at a given rate, as from users, whether or not earlier
ones are answered; a request's time counts from the moment when it should have been sent.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np


@dataclass(frozen=True)
class Call:
    """One request: method, path and JSON body."""

    method: str
    path: str
    body: bytes
    token: str = ""

    def wire(self, host: str) -> bytes:
        """The bytes of the HTTP request."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines.append("Content-Type: application/json")
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass
class LoadResult:
    """The answers. began: when each request was to be sent, seconds since the load's beginning."""

    began: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)  # 0: no answer
    lasted: float = 0.0

    def count(self, *statuses: int) -> int:
        """How many answers had one of these statuses."""
        return sum(status in statuses for status in self.status)

    @property
    def errors(self) -> int:
        """Requests with a status other than 200 and 503, or without an answer."""
        return len(self.status) - self.count(200, 503)

    @property
    def rate(self) -> float:
        """Successful answers per second."""
        return self.count(200) / max(self.lasted, 1e-9)

    def refused(self, *, since: float = 0.0) -> int:
        """Answers with status 503 to requests sent from `since` on."""
        return sum(status == 503 and began >= since for status, began in zip(self.status, self.began, strict=True))

    def milliseconds(self, share: float, *, status: int = 200, since: float = 0.0) -> float:
        """A percentile of the times; NaN if there are none."""
        chosen = [
            1e3 * taken
            for taken, found, began in zip(self.seconds, self.status, self.began, strict=True)
            if found == status and began >= since
        ]
        return float(np.percentile(chosen, share)) if chosen else float("nan")


def closed_loop(url: str, calls: Sequence[Call], *, connections: int, seconds: float, limit: int = 10**9) -> LoadResult:
    """Send `calls` in turn over `connections`, until `seconds` are over or `limit` requests are sent."""
    return asyncio.run(_closed(url, calls, connections, seconds, limit))


def open_loop(
    url: str, calls: Sequence[Call], *, rate: float, seconds: float, connections: int = 1000, seed: int = 0
) -> LoadResult:
    """Send `calls` in turn at `rate` per second on average (Poisson). A call waits if no connection is free."""
    return asyncio.run(_open(url, calls, rate, seconds, connections, seed))


async def _closed(url: str, calls: Sequence[Call], connections: int, seconds: float, limit: int) -> LoadResult:
    result, began, turn = LoadResult(), time.perf_counter(), iter(range(limit))

    async def work() -> None:
        line = _Line(url)
        while time.perf_counter() - began < seconds and (number := next(turn, None)) is not None:
            await _send(line, calls[number % len(calls)], result, began, time.perf_counter())
        line.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    result.lasted = time.perf_counter() - began
    return result


async def _open(
    url: str, calls: Sequence[Call], rate: float, seconds: float, connections: int, seed: int
) -> LoadResult:
    result, began, chance = LoadResult(), time.perf_counter(), random.Random(seed)
    free: asyncio.LifoQueue[_Line] = asyncio.LifoQueue()
    for _ in range(connections):
        free.put_nowait(_Line(url))
    sending = set()

    async def send(call: Call, due: float) -> None:
        line = await free.get()
        await _send(line, call, result, began, due)
        free.put_nowait(line)

    due, number = began, 0
    while due - began < seconds:
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        task = asyncio.create_task(send(calls[number % len(calls)], due))
        sending.add(task)
        task.add_done_callback(sending.discard)
        due, number = due + chance.expovariate(rate), number + 1
    if sending:
        await asyncio.wait(sending)
    result.lasted = max(time.perf_counter() - began, seconds)
    while not free.empty():
        free.get_nowait().close()
    return result


async def _send(line: "_Line", call: Call, result: LoadResult, began: float, due: float) -> None:
    status = await line.ask(call)
    result.began.append(due - began)
    result.seconds.append(time.perf_counter() - due)
    result.status.append(status)


class _Line:
    """A connection that is kept open, and opened again when it breaks."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, call: Call) -> int:
        """The answer's status; 0 without an answer. If a kept connection was closed, the call is sent once more."""
        kept = self.streams is not None
        try:
            return await self._ask(call)
        except (OSError, asyncio.IncompleteReadError, StopIteration, ValueError):
            self.close()
        return await self.ask(call) if kept else 0

    async def _ask(self, call: Call) -> int:
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        writer.write(call.wire(self.host))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(size)
        if "connection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1])

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None
