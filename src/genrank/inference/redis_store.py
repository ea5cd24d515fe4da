"""The store of several service processes: events and items in Redis.

Every write is one script, so that it is atomic and every worker sees it at once. Its changes are also added to a stream
that the workers follow, in the order of the writes. A key of the database is `PREFIX:` and one of

    v:USER    hash: the user's version, that of the archive
    e:USER    hash: an event's key -> its revision, a space, its body
    a:USER    hash: the same, of archived events
    f:USER    hash: an event's key -> digests of its replaced contents
    t:USER    sorted set: event keys by time
    items     hash: id -> number of its arrival, a space, its features
    updates   stream: the changes, with the number of the call

The database is one Redis (optionally with replicas), not a cluster: a call's events are of many users, and are stored
all or none. Whether acknowledged writes survive a crash of Redis depends on its settings (`appendonly`).
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from genrank.errors import ConfigError, MissingExtraError, shown
from genrank.inference.catalogue import Item
from genrank.inference.left_out import LeftOut
from genrank.inference.redis_scripts import APPEND, EVENTS, FORGET, PUT_ITEMS
from genrank.inference.store import (
    FORMER,
    MAX_UPDATES,
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

Answer = TypeVar("Answer")
Entry = tuple[str, dict[str, str]]  # of a stream: id, fields
START = "0-0"  # before the first update
PAUSE = 0.5  # seconds after a failure in which Redis isn't called
PAGE = 1000  # keys or updates per call


class RedisStore:
    """Events and items in one Redis database, for any number of service processes.

    StoreUnavailable is raised if reading a user's events takes longer than `timeout` seconds, or a write or reading
    everything longer than `patience`, and then for PAUSE seconds by all other calls: rankings don't wait for a Redis
    that doesn't answer. After that Redis is called again.
    """

    shared = True

    def __init__(self, url: str, *, max_events: int = 4096, timeout: float = 0.1, patience: float = 2.0):
        """url: redis://[[user]:password@]host[:port][/database][#prefix]; several feeds can share a database with
        different prefixes. Raises ConfigError for another address, StoreUnavailable if Redis doesn't answer."""
        self.max_events = max_events
        address, _, prefix = url.partition("#")
        if "@" in prefix:
            raise ConfigError(f"--store {without_secrets(url)}: its password has a #; write %23 instead of it")
        self.prefix = prefix or "genrank"
        self._quick, self.shown = _connect(address, timeout)
        self._redis, _ = _connect(address, patience)
        self.left_out = LeftOut(f"the store {self.shown}")
        self._append, self._put, self._forget = (
            self._redis.register_script(script) for script in (APPEND, PUT_ITEMS, FORGET)
        )
        self._events = self._quick.register_script(EVENTS)
        self._silent_until = 0.0
        self._greet()

    def append(self, events: Sequence[Event]) -> list[Change]:
        """See EventStore. All of them or none."""
        check_events(events)
        values: list[Any] = [self.max_events, SLACK, MAX_UPDATES, FORMER]
        for event in events:
            values += [event.user, event.key, event.time, event.body(), event.version, event.known_at]
        found = self._ask(lambda: self._append(keys=[self.prefix], args=values))
        return [self._change(events[place], before) for place, before in found]

    def snapshot(self, *, events: bool = True) -> Snapshot:
        """See EventStore. Reads page by page; changes made meanwhile are applied from the updates."""
        position = self._last()
        kept = self._all_events() if events else {}
        stored = self._ask(lambda: self._redis.hgetall(self._key("items")))
        items = {name: _revised(value) for name, value in stored.items()}  # with their number in order of arrival
        for latest, entry in self._entries(position):
            position = latest
            if "item" in entry:
                number = items.get(entry["item"], (len(items), ""))[0]
                items[entry["item"]] = (number, entry["features"])
            elif events:
                place, revision = (entry["user"], entry["key"]), int(entry["revision"])
                if revision > kept.get(place, (0, ""))[0]:
                    kept[place] = (revision, entry["body"])
        rows = [(user, key, body, revision) for (user, key), (revision, body) in kept.items()]
        in_order = sorted(items, key=lambda name: items[name][0])
        return Snapshot(
            events=tuple(event for event, _ in parsed_events(rows, self.left_out)),
            items=parsed_items(((name, items[name][1]) for name in in_order), self.left_out),
            position=position,
        )

    def updates(self, position: str) -> tuple[list[Update], str]:
        """See EventStore."""
        entries = self._entries(position, with_first=True)
        if position != START:
            if not entries or entries[0][0] != position:
                raise UpdatesExpired(f"the updates since {position} are no longer in {self.prefix}:updates")
            entries = entries[1:]
        elif entries and entries[0][1]["call"] != "1":
            raise UpdatesExpired(f"the first updates are no longer in {self.prefix}:updates")
        updates: dict[str, Update] = {}
        for _, entry in entries:
            before = updates.get(entry["call"], Update())
            if "item" in entry:
                items = parsed_items([(entry["item"], entry["features"])], self.left_out)
                update = Update(items=(*before.items, *items))
            else:
                row = (entry["user"], entry["key"], entry["body"], int(entry["revision"]))
                changes = [self._change(event, entry["before"]) for event, _ in parsed_events([row], self.left_out)]
                update = Update(changes=(*before.changes, *changes))
            updates[entry["call"]] = update
        return list(updates.values()), entries[-1][0] if entries else position

    def events(self, user: str, *, archive: int = -1) -> UserEvents:
        """See EventStore."""
        about, values, archived = self._ask(lambda: self._events(keys=[self.prefix], args=[user, archive]))
        return UserEvents(
            events=self._arranged(user, values),
            version=_number(about[0]),
            archive=_number(about[1]),
            archived=None if archived is None else self._arranged(user, archived),
        )

    def version(self, user: str) -> int:
        """See EventStore."""
        return _number(self._ask(lambda: self._quick.hget(self._key(f"v:{user}"), "version")))

    def put_items(self, items: Sequence[Item]) -> None:
        """See EventStore. All of them or none."""
        check_items(items)
        values: list[Any] = [MAX_UPDATES]
        for item in items:
            values += [item.id, item.body()]
        self._ask(lambda: self._put(keys=[self.prefix], args=values))

    def delete(self, *, items: Sequence[str] = (), events: Sequence[tuple[str, str]] = (), user: str = "") -> int:
        """See EventStore."""
        count = int(self._ask(lambda: self._redis.hdel(self._key("items"), *items))) if items else 0
        keys: dict[str, list[str]] = {}
        for name, key in events:
            keys.setdefault(name, []).append(key)
        if user:
            count += self._dropped(user)
            keys[user] = [key for name in "ea" for key in self._keys_of(f"{name}:{user}")]
        return count + sum(self._forgotten(name, own) for name, own in keys.items())

    def users(self) -> dict[str, int]:
        """See EventStore."""
        return dict(sorted(Counter(user for user, _ in self._all_events()).items()))

    def last_written(self) -> float:
        """See EventStore. By the clock of Redis, whose streams are numbered by it."""
        return int(self._last().partition("-")[0]) / 1000

    def close(self) -> None:
        """See EventStore."""
        self._redis.close()
        self._quick.close()

    def _all_events(self) -> dict[tuple[str, str], tuple[int, str]]:
        kept: dict[tuple[str, str], tuple[int, str]] = {}
        start, cursor = self._key(""), 0
        pattern = f"{_literal(start)}[ae]:*"
        while True:
            cursor, names = self._ask(lambda at=cursor: self._redis.scan(at, match=pattern, count=PAGE))  # type: ignore[misc]
            for name in names:
                user = name[len(start) + 2 :]
                if self._ask(lambda at=name: self._redis.type(at)) != "hash":  # type: ignore[misc]
                    self.left_out.event(user, "", f"the key {shown(name)} is no hash; delete the user's events")
                    continue
                for key, value in self._ask(lambda at=name: self._redis.hgetall(at)).items():  # type: ignore[misc]
                    if _revised(value) > kept.get((user, key), (-1, "")):  # it may move while this reads
                        kept[user, key] = _revised(value)
            if cursor == 0:
                return kept

    def _last(self) -> str:
        found = self._ask(lambda: self._redis.xrevrange(self._key("updates"), count=1))
        return str(found[0][0]) if found else START

    def _entries(self, position: str, *, with_first: bool = False) -> list[Entry]:
        """The updates from the position on. The last one is the last of its call, since a call is one script."""
        entries: list[Entry] = []
        least = position if with_first else f"({position}"
        while True:
            page = self._ask(lambda at=least: self._redis.xrange(self._key("updates"), at, count=PAGE))  # type: ignore[misc]
            entries += page
            if len(page) < PAGE:
                return entries
            least = f"({page[-1][0]}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    def _greet(self) -> None:
        """ConfigError if Redis needs another password."""
        from redis import RedisError

        try:
            self._redis.ping()
        except RedisError as problem:
            if any(
                word in str(problem) for word in ("NOAUTH", "WRONGPASS", "HELLO must be called", "invalid username")
            ):
                raise ConfigError(
                    f"--store {self.shown} needs another password; expected redis://:PASSWORD@host:port/database"
                ) from None
        self._ask(self._redis.ping)

    def _keys_of(self, name: str) -> list[str]:
        return self._ask(lambda: list(self._redis.hkeys(self._key(name))))

    def _dropped(self, user: str) -> int:
        """Delete a user's keys that have a wrong type; returns how many."""
        kinds = {"v": "hash", "e": "hash", "a": "hash", "f": "hash", "t": "zset"}
        names = {self._key(f"{letter}:{user}"): kind for letter, kind in kinds.items()}
        wrong = [name for name, kind in names.items()
                 if self._ask(lambda at=name: self._redis.type(at)) not in (kind, "none")]  # type: ignore[misc]  # fmt: skip
        return int(self._ask(lambda: self._redis.delete(*wrong))) if wrong else 0

    def _forgotten(self, user: str, keys: Sequence[str]) -> int:
        return int(self._ask(lambda: self._forget(keys=[self.prefix], args=[user, *keys])))

    def _arranged(self, user: str, values: Sequence[str]) -> tuple[tuple[Event, int], ...]:
        """Events in their order. values: alternating keys and values."""
        rows = ((user, key, *reversed(_revised(value))) for key, value in zip(values[::2], values[1::2], strict=True))
        return arranged(rows, self.left_out)  # type: ignore[arg-type]

    def _change(self, event: Event, before: str) -> Change:
        old = parsed_events([(event.user, event.key, before, 0)], self.left_out) if before else []
        return Change(event, old[0][0] if old else None)

    def _ask(self, command: Callable[[], Answer]) -> Answer:
        """The answer. After no answer at all, Redis isn't called for PAUSE seconds; a refusal has no such effect."""
        from redis import RedisError, exceptions

        if time.monotonic() < self._silent_until:
            raise StoreUnavailable(f"{self.shown} has not answered; it is called again after {PAUSE} s")
        try:
            return command()
        except (exceptions.ConnectionError, exceptions.TimeoutError) as problem:
            if not self._answers():
                self._silent_until = time.monotonic() + PAUSE
            raise StoreUnavailable(f"{self.shown} does not answer: {problem}") from None
        except RedisError as problem:
            raise StoreUnavailable(f"{self.shown} refuses: {problem}") from None

    def _answers(self) -> bool:
        """Whether Redis answers, so that only the last command took too long."""
        from redis import RedisError

        try:
            return bool(self._quick.ping())
        except RedisError:
            return False


def _connect(address: str, timeout: float) -> tuple[Any, str]:
    """The database, and its address without a password. Nothing is sent yet."""
    try:
        import redis
    except ImportError:
        raise MissingExtraError("a store in Redis needs the redis package; pip install 'genrank[redis]'") from None
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        database = redis.Redis.from_url(
            address,
            decode_responses=True,
            encoding_errors="replace",  # a damaged value must not prevent reading the others
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 1),  # a connection that was closed meanwhile is opened again
        )
        database.connection_pool.make_connection()  # doesn't connect yet, but checks the options
    except (ValueError, TypeError):  # their text may have a part of the password
        raise ConfigError(
            f"--store {without_secrets(address)} is no address of a Redis; expected redis://host:port/database, with "
            "an optional #prefix; write letters such as / : @ # of a password as %2F %3A %40 %23"
        ) from None
    about = database.connection_pool.connection_kwargs
    return database, f"redis://{about.get('host', 'localhost')}:{about.get('port', 6379)}/{about.get('db', 0)}"


def without_secrets(address: str) -> str:
    """The address for messages: without anything before an @, and without anything else that may be a password."""
    scheme, _, rest = address.partition("://")
    rest = rest.partition("?")[0]
    shown_scheme = scheme if scheme.lower() in ("redis", "rediss", "unix") else "…"
    host = rest.rpartition("@")[2]
    plain = re.fullmatch(r"[\w.\-\[\]]+(:\d{1,5})?(/\d*)?", host)
    return f"{shown_scheme}://{'***@' if '@' in rest else ''}{host if plain else '…'}"


def _revised(value: str) -> tuple[int, str]:
    """Revision and body; 0 and the value if it isn't of this form."""
    revision, found, body = value.partition(" ")
    return (int(revision), body) if found and revision.isdecimal() and len(revision) < 16 else (0, value)


def _number(value: str | None) -> int:
    """A version; 0 for a value that is none."""
    return int(value) if value is not None and value.isdecimal() and len(value) < 16 else 0


def _literal(name: str) -> str:
    """A pattern that matches only this name."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in name)
