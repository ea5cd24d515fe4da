"""What comes over HTTP: the bodies of requests.

A body is decoded in two steps. Its fields are read at once; features, which can be large and slow to read, stay bytes
(`Raw`) until `event()`, `as_item()` and `request()` decode them, each map by itself and none above MAX_FEATURE_BYTES.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, field

from genrank.errors import RequestError
from genrank.ids import MAX_ID
from genrank.inference.catalogue import Item
from genrank.inference.store import Event
from genrank.server.body_reading import MalformedBody, decoded
from genrank.server.deployment import RankRequest
from genrank.server.recommender import RecommendQuery
from genrank.server.retrieval_service import RetrievalQuery

MAX_TEXT = 4096  # characters of a value
MAX_FEATURE_BYTES = 80_000  # of the JSON of one map: an embedding of 3,072 numbers of 24 characters fits
MAX_NAMES = 128  # features that the candidates of a request have of their own, all together

Name = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Name | Whole
Seconds = Annotated[int, Meta(ge=0, le=2**40 - 1, description="seconds since the epoch")]
Scalar = None | bool | Whole | float | Text
Plain = Scalar | list[Scalar] | dict[Name, Scalar]
OfEach = Scalar | list[Scalar | list[Scalar] | dict[Name, Scalar]] | dict[Name, Scalar]

SCALAR_SCHEMA: dict[str, Any] = {"type": ["null", "boolean", "number", "string"], "maxLength": MAX_TEXT}
LIST_SCHEMA = {"type": "array", "items": SCALAR_SCHEMA}
MAP_SCHEMA = {"type": "object", "additionalProperties": SCALAR_SCHEMA}
PLAIN_SCHEMA = {"anyOf": [SCALAR_SCHEMA, LIST_SCHEMA, MAP_SCHEMA]}
OF_EACH_SCHEMA = {"anyOf": [SCALAR_SCHEMA, {"type": "array", "items": PLAIN_SCHEMA}, MAP_SCHEMA]}
NAME_SCHEMA = {"minLength": 1, "maxLength": MAX_ID}


def _features_schema(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values, "propertyNames": NAME_SCHEMA, "default": {}}


Features = Annotated[
    Raw,
    Meta(
        description=f"values by name, at most {MAX_FEATURE_BYTES} bytes",
        extra_json_schema=_features_schema(PLAIN_SCHEMA),
    ),
]
SharedFeatures = Annotated[
    Raw,
    Meta(
        description="features of all candidates' exposure by name, or a list with one for each candidate; "
        f"at most {MAX_FEATURE_BYTES} bytes",
        extra_json_schema=_features_schema(OF_EACH_SCHEMA),
    ),
]
Tasks = Annotated[list[Name], Meta(description="scores wanted in the answer; default: all")]
Value = Annotated[dict[Name, float] | Text, Meta(description="weight of each task in the order, or a formula's name")]

NONE = Raw(b"{}")
_FEATURES: "msgspec.json.Decoder[dict[str, Any]]" = msgspec.json.Decoder(dict[Name, Plain])
_OF_EACH: "msgspec.json.Decoder[dict[str, Any]]" = msgspec.json.Decoder(dict[Name, OfEach])


def _features(raw: Raw, where: str, decoder: "msgspec.json.Decoder[dict[str, Any]]" = _FEATURES) -> dict[str, Any]:
    if raw is NONE:
        return {}
    if (size := len(memoryview(raw))) > MAX_FEATURE_BYTES:
        raise MalformedBody(f"{where}: has {size} bytes, at most {MAX_FEATURE_BYTES} are taken; send less")
    return decoded(decoder, raw, where)


class Body(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Unknown fields are refused: a misspelt one would be a feature that is silently missing."""


class CandidateBody(Body):
    """A candidate with features of its exposure that are its own, such as its age."""

    item: Id
    context: Features = field(default_factory=lambda: NONE)


class RankBody(Body):
    """Candidates to rank for a user."""

    user: Id
    candidates: Annotated[list[Id | CandidateBody], Meta(min_length=1)]
    time: Annotated[Seconds | None, Meta(description="default: now")] = None
    context: SharedFeatures = field(default_factory=lambda: NONE)
    tasks: Tasks = []
    value: Value = ""
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1, description="best candidates to answer with; 0: all")] = 0

    def request(self) -> RankRequest:
        """As the service takes it. Raises MalformedBody and RequestError."""
        own = self._own()
        names = dict.fromkeys(name for context in own for name in context)
        if len(names) > MAX_NAMES:
            raise RequestError(
                f"candidates: their contexts have {len(names)} features among them, at most {MAX_NAMES} are taken; "
                "leave out those that the model doesn't know"
            )
        shared = _features(self.context, "context", _OF_EACH)
        return RankRequest(
            user=str(self.user),
            candidates=tuple(str(c.item) if isinstance(c, CandidateBody) else str(c) for c in self.candidates),
            time=self.time,
            context=shared | {name: [context.get(name, shared.get(name)) for context in own] for name in names},
            of_each=frozenset(names),
            tasks=tuple(self.tasks),
            value=self.value,
            top_k=self.top_k,
        )

    def _own(self) -> list[dict[str, Any]]:
        """The candidates' own contexts."""
        nothing: dict[str, Any] = {}  # one for all
        return [
            _features(c.context, f"candidates.{place}.context") if isinstance(c, CandidateBody) else nothing
            for place, c in enumerate(self.candidates)
        ]


class RetrieveBody(Body):
    """How many of the whole catalogue to find for a user, and what not."""

    user: Id
    k: Annotated[int, Meta(ge=1, le=2**31 - 1, description="items to find")] = 500
    time: Annotated[Seconds | None, Meta(description="default: now")] = None
    without: Annotated[
        dict[Name, list[Scalar]],
        Meta(max_length=MAX_NAMES, description="values by item feature that no answer may have, as in blocked authors"),
    ] = {}
    exclude: Annotated[list[Id], Meta(description="items that may not be in the answer")] = []
    exclude_seen: Annotated[
        bool | None, Meta(description="leave out what the user had before; default: as trained")
    ] = None

    def wanted(self) -> RetrievalQuery:
        """As the retrieval service takes it."""
        return RetrievalQuery(
            user=str(self.user),
            k=self.k,
            time=self.time,
            without=self.without,
            exclude=tuple(str(item) for item in self.exclude),
            exclude_seen=self.exclude_seen,
        )


class RecommendBody(RetrieveBody):
    """To be retrieved, then ranked. The ranking part is that of /v1/rank."""

    context: SharedFeatures = field(default_factory=lambda: NONE)
    tasks: Tasks = []
    value: Value = ""
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1, description="best candidates to answer with; 0: all")] = 20

    def query(self) -> RecommendQuery:
        """As the recommender takes it. Raises MalformedBody."""
        return RecommendQuery(
            retrieval=self.wanted(),
            context=_features(self.context, "context", _OF_EACH),
            tasks=tuple(self.tasks),
            value=self.value,
            top_k=self.top_k,
        )


class EventBody(Body):
    """An exposure and what the user did: true or false per binary task, seconds per duration, null for unknown.

    A binary task that is left out was not done. An event that is sent again changes nothing; with another content it
    replaces the one with its id, or with its user, item and time where it has none. A content that was replaced does
    not come back, so that retries may come late, unless it has a higher `version`; a lower one is ignored.
    """

    user: Id
    item: Id
    time: Seconds
    request: Annotated[str, Meta(max_length=MAX_ID)] | Whole = ""
    position: Annotated[int, Meta(ge=-1, le=2**31 - 1, description="slot in the feed; -1: unknown")] = -1
    actions: Features = field(default_factory=lambda: NONE)
    context: Features = field(default_factory=lambda: NONE)
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    known_at: Annotated[
        int, Meta(ge=0, le=2**40 - 1, description="when the actions were known, seconds; 0: as the schema says")
    ] = 0
    version: Annotated[
        int, Meta(ge=0, le=2**53, description="your number of this content of the event, where it goes back and forth")
    ] = 0

    def event(self, where: str = "event") -> Event:
        """As the service takes it. where: its place in the body. Raises MalformedBody."""
        return Event(
            user=str(self.user),
            item=str(self.item),
            time=self.time,
            request=str(self.request),
            position=self.position,
            actions=_features(self.actions, f"{where}.actions"),
            context=_features(self.context, f"{where}.context"),
            id=self.id,
            known_at=self.known_at,
            version=self.version,
        )


class EventsBody(Body):
    """A batch: all are kept, or none."""

    events: Annotated[list[EventBody], Meta(min_length=1)]

    def taken(self) -> list[Event]:
        """As the service takes them. Raises MalformedBody."""
        return [each.event(f"events.{place}") for place, each in enumerate(self.events)]


class ItemBody(Body):
    """An item's features; embeddings are lists of numbers."""

    item: Id
    features: Features = field(default_factory=lambda: NONE)
    available: Annotated[
        bool, Meta(description="false: not to be retrieved any more; rankings and histories keep it")
    ] = True

    def as_item(self, where: str = "item") -> Item:
        """As the service takes it. where: its place in the body. Raises MalformedBody."""
        return Item(id=str(self.item), features=_features(self.features, f"{where}.features"), available=self.available)


class ItemsBody(Body):
    """A batch: all are taken, or none."""

    items: Annotated[list[ItemBody], Meta(min_length=1)]

    def taken(self) -> list[Item]:
        """As the service takes them. Raises MalformedBody."""
        return [each.as_item(f"items.{place}") for place, each in enumerate(self.items)]
