"""A small client of the ranking service: standard library only, one kept-alive connection per thread.

with Client("http://127.0.0.1:8080") as client:
    ranking = client.rank("u42", ["i1", "i2"])
    client.send_events([{"user": "u42", "item": "i1", "time": 1700000000, "actions": {"click": True}}])
"""

import http.client
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from genrank.errors import GenRankError


class ServiceError(GenRankError):
    """The service has answered with an error. retry_after: seconds, 0 where it doesn't say."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0):
        super().__init__(f"{status}: {message}")
        self.status, self.retry_after = status, retry_after


class Client:
    """Calls a service at `url`. Safe to use from several threads."""

    def __init__(self, url: str, *, token: str = "", timeout: float = 10.0):
        """timeout: seconds. ValueError where `url` is no http address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a service; expected one such as http://127.0.0.1:8080")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._timeout, self._local = timeout, threading.local()

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
    ) -> dict[str, Any]:
        """POST /v1/rank; its answer. A candidate is an id, or {"item": id, "context": {…}} with features of its own."""
        body = {
            "user": user, "candidates": list(candidates), "time": time, "context": dict(context or {}),
            "tasks": list(tasks), "value": value, "top_k": top_k,
        }  # fmt: skip
        return self._call("POST", "/v1/rank", body)

    def retrieve(self, user: str, *, k: int = 500, **options: Any) -> dict[str, Any]:
        """POST /v1/retrieve: the best of the whole catalogue. options: time, without, exclude, exclude_seen."""
        return self._call("POST", "/v1/retrieve", {"user": user, "k": k, **options})

    def recommend(self, user: str, *, k: int = 500, top_k: int = 20, **options: Any) -> dict[str, Any]:
        """POST /v1/recommend: k retrieved, the best top_k ranked. options: retrieve's, and context, tasks, value."""
        return self._call("POST", "/v1/recommend", {"user": user, "k": k, "top_k": top_k, **options})

    def send_events(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """POST /v1/events: exposures with actions."""
        return self._call("POST", "/v1/events", {"events": list(events)})

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """PUT /v1/items: [{"item": id, "features": {…}}]."""
        return self._call("PUT", "/v1/items", {"items": list(items)})

    def user(self, user: str) -> dict[str, Any]:
        """GET /v1/users/{id}: the history as the model sees it."""
        return self._call("GET", f"/v1/users/{quote(user, safe='')}")

    def ready(self) -> dict[str, Any]:
        """GET /health/ready."""
        return self._call("GET", "/health/ready")

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        sent = None if body is None else json.dumps(body)
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            fresh = connection is None
            if connection is None:
                connection = self._kind(self._host, self._port, timeout=self._timeout)
                self._local.connection = connection
            try:
                connection.request(method, self._path + path, sent, self._headers)
                response = connection.getresponse()
                content = response.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()  # a kept connection may have been closed meanwhile: every call may safely be sent again
                if fresh or attempt == 2:
                    raise
            except Exception:
                self.close()
                raise
        return _answer(response, content)


def _answer(response: http.client.HTTPResponse, content: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(content)
    except ValueError:
        answer = {"error": content[:200].decode(errors="replace")}
    if response.status != 200:
        raise ServiceError(
            response.status, str(answer.get("error", answer)), float(response.headers.get("retry-after", 0))
        )
    return answer
