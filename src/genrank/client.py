"""A client of the ranking service, and its asynchronous twin. Needs httpx (the extra `client`).

with Client("http://127.0.0.1:8080") as client:
    ranking = client.rank("u42", ["i1", "i2"])
    client.send_events([{"user": "u42", "item": "i1", "time": 1700000000, "actions": {"click": True}}])

async with AsyncClient("http://127.0.0.1:8080") as client:
    ranking = await client.rank("u42", ["i1", "i2"])
"""

import asyncio
import json
import random
import re
import time as clock
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

from genrank.errors import GenRankError, MissingExtraError

if TYPE_CHECKING:
    import httpx

Answer = dict[str, Any]
Returned = TypeVar("Returned")
FIRST_WAIT = 0.05  # seconds before the first retry of a broken connection; each further one waits twice as long


class ServiceError(GenRankError):
    """The service has answered with an error. retry_after: seconds, 0 where it doesn't say."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0):
        super().__init__(f"{status}: {message}")
        self.status, self.retry_after = status, retry_after


class ServiceUnreachable(GenRankError, ConnectionError):
    """The service can't be reached, or hasn't answered in time."""


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    body: bytes | None


@dataclass
class _Attempts:
    """When a call may be sent again, until its time is up. Every call may: sent twice it changes nothing more."""

    where: str
    timeout: float
    retries: int
    began: float = field(default_factory=clock.monotonic)
    done: int = 0

    @property
    def left(self) -> float:
        """Seconds."""
        return self.timeout - (clock.monotonic() - self.began)

    def wait_after(self, problem: "httpx.TransportError") -> float:
        """Seconds to wait before the next attempt. ServiceUnreachable where there is none."""
        import httpx

        wait: float = FIRST_WAIT * 2**self.done * (0.5 + random.random())
        if isinstance(problem, httpx.TimeoutException) or self.done >= self.retries or wait >= self.left:
            reason, waited = str(problem) or type(problem).__name__, clock.monotonic() - self.began
            raise ServiceUnreachable(
                f"{self.where} can't be reached or doesn't answer ({reason}; waited {waited:.1f} s); see whether it "
                "runs, or raise timeout"
            ) from problem
        self.done += 1
        return wait

    def wait_for(self, busy: ServiceError) -> float:
        """Seconds to wait before asking a busy service again. Raises what it said where there is no time for that."""
        if busy.status != 503 or not busy.retry_after or self.done >= self.retries or busy.retry_after >= self.left:
            raise busy
        self.done += 1
        return busy.retry_after


class _Calls(Generic[Returned]):
    """What can be asked of a service."""

    def _call(self, method: str, path: str, body: Any = None) -> Returned:
        raise NotImplementedError

    def rank(
        self,
        user: str,
        candidates: Sequence[str | Mapping[str, Any]],
        *,
        time: int | None = None,
        context: Mapping[str, Any] | None = None,
        tasks: Sequence[str] = (),
        value: Mapping[str, float] | str = "",
        top_k: int = 0,
    ) -> Returned:
        """POST /v1/rank; its answer. A candidate is an id, or {"item": id, "context": {…}} with features of its own."""
        body = {
            "user": user, "candidates": list(candidates), "time": time, "context": dict(context or {}),
            "tasks": list(tasks), "value": value, "top_k": top_k,
        }  # fmt: skip
        return self._call("POST", "/v1/rank", body)

    def retrieve(self, user: str, *, k: int = 500, **options: Any) -> Returned:
        """POST /v1/retrieve: the best of the whole catalogue. options: time, without, exclude, exclude_seen."""
        return self._call("POST", "/v1/retrieve", {"user": user, "k": k, **options})

    def recommend(self, user: str, *, k: int = 500, top_k: int = 20, **options: Any) -> Returned:
        """POST /v1/recommend: k retrieved, the best top_k ranked. options: retrieve's, and context, tasks, value."""
        return self._call("POST", "/v1/recommend", {"user": user, "k": k, "top_k": top_k, **options})

    def send_events(self, events: Sequence[Mapping[str, Any]]) -> Returned:
        """POST /v1/events: exposures with actions. One that is sent twice is kept once."""
        return self._call("POST", "/v1/events", {"events": list(events)})

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> Returned:
        """PUT /v1/items: [{"item": id, "features": {…}}]."""
        return self._call("PUT", "/v1/items", {"items": list(items)})

    def user(self, user: str) -> Returned:
        """GET /v1/users/{id}: the history as the model sees it."""
        return self._call("GET", f"/v1/users/{quote(user, safe='')}")

    def ready(self) -> Returned:
        """GET /health/ready."""
        return self._call("GET", "/health/ready")


class Client(_Calls[Answer]):
    """Calls a service at `url` over kept connections. Safe to use from several threads."""

    def __init__(self, url: str, *, token: str = "", timeout: float = 10.0, retries: int = 2):
        """timeout: seconds that a call may take in all. retries: how often it is sent again where the connection
        breaks, or where the service is busy and says when to come back. ValueError where `url` is no http address.
        MissingExtraError where httpx is not installed."""
        self._url, self._timeout, self._retries = url, timeout, retries
        self._http: httpx.Client = _httpx().Client(**_options(url, token))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: Any = None) -> Answer:
        import httpx

        call, attempts = _call_of(method, path, body), _Attempts(self._url, self._timeout, self._retries)
        while True:
            try:
                sent = self._http.request(call.method, call.path, content=call.body, timeout=max(attempts.left, 1e-3))
                return _answer(sent)
            except httpx.TransportError as problem:
                wait = attempts.wait_after(problem)
            except ServiceError as busy:
                wait = attempts.wait_for(busy)
            clock.sleep(wait)


class AsyncClient(_Calls[Awaitable[Answer]]):
    """Client for asyncio: the same calls, awaited."""

    def __init__(self, url: str, *, token: str = "", timeout: float = 10.0, retries: int = 2):
        """See Client."""
        self._url, self._timeout, self._retries = url, timeout, retries
        self._http: httpx.AsyncClient = _httpx().AsyncClient(**_options(url, token))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _call(self, method: str, path: str, body: Any = None) -> Answer:
        import httpx

        call, attempts = _call_of(method, path, body), _Attempts(self._url, self._timeout, self._retries)
        while True:
            try:
                limit = max(attempts.left, 1e-3)
                return _answer(await self._http.request(call.method, call.path, content=call.body, timeout=limit))
            except httpx.TransportError as problem:
                wait = attempts.wait_after(problem)
            except ServiceError as busy:
                wait = attempts.wait_for(busy)
            await asyncio.sleep(wait)


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("the client needs httpx; pip install 'genrank[client]'") from None
    return httpx


def _options(url: str, token: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a service; expected one such as http://127.0.0.1:8080")
    if not re.fullmatch(r"[!-~]*", token):
        raise ValueError("the token has a space, a line end or a letter that isn't ASCII, which no header can carry")
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    return {"base_url": url.rstrip("/"), "headers": headers, "trust_env": False}


def _call_of(method: str, path: str, body: Any) -> _Call:
    return _Call(method, path, None if body is None else json.dumps(body).encode())


def _answer(response: "httpx.Response") -> Answer:
    try:
        answer: Answer = json.loads(response.content)
    except ValueError:
        answer = {"error": response.content[:200].decode(errors="replace")}
    if response.status_code != 200:
        after = response.headers.get("retry-after", "0")
        message = str(answer.get("error", answer))
        raise ServiceError(response.status_code, message, float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0)
    return answer
