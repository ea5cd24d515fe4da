"""Where live exposures and new items are kept: what every store does (sqlite_store.py, redis_store.py).

Events are kept as they came, in raw values, so that they outlive a model and its vocabularies. An event's identity is
its `key`: sent again it changes nothing, unless its content is another (a like that came later than the exposure),
which replaces it. Content that has been replaced never comes back, so that a late retry undoes nothing; callers whose
events do go back and forth number them (`Event.version`), and a lower number never replaces a higher one, nor does an
event that says it was known earlier (`known_at`) replace a later one.
Every change of a user's events gives the changed ones a new revision, and the user that version.

Nothing that was kept is lost: a user's oldest events go to an archive, which readers ask for only when it has changed.
Readers that count all events, such as window statistics, begin with a snapshot and go on with the updates since.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genrank.errors import GenRankError, RequestError, shown
from genrank.ids import check_id
from genrank.inference.catalogue import Item
from genrank.inference.left_out import LeftOut

SLACK = 4  # a user's oldest events are archived when there are a quarter more than allowed
MAX_UPDATES = 100_000  # that are kept in Redis for those who follow
FORMER = 16  # contents of an event that are remembered as replaced
MAX_EVENT_BYTES = 16 * 2**10  # of an event's JSON: a user's 4,096 events are read at once
MAX_ITEM_BYTES = 100_000


LARGEST = 2**53 + 1  # of whole numbers
KINDS: Mapping[str, type] = {
    "item": str, "time": int, "request": str, "position": int, "actions": dict, "context": dict, "id": str,
    "known_at": int, "version": int,
}  # fmt: skip


class StoreUnavailable(GenRankError):
    """The store can't be reached or doesn't answer in time. Nothing that it raised this for is known to be kept."""


class UpdatesExpired(GenRankError):
    """The updates since a position are no longer kept; take a snapshot again."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One exposure with what the user did. time, known_at: seconds since the epoch, UTC."""

    user: str
    item: str
    time: int
    request: str = ""  # exposures of one request share it; empty: those of equal time are one request
    position: int = -1  # slot in the feed
    actions: Mapping[str, Any] = field(default_factory=dict)  # by task or feedback
    context: Mapping[str, Any] = field(default_factory=dict)  # features of the exposure
    id: str = ""  # of the event; empty: user, item and time tell it from others
    known_at: int = 0  # when its actions were known; 0: at its time, or when the schema's history.settle has passed
    version: int = 0  # the caller's number of this content of the event

    @property
    def key(self) -> str:
        """What tells it from other events of its user."""
        return f"#{self.id}" if self.id else f"{self.time}/{self.item}"

    def is_older_than(self, kept: "Event") -> bool:
        """Whether what its caller says of it makes it an older content of the same event."""
        return self.version < kept.version or 0 < self.known_at < kept.known_at

    def content(self) -> dict[str, Any]:
        """All but user and key."""
        content = {
            "item": self.item, "time": self.time, "request": self.request, "position": self.position,
            "actions": dict(self.actions), "context": dict(self.context), "id": self.id,
        }  # fmt: skip
        return content | {name: value for name in ("known_at", "version") if (value := getattr(self, name))}

    def body(self) -> str:
        """The content as JSON that is equal for equal events."""
        return json.dumps(self.content(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, user: str, body: str) -> "Event":
        """The event that `body` was made of. ValueError and TypeError for another text."""
        event = cls(user=user, **json.loads(body))
        for name, kind in KINDS.items():
            value: Any = getattr(event, name)
            in_range = not isinstance(value, int) or -1 <= value < LARGEST
            if not isinstance(value, kind) or isinstance(value, bool) or not in_range:
                raise TypeError(f"{name} is {shown(value)}")
        if not (min(event.time, event.known_at) >= 0 and event.position < 2**31):
            raise ValueError("a time or position is out of range")
        return event


@dataclass(frozen=True, kw_only=True)
class UserEvents:
    """A user's live events, each with its revision, in order of (time, revision)."""

    events: tuple[tuple[Event, int], ...] = ()
    version: int = 0  # the newest revision there has been; 0: none
    archive: int = 0  # version of the archived events
    archived: tuple[tuple[Event, int], ...] | None = ()  # older ones; None: the caller knows this archive


@dataclass(frozen=True)
class Change:
    """An event that is new, or other than the one that was kept under its key."""

    event: Event
    before: Event | None


@dataclass(frozen=True)
class Update:
    """What one call has changed."""

    changes: tuple[Change, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is kept. events: in no order, without them where they were not asked for. position: of the updates."""

    events: tuple[Event, ...]
    items: tuple[Item, ...]
    position: str


class EventStore(Protocol):
    """Live exposures of all users. Safe to use from several threads.

    shared: other processes may write to it too. left_out: what is in it and can't be read by any model. Every method
    raises StoreUnavailable where the store can't be reached, read or written in time.
    """

    shared: bool
    left_out: LeftOut

    def append(self, events: Sequence[Event]) -> list[Change]:
        """Keep the events; what that changed. RequestError for what is too large to be kept: see check_events."""

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """All that is kept, items in the order in which their ids first came."""

    def updates(self, position: str) -> tuple[list[Update], str]:
        """What has changed since the position, oldest first, and the position after it. Raises UpdatesExpired.

        Who took a snapshot without events may not hear of theirs.
        """

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """What is known of a user. `archive`: a version of the archive that need not be read again."""

    def version(self, user: str) -> int:
        """The version of `events(user)`, without reading them."""

    def put_items(self, items: Sequence[Item]) -> None:
        """Keep items, each in place of an older one of its id. RequestError for what is too large: see check_items."""

    def delete(self, *, items: Sequence[str] = (), events: Sequence[tuple[str, str]] = (), user: str = "") -> int:
        """Forget items by id, events by user and key, all events of a user; how many those were.

        Rankings see at once that events are gone; items and window statistics forget when a service is started again.
        """

    def users(self) -> dict[str, int]:
        """How many events every user has."""

    def last_written(self) -> float:
        """When something was last written, in seconds since the epoch by the clock of then; 0: never."""

    def close(self) -> None:
        """Release files and connections."""


def check_events(events: Sequence[Event]) -> None:
    """RequestError where one is larger than any store keeps, or has an id that is too long or missing."""
    for event in events:
        check_id("user", event.user)
        check_id("item", event.item)
        check_id("request", event.request, optional=True)
        check_id("id", event.id, optional=True)
        if (size := len(event.body())) > MAX_EVENT_BYTES:
            raise RequestError(
                f"the event of item {shown(event.item)} has {size} bytes of JSON, at most {MAX_EVENT_BYTES} are kept; "
                "send less context"
            )


def check_items(items: Sequence[Item]) -> None:
    """RequestError where one is larger than any store keeps, or has an id that is too long or missing."""
    for item in items:
        check_id("item", item.id)
        if (size := len(item.body())) > MAX_ITEM_BYTES:
            raise RequestError(
                f"the item {shown(item.id)} has {size} bytes of JSON, at most {MAX_ITEM_BYTES} are kept; send less"
            )


def parsed_events(rows: Iterable[tuple[str, str, str, int]], left_out: LeftOut) -> list[tuple[Event, int]]:
    """Events and revisions, of (user, key, body, revision); what is no event is left out."""
    events = []
    for user, key, body, revision in rows:
        try:
            events.append((Event.parse(user, body), int(revision)))
        except (ValueError, TypeError, RecursionError):
            left_out.event(user, key, f"no event can be read from {shown(body)}")
    return events


def parsed_items(rows: Iterable[tuple[str, str]], left_out: LeftOut) -> tuple[Item, ...]:
    """Items, of (id, body); what is no item is left out."""
    items = []
    for name, body in rows:
        try:
            items.append(Item.parse(name, body))
        except (ValueError, TypeError, RecursionError):
            left_out.item(name, f"no item can be read from {shown(body)}")
    return tuple(items)


def arranged(rows: Iterable[tuple[str, str, str, int]], left_out: LeftOut) -> tuple[tuple[Event, int], ...]:
    """Events and revisions in their order, from (user, key, body, revision) in any order."""
    return tuple(sorted(parsed_events(rows, left_out), key=lambda pair: (pair[0].time, pair[1])))
