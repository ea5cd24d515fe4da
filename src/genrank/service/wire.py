"""What goes over HTTP: the bodies of requests and answers."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from genrank.service.core import RankAnswer, RankRequest
from genrank.serving.catalogue import Item
from genrank.serving.store import Event

Id = str | int
MAX_ID = 256


class Body(BaseModel):
    """Unknown fields are refused: a misspelt one would be a feature that is silently missing."""

    model_config = ConfigDict(extra="forbid")


class CandidateBody(Body):
    """A candidate with features of its exposure that are its own, such as its age."""

    item: Id
    context: dict[str, JsonValue] = Field(default_factory=dict)


class RankBody(Body):
    """Candidates to rank for a user."""

    user: Id
    candidates: list[Id | CandidateBody] = Field(min_length=1)
    time: int | None = Field(None, description="seconds since the epoch; default: now", ge=0, lt=2**40)
    context: dict[str, JsonValue] = Field(default_factory=dict, description="features of all candidates' exposure")
    tasks: list[str] = Field(default_factory=list, description="scores wanted in the answer; default: all")
    value: dict[str, float] | str = Field("", description="weight of each task in the order, or a formula's name")
    top_k: int = Field(0, ge=0, description="best candidates to answer with; 0: all")

    def request(self) -> RankRequest:
        """As the service takes it."""
        return RankRequest(
            user=str(self.user),
            candidates=tuple(str(c.item if isinstance(c, CandidateBody) else c) for c in self.candidates),
            time=self.time,
            context=self._context(),
            tasks=tuple(self.tasks),
            value=self.value,
            top_k=self.top_k,
        )

    def _context(self) -> dict[str, Any]:
        """One value for all, or a list with one for each where a candidate has its own."""
        own = [c.context if isinstance(c, CandidateBody) else {} for c in self.candidates]
        named = dict.fromkeys(name for context in own for name in context)
        lists = {name: [context.get(name, self.context.get(name)) for context in own] for name in named}
        return self.context | lists


class PlaceBody(BaseModel):
    """A candidate in the order. known: false where the item is in no table and its features are unknown."""

    item: str
    value: float
    scores: dict[str, float]
    known: bool


class RankAnswerBody(BaseModel):
    """The order, best first. `encoded` of the `history` events had to be encoded for this answer.

    history_current: false where the store of events was out of reach, so that the newest events may be missing.
    """

    user: str
    user_known: bool
    history_current: bool
    time: int
    history: int
    encoded: int
    model: str
    places: list[PlaceBody]
    waited_ms: float
    worked_ms: float


def rank_answer(answer: RankAnswer, tasks: tuple[str, ...]) -> bytes:
    """A RankAnswerBody with the scores of `tasks`, of all where there are none; written directly, since it is large."""
    wanted = frozenset(tasks)
    places = [
        {
            "item": place.item,
            "value": place.value,
            "scores": {task: score for task, score in place.scores.items() if not wanted or task in wanted},
            "known": place.known,
        }
        for place in answer.places
    ]
    body = {
        "user": answer.user,
        "user_known": answer.user_known,
        "history_current": answer.history_current,
        "time": answer.time,
        "history": answer.num_history,
        "encoded": answer.num_encoded,
        "model": answer.model_version,
        "places": places,
        "waited_ms": round(1e3 * answer.waited, 3),
        "worked_ms": round(1e3 * answer.worked, 3),
    }
    return json.dumps(body, separators=(",", ":")).encode()


class EventBody(Body):
    """An exposure and what the user did: true or false per binary task, seconds per duration, null for unknown.

    A binary task that is left out was not done. An event that is sent again changes nothing, or replaces the one with
    its id, or with its user, item and time where it has none.
    """

    user: Id
    item: Id
    time: int = Field(ge=0, lt=2**40, description="seconds since the epoch")
    request: Id = ""
    position: int = -1
    actions: dict[str, JsonValue] = Field(default_factory=dict)
    context: dict[str, JsonValue] = Field(default_factory=dict)
    id: str = Field("", max_length=MAX_ID)

    def event(self) -> Event:
        """As the service takes it."""
        return Event(
            user=str(self.user), item=str(self.item), time=self.time, request=str(self.request),
            position=self.position, actions=self.actions, context=self.context, id=self.id,
        )  # fmt: skip


class EventsBody(Body):
    """A batch: all are kept, or none."""

    events: list[EventBody] = Field(min_length=1)


class EventsAnswerBody(BaseModel):
    """received: all that came; changed: those that were new or replaced another."""

    received: int
    changed: int


class ItemBody(Body):
    """An item's features; embeddings are lists of numbers."""

    item: Id
    features: dict[str, JsonValue] = Field(default_factory=dict)

    def as_item(self) -> Item:
        """As the service takes it."""
        return Item(id=str(self.item), features=self.features)


class ItemsBody(Body):
    """A batch: all are taken, or none."""

    items: list[ItemBody] = Field(min_length=1)


class ItemsAnswerBody(BaseModel):
    """received: all that came; new: those that were not known before."""

    received: int
    new: int


class UserAnswerBody(BaseModel):
    """A user's history as the model would see it now, newest last: items (empty: unknown), times, actions.

    current: false where the store of events is out of reach, so that the newest events may be missing.
    """

    user: str
    known: bool
    current: bool
    exposures: int
    window: list[dict[str, Any]]


class ErrorBody(BaseModel):
    """What was wrong and how to mend it."""

    error: str
    request_id: str
