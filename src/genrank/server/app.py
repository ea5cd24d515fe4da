"""The ranking service over HTTP.

    POST /v1/rank        rank candidates                    PUT /v1/items       add or change items
    POST /v1/events      store exposures and actions        GET /v1/users/{id}  a history as the model sees it
    GET  /health/live, /health/ready, /metrics, /openapi.json, /docs
    POST /v1/retrieve    retrieve from the catalogue        POST /v1/recommend  retrieve, then rank

Under overload it answers 503 with Retry-After at once. Errors are {"error": …, "request_id": …}.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from genrank import __version__
from genrank.ids import MAX_ID
from genrank.server import openapi
from genrank.server.answers import (
    EventsAnswerBody,
    ItemsAnswerBody,
    UserAnswerBody,
    ranked,
    recommended,
    retrieved,
    written,
)
from genrank.server.batcher import HEADROOM
from genrank.server.body_reading import BodyLimits, BodyReader, MalformedBody
from genrank.server.counters import Metrics
from genrank.server.docs_page import page
from genrank.server.gate import Gate, Lag, error_body
from genrank.server.pipelines import RANK, RECOMMEND, RETRIEVE, pipelines_of
from genrank.server.ranking_service import RankingService
from genrank.server.refusals import HANDLERS
from genrank.server.retrieval_service import RetrievalService
from genrank.server.served_pipeline import PipelineOutcome, ServedPipeline
from genrank.server.wire import EventsBody, ItemsBody, RankBody, RecommendBody, RetrieveBody

MIB = 2**20
RANK_BODY, EVENTS_BODY, ITEMS_BODY, RETRIEVE_BODY = 2 * MIB, 4 * MIB, 4 * MIB, MIB  # bytes at most


def build_app(
    service: RankingService,
    retrieval: RetrievalService | None = None,
    *,
    pipelines: Mapping[str, ServedPipeline] | None = None,
    token: str = "",
    max_body: int = 4 * MIB,
    connections: Collector | None = None,
) -> Starlette:
    """The web application over a service. retrieval: behind /v1/retrieve and /v1/recommend; None: no such routes.

    pipelines: by path; None: those of pipelines.py. token: bearer token that callers must send; empty: none.
    max_body: largest body of any path, bytes. connections: the counts of connections for /metrics.
    """
    metrics, lag = Metrics(service), Lag()
    if connections is not None:
        metrics.registry.register(connections)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(lag.watch())
        yield
        watching.cancel()
        if retrieval is not None:
            await asyncio.to_thread(retrieval.stop)
        await asyncio.to_thread(service.stop)

    def late(pipeline: ServedPipeline) -> Callable[[], float]:
        return lambda: lag.seconds + pipeline.expected_wait - HEADROOM * service.options.deadline

    retrieves = None if retrieval is None else retrieval.stage
    served = pipelines or pipelines_of(service.clock, ranking=service.stage, retrieval=retrieves)
    busy = {path: late(pipeline) for path, pipeline in served.items()}
    routes = [*_pipelines(service, served, metrics), *_knowledge(service, metrics), *_health(service, metrics)]
    operations = openapi.RANKING + openapi.HEALTH + (() if retrieval is None else openapi.RETRIEVAL)
    return Starlette(
        routes=[*routes, *_docs(operations)],
        middleware=[Middleware(Gate, metrics=metrics, token=token, max_body=max_body, busy=busy)],
        exception_handlers=dict(HANDLERS),
        lifespan=lifespan,
    )


def _pipelines(service: RankingService, served: Mapping[str, ServedPipeline], metrics: Metrics) -> list[BaseRoute]:
    rank = BodyLimits(size=RANK_BODY, rows=service.options.max_candidates, values=64)
    retrieve = BodyLimits(size=RETRIEVE_BODY, rows=1000, values=50)  # 50,000 ids in all
    bodies: dict[str, BodyReader[Any]] = {
        RANK: BodyReader(RankBody, rank),
        RETRIEVE: BodyReader(RetrieveBody, retrieve),
        RECOMMEND: BodyReader(RecommendBody, retrieve),
    }
    answers = {RANK: ranked, RETRIEVE: retrieved, RECOMMEND: recommended}

    def route(path: str, pipeline: ServedPipeline) -> Route:
        def begin(body: RankBody | RetrieveBody) -> "Future[PipelineOutcome]":
            return pipeline.submit(body.query())

        async def answer(request: Request) -> Response:
            outcome = await asyncio.wrap_future(await bodies[path].take(request, begin))
            metrics.ran(outcome)
            return _json(written(answers[path](outcome)))

        return Route(path, answer, methods=["POST"])

    return [route(path, pipeline) for path, pipeline in served.items()]


def _knowledge(service: RankingService, metrics: Metrics) -> list[BaseRoute]:
    options = service.options
    event_bodies = BodyReader(EventsBody, BodyLimits(size=EVENTS_BODY, rows=options.max_events, values=128))
    item_bodies = BodyReader(ItemsBody, BodyLimits(size=ITEMS_BODY, rows=options.max_items, values=1024))

    async def events(request: Request) -> Response:
        body = await event_bodies.take(request, lambda body: body)
        changed = await asyncio.to_thread(lambda: service.take_events(body.taken()))
        metrics.events.inc(changed)
        return _json(written(EventsAnswerBody(received=len(body.events), changed=changed)))

    async def items(request: Request) -> Response:
        body = await item_bodies.take(request, lambda body: body)
        new = await asyncio.to_thread(lambda: service.put_items(body.taken()))
        return _json(written(ItemsAnswerBody(received=len(body.items), new=new)))

    async def user(request: Request) -> Response:
        name = request.path_params["user"]
        if not 0 < len(name) <= MAX_ID:
            raise MalformedBody(f"user: an id has 1 to {MAX_ID} characters, found {len(name)}; see /docs")
        return _json(await asyncio.to_thread(lambda: written(UserAnswerBody(**service.user(name)))))

    return [
        Route("/v1/events", events, methods=["POST"]),
        Route("/v1/items", items, methods=["PUT"]),
        Route("/v1/users/{user:path}", user),
    ]


def _health(service: RankingService, metrics: Metrics) -> list[BaseRoute]:
    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live", "version": __version__})

    async def ready(request: Request) -> Response:
        if failed := [said for check in service.vital if (said := check())]:
            return JSONResponse(error_body("; ".join(failed), request.state.id), 503, {"retry-after": "1"})
        return JSONResponse({"status": "ready", "model": service.version})

    async def scrape(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", scrape)]


def _docs(operations: tuple[openapi.Operation, ...]) -> list[BaseRoute]:
    document = openapi.document(operations)
    html = page(document)

    async def described(_: Request) -> Response:
        return JSONResponse(document)

    async def docs(_: Request) -> Response:
        return HTMLResponse(html)

    return [Route("/openapi.json", described), Route("/docs", docs)]


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
