"""Where live exposures and new items are kept: an interface, and a store in SQLite that survives restarts.

Events are kept as they came, in raw values, so that they outlive a model and its vocabularies. An event's identity is
its `key`: sent again it changes nothing, unless its content is another (a like that came later than the exposure),
which replaces it. Every change of a user's events gives the changed ones a new revision, and the user that version.

Nothing that was kept is lost: a user's oldest events go to an archive, which readers ask for only when it has changed.
Readers that count all events, such as window statistics, begin with a snapshot and go on with the updates since.
"""

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from genrank.errors import DataError, GenRankError, RequestError, shown
from genrank.ids import check_id
from genrank.serving.catalogue import Item
from genrank.serving.sizes import held_bytes

SLACK = 4  # a user's oldest events are archived when there are a quarter more than allowed
MAX_UPDATES = 100_000  # that are kept in Redis for those who follow
MAX_IN_MEMORY = 16 * 2**20  # bytes of them in the process itself
MAX_EVENT_BYTES = 16 * 2**10  # of an event's JSON: a user's 4,096 events are read at once
MAX_ITEM_BYTES = 100_000


class StoreUnavailable(GenRankError):
    """The store can't be reached or doesn't answer in time. Nothing that it raised this for is known to be kept."""


class Behind(GenRankError):
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

    @property
    def key(self) -> str:
        """What tells it from other events of its user."""
        return f"#{self.id}" if self.id else f"{self.time}/{self.item}"

    def body(self) -> str:
        """All but user and key, as JSON that is equal for equal events."""
        content = {
            "item": self.item, "time": self.time, "request": self.request, "position": self.position,
            "actions": dict(self.actions), "context": dict(self.context), "id": self.id,
        }  # fmt: skip
        if self.known_at:
            content["known_at"] = self.known_at
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, user: str, body: str) -> "Event":
        """The event that `body` was made of."""
        return cls(user=user, **json.loads(body))


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

    shared: other processes may write to it too. Where it can be out of reach, every method raises StoreUnavailable.
    """

    shared: bool

    def append(self, events: Sequence[Event]) -> list[Change]:
        """Keep the events; what that changed. RequestError for what is too large to be kept: see check_events."""

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """All that is kept, items in the order in which their ids first came."""

    def updates(self, position: str) -> tuple[list[Update], str]:
        """What has changed since the position, oldest first, and the position after it. Raises Behind.

        Who took a snapshot without events may not hear of theirs.
        """

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """What is known of a user. `archive`: a version of the archive that need not be read again."""

    def version(self, user: str) -> int:
        """The version of `events(user)`, without reading them."""

    def put_items(self, items: Sequence[Item]) -> None:
        """Keep items, each in place of an older one of its id. RequestError for what is too large: see check_items."""

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


def arranged(user: str, rows: Iterable[tuple[str, int]]) -> tuple[tuple[Event, int], ...]:
    """Events and revisions in their order, from (body, revision) in any order."""
    pairs = [(Event.parse(user, body), revision) for body, revision in rows]
    return tuple(sorted(pairs, key=lambda pair: (pair[0].time, pair[1])))


class SQLiteStore:
    """Events in one SQLite file (WAL mode): survives restarts, one service process. `:memory:` keeps nothing.

    max_events: of a user at hand; the oldest are archived, some at a time.
    """

    shared = False

    def __init__(self, path: Path | str, *, max_events: int = 4096):
        self.max_events = max_events
        self._lock = threading.Lock()
        self._updates: deque[tuple[Update, int]] = deque()  # with their bytes
        self._update_bytes = 0
        self._tells_events = False  # nobody has asked for any yet
        self._num_updates = 0  # there have been since the store was opened
        try:
            if str(path) != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None)
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *TABLES):
                self._connection.execute(statement)
            self._convert()
        except (sqlite3.Error, OSError) as problem:
            raise DataError(f"{path}: can't be opened as a store of events ({problem}); give another file") from None

    def _convert(self) -> None:
        """A file of the time when a user's oldest events were let go."""
        if any(column[1] == "dropped" for column in self._connection.execute("PRAGMA table_info(users)")):
            self._connection.execute("ALTER TABLE users RENAME COLUMN dropped TO archive")
            self._connection.execute("ALTER TABLE events ADD COLUMN archived INTEGER NOT NULL DEFAULT 0")
        self._connection.execute("CREATE INDEX IF NOT EXISTS at_hand ON events (user, archived, time)")

    def append(self, events: Sequence[Event]) -> list[Change]:
        """See EventStore. All of them or, on an error, none."""
        check_events(events)
        changes = []
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for event in events:
                    changes += self._keep(event)
                for user in {event.user for event in events}:
                    self._cut(user)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            if self._tells_events:
                self._note(Update(changes=tuple(changes)))
        return changes

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """See EventStore."""
        with self._lock:
            run = self._connection.execute
            self._tells_events |= events
            rows = run("SELECT user, body FROM events").fetchall() if events else []
            items = run("SELECT id, features FROM items ORDER BY rowid").fetchall()
            position = str(self._num_updates)
        return Snapshot(
            events=tuple(Event.parse(user, body) for user, body in rows),
            items=tuple(Item.parse(name, features) for name, features in items),
            position=position,
        )

    def updates(self, position: str) -> tuple[list[Update], str]:
        """See EventStore."""
        with self._lock:
            missing = self._num_updates - int(position)
            if missing > len(self._updates):
                raise Behind(f"{missing} updates have come since, of which {len(self._updates)} are kept")
            kept = islice(self._updates, len(self._updates) - missing, None)
            return [update for update, _ in kept], str(self._num_updates)

    def _note(self, update: Update) -> None:
        if update.changes or update.items:
            size = held_bytes(update)
            self._updates.append((update, size))
            self._num_updates += 1
            self._update_bytes += size
            while self._update_bytes > MAX_IN_MEMORY and len(self._updates) > 1:  # the last one is still to be told
                self._update_bytes -= self._updates.popleft()[1]

    def _keep(self, event: Event) -> list[Change]:
        run, body = self._connection.execute, event.body()
        found = run("SELECT body, archived FROM events WHERE user = ? AND key = ?", (event.user, event.key)).fetchone()
        if found is not None and found[0] == body:
            return []
        run(
            "INSERT INTO users (user, version, archive) VALUES (?, 1, 0) "
            "ON CONFLICT (user) DO UPDATE SET version = version + 1, archive = archive + ?",
            (event.user, 0 if found is None else found[1]),
        )
        run(
            "INSERT OR REPLACE INTO events (user, key, time, revision, body, archived) "
            "SELECT user, ?, ?, version, ?, 0 FROM users WHERE user = ?",
            (event.key, event.time, body, event.user),
        )
        return [Change(event, None if found is None else Event.parse(event.user, found[0]))]

    def _cut(self, user: str) -> None:
        run = self._connection.execute
        (count,) = run("SELECT COUNT(*) FROM events WHERE user = ? AND archived = 0", (user,)).fetchone()
        if count <= self.max_events + self.max_events // SLACK:
            return
        run(
            "UPDATE events SET archived = 1 WHERE user = ?1 AND key IN "
            "(SELECT key FROM events WHERE user = ?1 AND archived = 0 ORDER BY time, revision LIMIT ?2)",
            (user, count - self.max_events),
        )
        run("UPDATE users SET version = version + 1, archive = archive + 1 WHERE user = ?", (user,))

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """See EventStore."""
        query = "SELECT body, revision FROM events WHERE user = ? AND archived = ?"
        with self._lock:
            about = self._connection.execute("SELECT version, archive FROM users WHERE user = ?", (user,)).fetchone()
            if about is None:
                return UserEvents()
            rows = self._connection.execute(query, (user, 0)).fetchall()
            older = None if about[1] == archive else self._connection.execute(query, (user, 1)).fetchall()
        return UserEvents(
            events=arranged(user, rows),
            version=about[0],
            archive=about[1],
            archived=None if older is None else arranged(user, older),
        )

    def version(self, user: str) -> int:
        """See EventStore."""
        with self._lock:
            found = self._connection.execute("SELECT version FROM users WHERE user = ?", (user,)).fetchone()
        return 0 if found is None else int(found[0])

    def put_items(self, items: Sequence[Item]) -> None:
        """See EventStore. All of them or, on an error, none."""
        check_items(items)
        rows = [(item.id, item.body()) for item in items]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO items (id, features) VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET features = excluded.features",
                rows,
            )
            self._connection.execute("COMMIT")
            self._note(Update(items=tuple(items)))

    def close(self) -> None:
        """See EventStore."""
        with self._lock:
            self._connection.close()


TABLES = (
    "CREATE TABLE IF NOT EXISTS users (user TEXT PRIMARY KEY, version INTEGER NOT NULL, archive INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS events (user TEXT NOT NULL, key TEXT NOT NULL, time INTEGER NOT NULL, "
    "revision INTEGER NOT NULL, body TEXT NOT NULL, archived INTEGER NOT NULL, PRIMARY KEY (user, key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, features TEXT NOT NULL)",
    "DROP INDEX IF EXISTS by_time",  # of earlier versions
)
