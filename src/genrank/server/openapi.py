"""The OpenAPI document of the service, made from the types that read bodies and write answers."""

import re
from dataclasses import dataclass
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import Struct

from genrank import __version__
from genrank.ids import MAX_ID
from genrank.server.answers import (
    ErrorBody,
    EventsAnswerBody,
    ItemsAnswerBody,
    RankAnswerBody,
    RecommendAnswerBody,
    RetrieveAnswerBody,
    UserAnswerBody,
)
from genrank.server.wire import EventsBody, ItemsBody, RankBody, RecommendBody, RetrieveBody

JSON = "application/json"
PLACE = "#/components/schemas/{name}"
ERRORS = (400, 401, 404, 405, 411, 413, 415, 422, 503)
EVENT = {"user": "u1", "item": "i9", "time": 1750000000, "actions": {"click": True, "dwell": 12.5}}
ITEM = {"item": "i9", "features": {"author": "a17", "length": 30}}
QUERY = {"user": "u1", "k": 100, "without": {"author": ["a3"]}}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path. body, answer: types of the JSON bodies, None for no JSON; example: a body."""

    name: str
    method: str
    path: str
    about: str
    body: type[Struct] | None = None
    answer: type[Struct] | None = None
    example: Any = None


RANKING = (
    Operation(
        name="rank", method="post", path="/v1/rank", about="Rank candidates for a user", body=RankBody,
        answer=RankAnswerBody, example={"user": "u1", "candidates": ["i1", "i2"], "context": {"device": "phone"}},
    ),
    Operation(
        name="events", method="post", path="/v1/events", about="Store exposures and actions of users", body=EventsBody,
        answer=EventsAnswerBody, example={"events": [EVENT]},
    ),
    Operation(
        name="items", method="put", path="/v1/items", about="Add or change items", body=ItemsBody,
        answer=ItemsAnswerBody, example={"items": [ITEM]},
    ),
    Operation(
        name="user", method="get", path="/v1/users/{user}", about="A history as the model sees it",
        answer=UserAnswerBody,
    ),
)  # fmt: skip
HEALTH = (
    Operation(name="live", method="get", path="/health/live", about="Whether the process runs"),
    Operation(
        name="ready", method="get", path="/health/ready", about="Whether the service can rank, and with which model"
    ),
    Operation(name="scrape", method="get", path="/metrics", about="Counts and times, for Prometheus"),
)
RETRIEVAL = (
    Operation(
        name="retrieve", method="post", path="/v1/retrieve", about="Retrieve the best items of the whole catalogue",
        body=RetrieveBody, answer=RetrieveAnswerBody, example=QUERY,
    ),
    Operation(
        name="recommend", method="post", path="/v1/recommend", about="Retrieve, then rank", body=RecommendBody,
        answer=RecommendAnswerBody, example={**QUERY, "top_k": 10},
    ),
)  # fmt: skip


def document(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    kinds = [kind for each in operations for kind in (each.body, each.answer) if kind is not None]
    _, components = msgspec.json.schema_components([*kinds, ErrorBody], ref_template=PLACE)
    for schema in components.values():
        schema["description"] = cleandoc(schema["description"])
    paths: dict[str, Any] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "genrank", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(operation: Operation) -> dict[str, Any]:
    failures = {str(code): {"description": HTTPStatus(code).phrase, "content": _content(ErrorBody)} for code in ERRORS}
    kind = {"content": {"text/plain": {"schema": {"type": "string"}}}} if operation.path == "/metrics" else {
        "content": {JSON: {"schema": {"type": "object"}}} if operation.answer is None else _content(operation.answer)
    }  # fmt: skip
    described: dict[str, Any] = {
        "summary": operation.about,
        "operationId": re.sub(r"\W", "_", f"{operation.name}{operation.path}_{operation.method}"),
        "responses": {"200": {"description": "Success", **kind}, **failures},
    }
    if operation.body is not None:
        content = _content(operation.body)
        content[JSON]["example"] = operation.example
        described["requestBody"] = {"required": True, "content": content}
    if named := re.findall(r"{(\w+)}", operation.path):
        text = {"type": "string", "minLength": 1, "maxLength": MAX_ID}
        described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in named]
    return described


def _content(kind: type[Struct]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": PLACE.format(name=kind.__name__)}}}
