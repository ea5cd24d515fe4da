"""The store of one service process: events and items in one SQLite file that survives restarts.

A write returns when it is on disk. Readers have a separate connection, so that a ranking doesn't wait for writes. If
the file can't be read or written in time, because another process holds it or the disk is full, StoreUnavailable is
raised.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from genrank.errors import DataError
from genrank.inference.catalogue import Item
from genrank.inference.left_out import LeftOut
from genrank.inference.sizes import held_bytes
from genrank.inference.store import (
    FORMER,
    SLACK,
    Change,
    Event,
    Snapshot,
    StoreUnavailable,
    Update,
    UpdatesExpired,
    UserEvents,
    arranged,
    check_events,
    check_items,
    parsed_events,
    parsed_items,
)
from genrank.locks import locked

Result = TypeVar("Result")
MAX_IN_MEMORY = 16 * 2**20  # bytes of updates
KEPT_SECONDS = 600  # how long updates are kept at most, which is longer than deploying a model takes
PATIENCE = 0.2  # seconds that a write waits for another process
READ_PATIENCE = 0.05  # seconds that a ranking waits
PAUSE = 0.5  # seconds after a failure in which no other call tries
TROUBLES = {  # by the beginning of SQLite's name of the error
    "SQLITE_BUSY": "another process holds it; end that process",
    "SQLITE_LOCKED": "another process holds it; end that process",
    "SQLITE_FULL": "there is no space left on its disk; make room",
    "SQLITE_IOERR": "its disk can't be read or written; make room, or repair the disk",
    "SQLITE_READONLY": "it can't be written to; give this process write permission",
    "SQLITE_CANTOPEN": "it can't be opened; check that it and its folder exist, and that there are free descriptors",
    "SQLITE_CORRUPT": "it is damaged; restore a copy of it",
    "SQLITE_NOTADB": "it is damaged; restore a copy of it",
}


class SQLiteStore:
    """Events in one SQLite file (WAL mode), for one service process. `:memory:`: nothing is kept on disk.

    max_events: of a user that are not archived; the oldest are archived, some at a time. alone: exclusive access;
    OutputError if another process has it. Without it, an existing file is only read.
    """

    shared = False

    def __init__(self, path: Path | str, *, max_events: int = 4096, alone: bool = True):
        self.path, self.max_events, self.left_out = path, max_events, LeftOut(f"the store {path}")
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._updates: deque[tuple[Update, int, float]] = deque()  # with their bytes, and when they came
        self._update_bytes = 0
        self._tells_events = False  # whether a caller needs updates of events
        self._num_updates = 0  # since the store was opened
        self._silent_until = self._full_until = 0.0  # when reads, and writes, are tried again
        self._why_full = ""
        self._held = ExitStack()
        try:
            if not alone:
                self._connection = self._reader = self._opened(READ_PATIENCE)
                if "former" not in self._columns():
                    raise DataError(f"{path}: no store of events of this version; genrank serve converts an older one")
                return
            if str(path) != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._held.enter_context(
                    locked(Path(f"{os.path.realpath(path)}.lock"), what=f"{path}, a store of events")
                )
            self._open()
        except (sqlite3.Error, OSError) as problem:
            self._held.close()
            raise DataError(f"{path}: can't be opened as a store of events ({problem}); give another file") from None

    def _opened(self, patience: float, *, mode: str = "ro") -> sqlite3.Connection:
        where = f"file:{quote(str(self.path))}?mode={mode}"
        made = sqlite3.connect(where, uri=True, timeout=patience, check_same_thread=False, isolation_level=None)
        made.text_factory = partial(
            str, encoding="utf-8", errors="replace"
        )  # a damaged row must not prevent reading the others
        return made

    def _open(self) -> None:
        in_memory = str(self.path) == ":memory:"
        self._connection = self._opened(PATIENCE, mode="memory" if in_memory else "rwc")
        # FULL: acknowledged writes survive a power failure too.
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *TABLES):
            self._connection.execute(statement)
        self._convert()
        if in_memory:
            self._reader, self._reading = self._connection, self._writing
        else:
            self._reader = self._opened(READ_PATIENCE)

    def _convert(self) -> None:
        """Convert a file of an earlier version."""
        columns = self._columns()
        if "dropped" in columns:  # a version that deleted a user's oldest events
            self._run("ALTER TABLE users RENAME COLUMN dropped TO archive")
            self._run("ALTER TABLE events ADD COLUMN archived INTEGER NOT NULL DEFAULT 0")
        if "former" not in columns:
            self._run("ALTER TABLE events ADD COLUMN former TEXT NOT NULL DEFAULT ''")
        self._run("CREATE INDEX IF NOT EXISTS at_hand ON events (user, archived, time)")

    def _columns(self) -> list[str]:
        return [column[1] for table in ("users", "events") for column in self._run(f"PRAGMA table_info({table})")]

    def append(self, events: Sequence[Event]) -> list[Change]:
        """See EventStore. All of them or, on an error, none."""
        check_events(events)
        changes: list[Change] = []
        with self._writing:
            with self._transaction():
                for event in events:
                    changes += self._keep(event)
                for user in {event.user for event in events}:
                    self._cut(user)
            if self._tells_events:
                self._note(Update(changes=tuple(changes)))
        return changes

    def put_items(self, items: Sequence[Item]) -> None:
        """See EventStore. All of them or, on an error, none."""
        check_items(items)
        with self._writing:
            with self._transaction():
                self._connection.executemany(
                    "INSERT INTO items (id, features) VALUES (?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET features = excluded.features",
                    [(item.id, item.body()) for item in items],
                )
            self._note(Update(items=tuple(items)))

    def delete(self, *, items: Sequence[str] = (), events: Sequence[tuple[str, str]] = (), user: str = "") -> int:
        """See EventStore."""
        with self._writing, self._transaction():
            count = sum(self._run("DELETE FROM items WHERE id = ?", (item,)).rowcount for item in items)
            keys = [*events, *((user, row[0]) for row in self._run("SELECT key FROM events WHERE user = ?", (user,)))]
            for name, key in keys:
                count += self._run("DELETE FROM events WHERE user = ? AND key = ?", (name, key)).rowcount
                self._run("UPDATE users SET version = version + 1, archive = archive + 1 WHERE user = ?", (name,))
        return count

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """See EventStore."""
        self._tells_events |= events  # before the snapshot, so that no update is missed
        with self._troubles(), self._moment() as (run, position):
            rows = run("SELECT user, key, body, revision FROM events").fetchall() if events else []
            items = run("SELECT id, features FROM items ORDER BY rowid").fetchall()
        return Snapshot(
            events=tuple(event for event, _ in parsed_events(rows, self.left_out)),
            items=parsed_items(items, self.left_out),
            position=position,
        )

    def updates(self, position: str) -> tuple[list[Update], str]:
        """See EventStore."""
        with self._writing:
            missing = self._num_updates - int(position)
            if missing > len(self._updates):
                raise UpdatesExpired(f"{missing} updates have come since, of which {len(self._updates)} are kept")
            kept = islice(self._updates, len(self._updates) - missing, None)
            return [update for update, _, _ in kept], str(self._num_updates)

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """See EventStore."""

        def read(run: Callable[..., Any]) -> tuple[Any, list[Any], list[Any] | None]:
            query = "SELECT user, key, body, revision FROM events WHERE user = ? AND archived = ?"
            about = run("SELECT version, archive FROM users WHERE user = ?", (user,)).fetchone()
            if about is None:
                return None, [], None
            older = None if about[1] == archive else run(query, (user, 1)).fetchall()
            return about, run(query, (user, 0)).fetchall(), older

        about, rows, older = self._ask_quickly(read)
        if about is None:
            return UserEvents()
        return UserEvents(
            events=arranged(rows, self.left_out),
            version=about[0],
            archive=about[1],
            archived=None if older is None else arranged(older, self.left_out),
        )

    def version(self, user: str) -> int:
        """See EventStore."""
        found = self._ask_quickly(lambda run: run("SELECT version FROM users WHERE user = ?", (user,)).fetchone())
        return 0 if found is None else int(found[0])

    def users(self) -> dict[str, int]:
        """See EventStore."""
        with self._troubles(), self._moment() as (run, _):
            rows = run("SELECT user, COUNT(*) FROM events GROUP BY user ORDER BY user").fetchall()
        return {user: count for user, count in rows if isinstance(user, str)}

    def last_written(self) -> float:
        """See EventStore."""
        written = [Path(f"{self.path}{ending}") for ending in ("", "-wal")]
        return max((path.stat().st_mtime for path in written if path.exists()), default=0.0)

    def close(self) -> None:
        """See EventStore."""
        with self._writing:
            self._reader.close()
            self._connection.close()
            self._held.close()

    def _keep(self, event: Event) -> list[Change]:
        body = event.body()
        query = "SELECT body, archived, former FROM events WHERE user = ? AND key = ?"
        found = self._run(query, (event.user, event.key)).fetchone()
        before, archived, former = found or (None, 0, "")
        if before is not None and (before == body or _digest(body) in former.split()):
            return []  # it is stored already, or it was and newer content has replaced it
        stored = [] if before is None else parsed_events([(event.user, event.key, before, 0)], self.left_out)
        old = stored[0][0] if stored else None
        if old is not None and event.is_older_than(old):
            return []
        if before is not None:
            former = " ".join([*former.split(), _digest(before)][-FORMER:])
        self._run(
            "INSERT INTO users (user, version, archive) VALUES (?, 1, 0) "
            "ON CONFLICT (user) DO UPDATE SET version = version + 1, archive = archive + ?",
            (event.user, archived),
        )
        self._run(
            "INSERT OR REPLACE INTO events (user, key, time, revision, body, archived, former) "
            "SELECT user, ?, ?, version, ?, 0, ? FROM users WHERE user = ?",
            (event.key, event.time, body, former, event.user),
        )
        return [Change(event, old)]

    def _cut(self, user: str) -> None:
        (count,) = self._run("SELECT COUNT(*) FROM events WHERE user = ? AND archived = 0", (user,)).fetchone()
        if count <= self.max_events + self.max_events // SLACK:
            return
        self._run(
            "UPDATE events SET archived = 1 WHERE user = ?1 AND key IN "
            "(SELECT key FROM events WHERE user = ?1 AND archived = 0 ORDER BY time, revision LIMIT ?2)",
            (user, count - self.max_events),
        )
        self._run("UPDATE users SET version = version + 1, archive = archive + 1 WHERE user = ?", (user,))

    def _note(self, update: Update) -> None:
        if update.changes or update.items:
            size, now = held_bytes(update), time.monotonic()
            self._updates.append((update, size, now))
            self._num_updates += 1
            self._update_bytes += size
            while len(self._updates) > 1:  # the last one has not been read yet
                if self._update_bytes <= MAX_IN_MEMORY and self._updates[0][2] > now - KEPT_SECONDS:
                    break
                self._update_bytes -= self._updates.popleft()[1]

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction. After a failure, other writes fail at once for PAUSE seconds instead of waiting."""
        if time.monotonic() < self._full_until:
            raise StoreUnavailable(f"{self._why_full}; writes are tried again after {PAUSE} s")
        try:
            with self._begun():
                yield
        except StoreUnavailable as problem:
            self._full_until, self._why_full = time.monotonic() + PAUSE, str(problem)
            raise

    @contextmanager
    def _begun(self) -> Iterator[None]:
        with self._troubles():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have ended it already
                    self._run("ROLLBACK")
                raise

    @contextmanager
    def _moment(self) -> Iterator[tuple[Callable[..., Any], str]]:
        """For long reads: a consistent snapshot and its position. With a file, no other call waits for it."""
        if self._reading is self._writing:
            with self._writing:
                yield self._run, str(self._num_updates)
            return
        with closing(self._opened(PATIENCE)) as connection:
            with self._writing:
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM users LIMIT 1").fetchone()  # the snapshot begins with the first read
                position = str(self._num_updates)
            yield connection.execute, position

    def _ask(self, read: Callable[[Callable[..., Any]], Result]) -> Result:
        """The result of `read` on a consistent snapshot."""
        with self._reading, self._troubles():
            self._reader.execute("BEGIN")
            try:
                return read(self._reader.execute)
            finally:
                with suppress(sqlite3.Error):
                    self._reader.execute("COMMIT")

    def _ask_quickly(self, read: Callable[[Callable[..., Any]], Result]) -> Result:
        """As `_ask`; after a failure, further calls fail at once for PAUSE seconds instead of waiting."""
        if time.monotonic() < self._silent_until:
            raise StoreUnavailable(f"{self.path}: could not be read; reads are tried again after {PAUSE} s")
        try:
            return self._ask(read)
        except StoreUnavailable:
            self._silent_until = time.monotonic() + PAUSE
            raise

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            name = getattr(problem, "sqlite_errorname", "")
            why = next((text for start, text in TROUBLES.items() if name.startswith(start)), str(problem))
            raise StoreUnavailable(f"{self.path}: {why}") from None


def _digest(body: str) -> str:
    """A digest of a body: 48 bits, which is enough for the few bodies of one key."""
    return hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest()[:12]


TABLES = (
    "CREATE TABLE IF NOT EXISTS users (user TEXT PRIMARY KEY, version INTEGER NOT NULL, archive INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS events (user TEXT NOT NULL, key TEXT NOT NULL, time INTEGER NOT NULL, "
    "revision INTEGER NOT NULL, body TEXT NOT NULL, archived INTEGER NOT NULL, former TEXT NOT NULL DEFAULT '', "
    "PRIMARY KEY (user, key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, features TEXT NOT NULL)",
    "DROP INDEX IF EXISTS by_time",  # of earlier versions
)
