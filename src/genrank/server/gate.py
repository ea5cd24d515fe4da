"""The middleware in front of the application: request ids, token, sizes, refusals under overload, log, metrics.

It is plain ASGI and reads headers only, so that a refusal costs a fraction of a ranking.
"""

import asyncio
import hmac
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrank.server.batcher import Overloaded
from genrank.server.counters import Metrics

log = logging.getLogger("genrank.server")
OPEN = ("/health/live", "/health/ready")  # paths that need no token
LONGEST_PATH = 200  # characters of a path in the log
PERIOD = 0.02  # seconds between measurements of the event loop's delay


class Lag:
    """The delay of the event loop: so long waits a request that has arrived before it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(PERIOD)
            self.seconds = max(loop.time() - began - PERIOD, 0.0)


class Gate:
    """ASGI middleware. busy: by path, seconds by which a request that came now would miss its deadline."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, token: str, max_body: int, busy: Mapping[str, Callable[[], float]]
    ):
        self.app, self.metrics, self.max_body, self.busy = app, metrics, max_body, busy
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")[:64].decode("latin-1") or uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        refusal = self._refusal(scope, headers)
        try:
            await (self.app if refusal is None else refusal)(scope, receive, send_with_id)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: MutableMapping[bytes, bytes]) -> Response | None:
        """The refusal of a request by its headers; None if it is admitted."""
        path, request_id, state = scope["path"], scope["state"]["id"], scope["state"]
        if path not in OPEN and "crowded" in state:  # see connections.py
            message = "more connections than can be served; try again later"
            return JSONResponse(error_body(message, request_id), 503, {"retry-after": "1", "connection": "close"})
        if self.token and path not in OPEN and not self._has_token(headers.get(b"authorization", b"")):
            message = "a bearer token is needed, in the header Authorization: Bearer …"
            return JSONResponse(error_body(message, request_id), 401, {"www-authenticate": "Bearer"})
        state["admitted"] = path not in OPEN
        if scope["method"] in ("POST", "PUT"):
            if not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
                message = "the body must be JSON; send the header Content-Type: application/json"
                return JSONResponse(error_body(message, request_id), 415)
            size = headers.get(b"content-length", b"")
            if not size.isdigit():
                return JSONResponse(error_body("the header Content-Length is needed", request_id), 411)
            if int(size) > self.max_body:
                message = f"the body has {int(size)} bytes, at most {self.max_body} are taken; send less at once"
                return JSONResponse(error_body(message, request_id), 413)
        if path in self.busy and (late := self.busy[path]()) > 0:
            problem = Overloaded(late)
            return JSONResponse(error_body(str(problem), request_id), 503, {"retry-after": retry_after(problem)})
        return None

    def _has_token(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self.token)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        self.metrics.answered(getattr(scope.get("route"), "path", "unmatched"), status, seconds)
        if log.isEnabledFor(logging.INFO):
            about = {
                "request_id": request_id, "method": scope["method"], "path": scope["path"][:LONGEST_PATH],
                "status": status, "ms": round(1e3 * seconds, 2), "client": (scope.get("client") or ("",))[0][:64],
            }  # fmt: skip
            log.info("answered", extra={"fields": about})


def error_body(message: str, request_id: str) -> dict[str, str]:
    """See ErrorBody."""
    return {"error": message, "request_id": request_id}


def retry_after(problem: Overloaded) -> str:
    """Whole seconds, at least one."""
    return str(max(math.ceil(problem.retry_after), 1))
