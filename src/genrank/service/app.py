"""The ranking service over HTTP.

    POST /v1/rank        candidates in, order out           PUT /v1/items       new and changed items
    POST /v1/events      what users saw and did             GET /v1/users/{id}  a history as the model sees it
    GET  /health/live, /health/ready, /metrics, /openapi.json

Over load it answers 503 with Retry-After at once. Errors are {"error": …, "request_id": …}.
"""

import asyncio
import hmac
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from genrank import __version__
from genrank.errors import RequestError
from genrank.service.batcher import Overloaded, Stopped
from genrank.service.core import RankingService
from genrank.service.metrics import Metrics
from genrank.service.wire import (
    ErrorBody,
    EventsAnswerBody,
    EventsBody,
    ItemsAnswerBody,
    ItemsBody,
    RankAnswerBody,
    RankBody,
    UserAnswerBody,
)
from genrank.serving.store import StoreUnavailable

log = logging.getLogger("genrank.service")
OPEN = ("/health/live", "/health/ready")  # without a token
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (400, 401, 413, 422, 503)}


def build_app(service: RankingService, *, token: str = "", max_body: int = 4 * 2**20) -> FastAPI:
    """The web application over a service. token: what callers must bear, empty for none. max_body: bytes."""
    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="genrank", version=__version__, lifespan=lifespan, responses=ERRORS)

    @app.middleware("http")
    async def around(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        request.state.id = request.headers.get("x-request-id", "")[:64] or uuid.uuid4().hex[:16]
        response = _refused(request, service, token=token, max_body=max_body) or await call(request)
        seconds = time.perf_counter() - began
        response.headers["x-request-id"] = request.state.id
        route = getattr(request.scope.get("route"), "path", "unmatched")
        metrics.answered(route, response.status_code, seconds)
        about = {"request_id": request.state.id, "method": request.method, "path": request.url.path,
                 "status": response.status_code, "ms": round(1e3 * seconds, 2)}  # fmt: skip
        log.info("%s", json.dumps(about))
        return response

    @app.post("/v1/rank")
    async def rank(body: RankBody) -> RankAnswerBody:
        request = body.request()
        answer = await asyncio.wrap_future(service.rank(request))
        metrics.ranked(answer)
        return RankAnswerBody.of(answer, request.tasks)

    @app.post("/v1/events")
    async def events(body: EventsBody) -> EventsAnswerBody:
        changed = await asyncio.to_thread(service.take_events, [each.event() for each in body.events])
        metrics.events.inc(changed)
        return EventsAnswerBody(received=len(body.events), changed=changed)

    @app.put("/v1/items")
    async def items(body: ItemsBody) -> ItemsAnswerBody:
        new = await asyncio.to_thread(service.put_items, [each.as_item() for each in body.items])
        return ItemsAnswerBody(received=len(body.items), new=new)

    @app.get("/v1/users/{user:path}")
    async def user(user: str) -> UserAnswerBody:
        return UserAnswerBody(**await asyncio.to_thread(service.user, user))

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live", "version": __version__}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready", "model": service.version}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    _add_errors(app)
    return app


def _refused(request: Request, service: RankingService, *, token: str, max_body: int) -> Response | None:
    """An answer that needs no look at the body, None where there is none."""
    if token and request.url.path not in OPEN:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return _error(request, 401, "a bearer token is needed, in the header Authorization: Bearer …")
    size = request.headers.get("content-length", "")
    if request.method in ("POST", "PUT"):
        if not size.isdigit():
            return _error(request, 411, "the header Content-Length is needed")
        if int(size) > max_body:
            return _error(request, 413, f"the body has {size} bytes, at most {max_body} are taken; send less at once")
    if request.url.path == "/v1/rank" and service.expected_wait > service.options.deadline:
        return _overloaded(request, Overloaded(service.expected_wait))
    return None


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def bad(request: Request, problem: RequestError) -> Response:
        return _error(request, 400, str(problem))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, problem: RequestValidationError) -> Response:
        first, *others = problem.errors()
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        more = f"; {len(others)} more such" if others else ""
        return _error(request, 422, f"{where}: {first['msg']}{more}; see /docs")

    @app.exception_handler(HTTPException)
    async def http(request: Request, problem: HTTPException) -> Response:
        return _error(request, problem.status_code, f"{problem.detail}: {request.method} {request.url.path}; see /docs")

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, problem: Overloaded) -> Response:
        return _overloaded(request, problem)

    @app.exception_handler(Stopped)
    async def stopped(request: Request, problem: Stopped) -> Response:
        return _error(request, 503, str(problem), {"retry-after": "1"})

    @app.exception_handler(StoreUnavailable)
    async def out_of_reach(request: Request, problem: StoreUnavailable) -> Response:
        return _error(request, 503, f"{problem}; send it again", {"retry-after": "1"})

    @app.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> Response:
        log.exception("request %s failed", request.state.id, exc_info=problem)
        return _error(request, 500, "the service has failed on this request; its log says more")


def _overloaded(request: Request, problem: Overloaded) -> Response:
    return _error(request, 503, str(problem), {"retry-after": str(max(math.ceil(problem.retry_after), 1))})


def _error(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    content = {"error": message, "request_id": getattr(request.state, "id", "")}
    return JSONResponse(content, status_code=status, headers=headers)
