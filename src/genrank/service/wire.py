"""What goes over HTTP: the bodies of requests and answers."""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from genrank.service.deployment import RankAnswer, RankRequest
from genrank.service.retrieval import RetrieveAnswer, Wanted
from genrank.serving.catalogue import Item
from genrank.serving.store import Event

MAX_ID = 256


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text; send whole characters") from None
    return value


def _values(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        _text(name)
        _value(name, value)
    return values


def _value(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; leave out what is unknown")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} has more than 64 bits; send it as text if it is an id")
    if isinstance(value, str):
        _text(value)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _value(name, part)


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("expected an id, text or a whole number")
    if not 0 < len(str(value)) <= MAX_ID:
        raise ValueError(f"an id has 1 to {MAX_ID} characters")
    return _text(str(value))


ID_SCHEMA = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_ID}, {"type": "integer"}]}
Id = Annotated[str, BeforeValidator(_id), WithJsonSchema(ID_SCHEMA)]
Values = Annotated[dict[str, JsonValue], AfterValidator(_values)]


class Body(BaseModel):
    """Unknown fields are refused: a misspelt one would be a feature that is silently missing."""

    model_config = ConfigDict(extra="forbid")


class CandidateBody(Body):
    """A candidate with features of its exposure that are its own, such as its age."""

    item: Id
    context: Values = Field(default_factory=dict)


class RankBody(Body):
    """Candidates to rank for a user."""

    user: Id
    candidates: list[Id | CandidateBody] = Field(min_length=1)
    time: int | None = Field(None, description="seconds since the epoch; default: now", ge=0, lt=2**40)
    context: Values = Field(default_factory=dict, description="features of all candidates' exposure")
    tasks: list[str] = Field(default_factory=list, description="scores wanted in the answer; default: all")
    value: dict[str, float] | str = Field("", description="weight of each task in the order, or a formula's name")
    top_k: int = Field(0, ge=0, description="best candidates to answer with; 0: all")

    def request(self) -> RankRequest:
        """As the service takes it."""
        return RankRequest(
            user=self.user,
            candidates=tuple(c.item if isinstance(c, CandidateBody) else c for c in self.candidates),
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


class RetrieveBody(Body):
    """How many of the whole catalogue to find for a user, and what not."""

    user: Id
    k: int = Field(500, ge=1, lt=2**31, description="items to find")
    time: int | None = Field(None, description="seconds since the epoch; default: now", ge=0, lt=2**40)
    without: dict[str, list[Id]] = Field(
        default_factory=dict, description="values by item feature that no answer may have, as in blocked authors"
    )
    exclude: list[Id] = Field(default_factory=list, description="items that may not be in the answer")
    exclude_seen: bool | None = Field(None, description="leave out what the user had before; default: as trained")

    def wanted(self) -> Wanted:
        """As the retrieval stage takes it."""
        return Wanted(
            user=self.user, k=self.k, time=self.time, without=self.without,
            exclude=tuple(self.exclude), exclude_seen=self.exclude_seen,
        )  # fmt: skip


class RecommendBody(RetrieveBody):
    """To be retrieved, then ranked. The ranking part is that of /v1/rank."""

    context: Values = Field(default_factory=dict, description="features of all candidates' exposure")
    tasks: list[str] = Field(default_factory=list, description="scores wanted in the answer; default: all")
    value: dict[str, float] | str = Field("", description="weight of each task in the order, or a formula's name")
    top_k: int = Field(20, ge=0, description="best candidates to answer with; 0: all")

    def request(self, candidates: tuple[str, ...], *, time: int) -> RankRequest:
        """The ranking of what was retrieved."""
        return RankRequest(
            user=self.user, candidates=candidates, time=time, context=self.context,
            tasks=tuple(self.tasks), value=self.value, top_k=self.top_k,
        )  # fmt: skip


class FoundBody(BaseModel):
    """A retrieved item. score: a logit, comparable within the answer."""

    item: str
    score: float


class RetrieveAnswerBody(BaseModel):
    """Items, best first; fewer than k where no more may be retrieved. Times in ms: of the batch that it was part of."""

    user: str
    user_known: bool
    history_current: bool
    time: int
    history: int
    model: str
    index: str
    items: list[FoundBody]
    waited_ms: float
    encode_ms: float
    search_ms: float
    rank_ms: float


class RecommendAnswerBody(BaseModel):
    """The ranker's order of what was retrieved. ranking: null where nothing was."""

    retrieved: int
    retriever: str
    index: str
    retrieval_ms: float
    ranking: RankAnswerBody | None


def retrieve_answer(found: RetrieveAnswer) -> bytes:
    """A RetrieveAnswerBody."""
    body = {
        "user": found.user,
        "user_known": found.user_known,
        "history_current": found.history_current,
        "time": found.time,
        "history": found.num_history,
        "model": found.model_version,
        "index": found.index_version,
        "items": [{"item": i, "score": score} for i, score in zip(found.items, found.scores, strict=True)],
        "waited_ms": round(1e3 * found.waited, 3),
        **{f"{name}_ms": round(1e3 * seconds, 3) for name, seconds in found.seconds.items()},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def recommend_answer(found: RetrieveAnswer, answer: RankAnswer | None, tasks: tuple[str, ...]) -> bytes:
    """A RecommendAnswerBody."""
    about = {
        "retrieved": len(found.items),
        "retriever": found.model_version,
        "index": found.index_version,
        "retrieval_ms": round(1e3 * (found.waited + sum(found.seconds.values())), 3),
    }
    ranking = b"null" if answer is None else rank_answer(answer, tasks)
    return json.dumps(about, separators=(",", ":")).encode()[:-1] + b',"ranking":' + ranking + b"}"


class EventBody(Body):
    """An exposure and what the user did: true or false per binary task, seconds per duration, null for unknown.

    A binary task that is left out was not done. An event that is sent again changes nothing, or replaces the one with
    its id, or with its user, item and time where it has none.
    """

    user: Id
    item: Id
    time: int = Field(ge=0, lt=2**40, description="seconds since the epoch")
    request: Id | Literal[""] = ""
    position: int = Field(-1, ge=-1, lt=2**31, description="slot in the feed; -1: unknown")
    actions: Values = Field(default_factory=dict)
    context: Values = Field(default_factory=dict)
    id: Annotated[str, AfterValidator(_text)] = Field("", max_length=MAX_ID)
    known_at: int = Field(0, ge=0, lt=2**40, description="when the actions were known, seconds; 0: as the schema says")

    def event(self) -> Event:
        """As the service takes it."""
        return Event(
            user=self.user, item=self.item, time=self.time, request=self.request,
            position=self.position, actions=self.actions, context=self.context, id=self.id, known_at=self.known_at,
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
    features: Values = Field(default_factory=dict)
    available: bool = Field(True, description="false: not to be retrieved any more; rankings and histories keep it")

    def as_item(self) -> Item:
        """As the service takes it."""
        return Item(id=self.item, features=self.features, available=self.available)


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
