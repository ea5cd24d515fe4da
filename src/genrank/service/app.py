"""The ranking service over HTTP.

    POST /v1/rank        candidates in, order out           PUT /v1/items       new and changed items
    POST /v1/events      what users saw and did             GET /v1/users/{id}  a history as the model sees it
    GET  /health/live, /health/ready, /metrics, /openapi.json
    POST /v1/retrieve    the best of the whole catalogue    POST /v1/recommend  retrieved, then ranked

Over load it answers 503 with Retry-After at once. Errors are {"error": …, "request_id": …}.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from genrank import __version__
from genrank.errors import RequestError
from genrank.service.batcher import HEADROOM, Overloaded, Stopped
from genrank.service.core import RankingService
from genrank.service.gate import Gate, Lag, error_body, retry_after
from genrank.service.metrics import Metrics
from genrank.service.retrieval import RetrievalStage
from genrank.service.wire import (
    ErrorBody,
    EventsAnswerBody,
    EventsBody,
    ItemsAnswerBody,
    ItemsBody,
    RankAnswerBody,
    RankBody,
    RecommendAnswerBody,
    RecommendBody,
    RetrieveAnswerBody,
    RetrieveBody,
    UserAnswerBody,
    rank_answer,
    recommend_answer,
    retrieve_answer,
)
from genrank.serving.store import StoreUnavailable

log = logging.getLogger("genrank.service")
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 404, 405, 411, 413, 415, 422, 503)
}


def build_app(
    service: RankingService, stage: RetrievalStage | None = None, *, token: str = "", max_body: int = 4 * 2**20
) -> FastAPI:
    """The web application over a service. stage: what retrieves; without it there are no such routes.

    token: what callers must bear, empty for none. max_body: bytes.
    """
    metrics, lag = Metrics(service), Lag()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(lag.watch())
        yield
        watching.cancel()
        if stage is not None:
            await asyncio.to_thread(stage.stop)
        await asyncio.to_thread(service.stop)

    def late(expected: Callable[[], float]) -> Callable[[], float]:
        return lambda: lag.seconds + expected() - HEADROOM * service.options.deadline

    busy = {"/v1/rank": late(lambda: service.expected_wait)}
    if stage is not None:
        busy["/v1/retrieve"] = late(lambda: stage.expected_wait)
        busy["/v1/recommend"] = late(lambda: max(stage.expected_wait, service.expected_wait))

    app = FastAPI(title="genrank", version=__version__, lifespan=lifespan, responses=ERRORS)
    app.add_middleware(Gate, metrics=metrics, token=token, max_body=max_body, busy=busy)

    _add_ranking(app, service, metrics)
    _add_health(app, service, metrics)
    if stage is not None:
        _add_retrieval(app, service, stage, metrics)
    _add_errors(app)
    return app


def _add_ranking(app: FastAPI, service: RankingService, metrics: Metrics) -> None:
    @app.post("/v1/rank", response_model=RankAnswerBody)
    async def rank(body: RankBody) -> Response:
        request = body.request()
        answer = await asyncio.wrap_future(service.rank(request))
        metrics.ranked(answer, len(request.candidates))
        return Response(rank_answer(answer, request.tasks), media_type="application/json")

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


def _add_health(app: FastAPI, service: RankingService, metrics: Metrics) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live", "version": __version__}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready", "model": service.version}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")


def _add_retrieval(app: FastAPI, service: RankingService, stage: RetrievalStage, metrics: Metrics) -> None:
    @app.post("/v1/retrieve", response_model=RetrieveAnswerBody)
    async def retrieve(body: RetrieveBody) -> Response:
        found = await asyncio.wrap_future(stage.retrieve(body.wanted()))
        return Response(retrieve_answer(found), media_type="application/json")

    @app.post("/v1/recommend", response_model=RecommendAnswerBody)
    async def recommend(body: RecommendBody) -> Response:
        wanted = body.wanted()
        found = await asyncio.wrap_future(stage.retrieve(wanted))
        answer = None
        if found.items:
            request = body.request(found.items, time=found.time)
            answer = await asyncio.wrap_future(service.rank(request))
            metrics.ranked(answer, len(found.items))
        return Response(recommend_answer(found, answer, tuple(body.tasks)), media_type="application/json")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def bad(request: Request, problem: RequestError) -> Response:
        return _error(request, 400, str(problem))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, problem: RequestValidationError) -> Response:
        first, *others = problem.errors()
        named = [str(part) for part in first["loc"] if str(part).replace("_", "").isalnum()]  # not kinds of a union
        where = ".".join(part for part in named if part not in ("body", "CandidateBody")) or "body"
        more = f"; {len(others)} more such" if others else ""
        return _error(request, 422, f"{where}: {first['msg'].removeprefix('Value error, ')}{more}; see /docs")

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
    return _error(request, 503, str(problem), {"retry-after": retry_after(problem)})


def _error(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error_body(message, request.state.id), status_code=status, headers=headers)
