"""The bodies of HTTP requests.

A body is decoded in two steps. Its fields are read at once; features, which can be large and slow to read, stay bytes
(`Raw`) until `event()`, `as_item()` and `query()` decode them, each map by itself and none above MAX_FEATURE_BYTES.
"""

from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, field

from genrank.errors import RequestError
from genrank.ids import MAX_ID
from genrank.inference.catalogue import Item
from genrank.inference.store import Event
from genrank.server.body_reading import MalformedBody, decoded
from genrank.server.query import PipelineQuery

MAX_TEXT = 4096  # characters of a value
MAX_FEATURE_BYTES = 80_000  # of the JSON of one map: an embedding of 3,072 numbers of 24 characters fits
MAX_NAMES = 128  # different features in the contexts of a request's candidates

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
        description="features of the exposure by name: a value for all candidates, or a list with one per candidate; "
        f"at most {MAX_FEATURE_BYTES} bytes",
        extra_json_schema=_features_schema(OF_EACH_SCHEMA),
    ),
]
Tasks = Annotated[list[Name], Meta(description="scores wanted in the answer; default: all")]
Value = Annotated[dict[Name, float] | Text, Meta(description="weight of each task in the value, or a formula's name")]

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
    """A candidate with the features of its exposure that differ from the other candidates', such as the item's age."""

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

    def query(self) -> PipelineQuery:
        """The query that the pipeline takes. Raises MalformedBody and RequestError."""
        own = self._own()
        names = dict.fromkeys(name for context in own for name in context)
        if len(names) > MAX_NAMES:
            raise RequestError(
                f"candidates: their contexts have {len(names)} different features, at most {MAX_NAMES} are taken; "
                "leave out those that the model doesn't know"
            )
        shared = _features(self.context, "context", _OF_EACH)
        return PipelineQuery(
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
    """How many items of the whole catalogue to find for a user, and which ones to leave out."""

    user: Id
    k: Annotated[int, Meta(ge=1, le=2**31 - 1, description="items to find")] = 500
    time: Annotated[Seconds | None, Meta(description="default: now")] = None
    without: Annotated[
        dict[Name, list[Scalar]],
        Meta(max_length=MAX_NAMES, description="values by item feature: items with such a value are left out"),
    ] = {}
    exclude: Annotated[list[Id], Meta(description="items that may not be in the answer")] = []
    exclude_seen: Annotated[
        bool | None, Meta(description="leave out what the user had before; default: as trained")
    ] = None

    def query(self) -> PipelineQuery:
        """The query that the pipeline takes. Raises MalformedBody."""
        return PipelineQuery(
            user=str(self.user),
            k=self.k,
            time=self.time,
            without=self.without,
            exclude=tuple(str(item) for item in self.exclude),
            exclude_seen=self.exclude_seen,
        )


class RecommendBody(RetrieveBody):
    """Items are retrieved, then ranked. The fields for ranking are those of /v1/rank."""

    context: SharedFeatures = field(default_factory=lambda: NONE)
    tasks: Tasks = []
    value: Value = ""
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1, description="best candidates to answer with; 0: all")] = 20

    def query(self) -> PipelineQuery:
        """The query that the pipeline takes. Raises MalformedBody."""
        return replace(
            super().query(),
            context=_features(self.context, "context", _OF_EACH),
            tasks=tuple(self.tasks),
            value=self.value,
            top_k=self.top_k,
        )


class EventBody(Body):
    """An exposure and what the user did: true or false per binary task, seconds per duration, null for unknown.

    A binary task that is left out was not done. An event that is sent again changes nothing; with other content it
    replaces the user's event of the same id, or of the same item and time if it has no id. Content that was replaced
    does not come back when it is sent again late, unless it has a higher `version`; a lower version is ignored.
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
        int, Meta(ge=0, le=2**40 - 1, description="when the actions became known, seconds; 0: by the schema")
    ] = 0
    version: Annotated[
        int, Meta(ge=0, le=2**53, description="number of this content, for an event whose content may change back")
    ] = 0

    def event(self, where: str = "event") -> Event:
        """The event that the service takes. where: its place in the body. Raises MalformedBody."""
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
    """A batch of events: all are stored, or none."""

    events: Annotated[list[EventBody], Meta(min_length=1)]

    def taken(self) -> list[Event]:
        """The events that the service takes. Raises MalformedBody."""
        return [each.event(f"events.{place}") for place, each in enumerate(self.events)]


class ItemBody(Body):
    """An item's features; embeddings are lists of numbers."""

    item: Id
    features: Features = field(default_factory=lambda: NONE)
    available: Annotated[
        bool, Meta(description="false: it is not retrieved any more; rankings and histories keep it")
    ] = True

    def as_item(self, where: str = "item") -> Item:
        """The item that the service takes. where: its place in the body. Raises MalformedBody."""
        return Item(id=str(self.item), features=_features(self.features, f"{where}.features"), available=self.available)


class ItemsBody(Body):
    """A batch of items: all are stored, or none."""

    items: Annotated[list[ItemBody], Meta(min_length=1)]

    def taken(self) -> list[Item]:
        """The items that the service takes. Raises MalformedBody."""
        return [each.as_item(f"items.{place}") for place, each in enumerate(self.items)]
