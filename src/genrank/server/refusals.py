"""The answers to callers when something is raised: a status, and one line of bounded length."""

import logging
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from genrank.errors import RequestError, shown
from genrank.inference.store import StoreUnavailable
from genrank.server.batcher import Overloaded, Stopped
from genrank.server.body_reading import BodyTooLarge, MalformedBody
from genrank.server.gate import error_body, retry_after

log = logging.getLogger("genrank.server")
LONGEST = 500  # characters; a longer message is cut in the middle, because the remedy is at the end
STATUS = {
    MalformedBody: 422,
    BodyTooLarge: 413,
    RequestError: 400,
    Overloaded: 503,
    Stopped: 503,
    StoreUnavailable: 503,
}


async def _refused(request: Request, problem: Exception) -> Response:
    status = next(STATUS[kind] for kind in type(problem).__mro__ if kind in STATUS)
    again = "; send it again" if isinstance(problem, StoreUnavailable) else ""
    headers = {}
    if status == 503:
        headers["retry-after"] = retry_after(problem) if isinstance(problem, Overloaded) else "1"
    return _answer(request, status, f"{problem}{again}", headers)


async def _gone(_: Request, __: Exception) -> Response:
    """An answer that nobody reads: the connection was closed before the body was complete."""
    return Response(status_code=499)


async def _http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    asked = f"{request.method[:20]} {shown(request.url.path)[1:-1]}"
    headers = dict(problem.headers or {})
    return _answer(request, problem.status_code, f"{problem.detail}: {asked}; see /docs", headers)


async def _failed(request: Request, problem: Exception) -> Response:
    log.exception("request %s failed", request.state.id, exc_info=problem)
    return _answer(request, 500, "the service has failed on this request; its log has the reason", {})


def _answer(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - 103]}...{message[-100:]}"
    return JSONResponse(error_body(message, request.state.id), status_code=status, headers=headers)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    **dict.fromkeys(STATUS, _refused), ClientDisconnect: _gone, HTTPException: _http, Exception: _failed,
}  # fmt: skip
