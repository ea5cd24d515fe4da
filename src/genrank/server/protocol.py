"""uvicorn's HTTP, with bounds on what a connection may send and on the time that it may take.

uvicorn alone reads headers without end, waits without end for bodies and for answers to be read, and accepts any number
of requests that are sent before earlier ones are answered.
"""

import asyncio
import json
import uuid
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from genrank.server.connections import Connections

MAX_HEADERS = 100
MAX_AHEAD = 16  # requests that wait for the answers to earlier ones
MAX_IGNORED = 16 * 2**20  # bytes of a body that come after its request has been refused
BODY_RATE = 128 * 1024  # bytes a second at least
LINGER = 2.0  # seconds for a last answer to be read


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, keeper: Connections, **options: Any):
        super().__init__(*arguments, **options)
        self.keeper, self.limits = keeper, keeper.limits
        self.reading: Literal["head", "body", "none"] = "head"
        self.since, self.stalled_since = self.loop.time(), 0.0
        self.head_bytes = self.held = self.ignored = 0
        self.admitted = self.left = False
        self.url = b""
        self.begun: RequestResponseCycle | None = None  # the request that the application is answering

    @property
    def working(self) -> bool:
        """See Connection. A client that doesn't read its answer keeps nothing working."""
        if self.cycle is None or self.cycle.response_complete or self.flow.write_paused:
            return False
        return self.reading != "body" or bool(self.pipeline)

    def overdue(self, now: float) -> str:
        """See Connection."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size() > 0:
            self.stalled_since = self.stalled_since or now
            late = now - self.stalled_since > (LINGER if self.left else self.limits.answer_seconds)
            return "slow_reader" if late else ""
        self.stalled_since = 0.0
        if self.reading == "head" and not self.working and now - self.since > self.limits.head_seconds:
            return "slow_head"
        if self.reading == "body":
            ignored = self.cycle.response_complete
            allowed = self.limits.body_seconds + (0.0 if ignored else self._declared() / BODY_RATE)
            return "slow_body" if now - self.since > allowed else ""
        return ""

    def leave(self, reason: str) -> None:
        """See Connection."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        else:
            self.transport.close()
        if not self.left:
            self.left = True
            self.keeper.ended(self, reason)

    def refuse(self, status: int, message: str, reason: str) -> None:
        """See Connection. If an earlier request is unanswered, nothing is sent that could be taken for its answer."""
        unanswered = self.cycle is not None and not self.cycle.response_complete
        begun = unanswered and (self.reading != "body" or self.pipeline or self.cycle.response_started)
        if not begun and not self.transport.is_closing():
            identity = uuid.uuid4().hex[:16]
            body = json.dumps({"error": message, "request_id": identity}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            self.transport.write(
                STATUS_LINE[status] + head % (len(body), identity.encode()) + b"retry-after: 1\r\n" * (status == 503)
                + b"\r\n" + body
            )  # fmt: skip
        self.transport.close()
        if not self.left:
            self.left = True
            self.keeper.ended(self, reason)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self.keeper.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.pipeline.clear()
        if self.begun is not None:  # uvicorn tells only the last request; an earlier one would continue to write
            self.begun.disconnected = True
            self.begun.message_event.set()
        super().connection_lost(exc)
        self.keeper.gone(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.begun = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """See asyncio. At most the allowed size of a head is parsed at a time, so that no larger one is accepted."""
        most = self.limits.head_bytes
        if self.head_bytes + len(data) < most:
            self._parse(data)
            return
        rest = memoryview(data)
        while rest and not self.left:
            room = most - self.head_bytes
            self._parse(rest[:room])  # type: ignore[arg-type]
            rest = rest[room:]

    def _parse(self, data: bytes) -> None:
        if self.reading == "none":
            self._begin_head()
        if self.reading == "head":
            self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes >= self.limits.head_bytes and not self.left:
            what, status = ("address", 414) if 2 * len(self.url) > self.head_bytes else ("headers", 431)
            message = f"the {what} of the request must have less than {self.limits.head_bytes} bytes; send less"
            self.refuse(status, message, "large_head")

    def _begin_head(self) -> None:
        self.reading, self.since, self.head_bytes = "head", self.loop.time(), 0

    def on_message_begin(self) -> None:
        """See httptools."""
        if self.reading != "head":
            self._begin_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if len(self.headers) >= MAX_HEADERS:
            self.refuse(431, f"the request has more than {MAX_HEADERS} headers; send fewer", "large_head")
            raise ValueError("too many headers")  # stops the parser
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self.reading, self.since, self.head_bytes = "body", self.loop.time(), 0
        if len(self.pipeline) >= MAX_AHEAD:
            self.refuse(400, f"more than {MAX_AHEAD} requests are sent ahead of their answers", "far_ahead")
            raise ValueError("too many requests")  # stops the parser
        if not self.keeper.has_room(self):
            self.scope["state"]["crowded"] = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self.cycle.response_complete:
            self.ignored += len(body)
            if self.ignored > MAX_IGNORED:
                self.leave("large_body")
            return
        self.keeper.hold(self, len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        self.reading, self.ignored = "none", 0

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self.keeper.release(self)
        self.since = self.loop.time()
        self.admitted = self.admitted or bool(self.scope["state"].get("admitted"))

    def send_400_response(self, msg: str) -> None:
        """See uvicorn."""
        if not self.left:
            self.refuse(400, "this is no valid HTTP request", "malformed")

    def _unsupported_upgrade_warning(self) -> None:
        """Upgrades are ignored, as HTTP has it: a line for each would fill the log."""

    def _declared(self) -> int:
        """Bytes of the body by its headers."""
        size = dict(self.headers).get(b"content-length", b"0")
        return int(size) if size.isdigit() and len(size) < 12 else 0
