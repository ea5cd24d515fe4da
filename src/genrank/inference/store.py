"""The interface of stores of live exposures and new items (sqlite_store.py, redis_store.py).

Events are stored as they were sent, in raw values, so that they don't depend on a model and its vocabularies. An
event's identity is its `key`: an event that is sent again changes nothing, unless its content differs (a like that came
later than the exposure): then it replaces the earlier content. Replaced content never comes back, so that a late retry
undoes nothing. Callers whose events change back and forth number them (`Event.version`); a lower number never replaces
a higher one, nor does an earlier `known_at` replace a later one. Every change of a user's events gives the changed ones
a new revision, which is also the user's new version.

No event is lost: a user's oldest events are moved to an archive, which readers read only when it has changed. Readers
that count all events, such as window statistics, begin with a snapshot and continue with the updates since.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genrank.errors import GenRankError, RequestError, shown
from genrank.ids import check_id
from genrank.inference.catalogue import Item
from genrank.inference.left_out import LeftOut

SLACK = 4  # a user's oldest events are archived when there are a quarter more than max_events
MAX_UPDATES = 100_000  # updates that are kept in Redis
FORMER = 16  # replaced contents of an event that are remembered
MAX_EVENT_BYTES = 16 * 2**10  # of an event's JSON: a user's 4,096 events are read together
MAX_ITEM_BYTES = 100_000


LARGEST = 2**53 + 1  # bound of whole numbers
KINDS: Mapping[str, type] = {
    "item": str, "time": int, "request": str, "position": int, "actions": dict, "context": dict, "id": str,
    "known_at": int, "version": int,
}  # fmt: skip


class StoreUnavailable(GenRankError):
    """The store can't be reached or doesn't answer in time. A write that raised this may have been stored or not."""


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
    id: str = ""  # of the event; empty: it is identified by user, item and time
    known_at: int = 0  # when its actions were known; 0: at its time, plus the schema's history.settle
    version: int = 0  # the caller's number of this content of the event

    @property
    def key(self) -> str:
        """The identity of the event among those of its user."""
        return f"#{self.id}" if self.id else f"{self.time}/{self.item}"

    def is_older_than(self, kept: "Event") -> bool:
        """Whether this is older content than `kept`, by version or known time."""
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
        """The event whose `body` this is. ValueError and TypeError for another text."""
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
    version: int = 0  # the newest revision; 0: none
    archive: int = 0  # version of the archived events
    archived: tuple[tuple[Event, int], ...] | None = ()  # older events; None: the caller has this archive already


@dataclass(frozen=True)
class Change:
    """An event that is new, or replaces the earlier one of its key, `before`."""

    event: Event
    before: Event | None


@dataclass(frozen=True)
class Update:
    """The changes of one call."""

    changes: tuple[Change, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The content of a store. events: in no order; empty if not requested. position: that of the updates."""

    events: tuple[Event, ...]
    items: tuple[Item, ...]
    position: str


class EventStore(Protocol):
    """Live exposures of all users. Safe to use from several threads.

    shared: other processes may write to it too. left_out: its entries that no model can read. Every method raises
    StoreUnavailable if the store can't be reached, read or written in time.
    """

    shared: bool
    left_out: LeftOut

    def append(self, events: Sequence[Event]) -> list[Change]:
        """Store the events; returns the changes. RequestError for an event that is too large: see check_events."""

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """All content, items in the order in which their ids first came."""

    def updates(self, position: str) -> tuple[list[Update], str]:
        """The updates since the position, oldest first, and the position after them. Raises UpdatesExpired.

        After a snapshot without events, updates of events may be missing.
        """

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """The events of a user. archive: version of the archive that the caller has, which isn't read again."""

    def version(self, user: str) -> int:
        """The version of `events(user)`, without reading them."""

    def put_items(self, items: Sequence[Item]) -> None:
        """Store items, replacing older ones of the same id. RequestError if an item is too large (check_items)."""

    def delete(self, *, items: Sequence[str] = (), events: Sequence[tuple[str, str]] = (), user: str = "") -> int:
        """Delete items by id, events by user and key, all events of a user; returns how many.

        Rankings see at once that events are gone; a service has deleted items, and counts of deleted events in window
        statistics, until it is restarted.
        """

    def users(self) -> dict[str, int]:
        """Number of events per user."""

    def last_written(self) -> float:
        """Time of the last write, seconds since the epoch by the clock at that time; 0: never."""

    def close(self) -> None:
        """Release files and connections."""


def check_events(events: Sequence[Event]) -> None:
    """RequestError if an event is too large, or an id is missing or too long."""
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
    """RequestError if an item is too large, or an id is missing or too long."""
    for item in items:
        check_id("item", item.id)
        if (size := len(item.body())) > MAX_ITEM_BYTES:
            raise RequestError(
                f"the item {shown(item.id)} has {size} bytes of JSON, at most {MAX_ITEM_BYTES} are kept; send less"
            )


def parsed_events(rows: Iterable[tuple[str, str, str, int]], left_out: LeftOut) -> list[tuple[Event, int]]:
    """Events and revisions of rows (user, key, body, revision); rows that are no event are left out."""
    events = []
    for user, key, body, revision in rows:
        try:
            events.append((Event.parse(user, body), int(revision)))
        except (ValueError, TypeError, RecursionError):
            left_out.event(user, key, f"no event can be read from {shown(body)}")
    return events


def parsed_items(rows: Iterable[tuple[str, str]], left_out: LeftOut) -> tuple[Item, ...]:
    """Items of rows (id, body); rows that are no item are left out."""
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
