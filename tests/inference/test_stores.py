"""What every store of live events does, in SQLite and in a real Redis."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from genrank.errors import ConfigError, DataError, MissingExtraError, RequestError
from genrank.inference import redis_store, sqlite_store
from genrank.inference.catalogue import Item
from genrank.inference.left_out import LeftOut
from genrank.inference.redis_store import RedisStore
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import (
    FORMER,
    MAX_EVENT_BYTES,
    MAX_ITEM_BYTES,
    Event,
    EventStore,
    StoreUnavailable,
    UpdatesExpired,
    UserEvents,
    parsed_items,
)
from genrank.inference.stored import open_existing, summary
from genrank.inference.stores import open_store
from redis_server import RedisServer

Open = Callable[..., EventStore]  # each call another connection to the same content


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    stores: list[EventStore] = []
    url = None if request.param == "sqlite" else request.getfixturevalue("redis_server").url

    def open_one(**options: int) -> EventStore:
        made: EventStore = (
            SQLiteStore(tmp_path / "s.sqlite", alone=not stores, **options)
            if url is None
            else RedisStore(url, timeout=5.0, **options)
        )
        stores.append(made)
        return made

    yield open_one
    for each in stores:
        each.close()


def event(item: str, time: int, **changes: object) -> Event:
    return Event(user="u", item=item, time=time, **changes)


def at_hand(store: EventStore, user: str = "u") -> list[Event]:
    return [each for each, _ in store.events(user).events]


def test_an_event_sent_again_changes_nothing(opened: Open) -> None:
    store = opened()
    assert len(store.append([event("a", 5), event("b", 3)])) == 2
    first = store.events("u")
    assert [each.item for each in at_hand(store)] == ["b", "a"]
    assert len(store.append([event("a", 5)])) == 0
    assert store.events("u") == first
    assert store.version("u") == first.version
    (change,) = store.append([event("a", 5, actions={"like": True})])
    assert change.before == event("a", 5)
    second = store.events("u")
    assert second.version > first.version
    assert second.events[0] == first.events[0]
    assert second.events[1][1] != first.events[1][1]
    assert second.events[1][0].actions == {"like": True}
    assert store.events("other") == UserEvents()
    assert store.version("other") == 0


def test_a_late_retry_undoes_nothing(opened: Open) -> None:
    store, shown, liked = opened(), event("a", 5), event("a", 5, actions={"like": True})
    store.append([shown, liked])
    assert store.append([shown]) == []
    assert at_hand(store) == [liked]
    assert len(store.append([shown, event("a", 5, actions={"like": None}), liked, shown])) == 1
    assert at_hand(store) == [event("a", 5, actions={"like": None})]


def test_numbered_contents_go_back_and_forth_in_their_order(opened: Open) -> None:
    store = opened()
    first, second, third = (
        event("a", 5, actions={"like": like}, version=n) for n, like in enumerate([True, False, True])
    )
    store.append([first, third, second])  # which comes late
    assert at_hand(store) == [third]
    assert store.append([first, second, third]) == []
    assert len(store.append([event("a", 5, actions={"like": False}, version=3)])) == 1


def test_what_was_known_earlier_does_not_replace_what_was_known_later(opened: Open) -> None:
    """Even where it was never kept, as after a refusal."""
    store, liked = opened(), event("a", 5, known_at=90, actions={"like": True})
    store.append([liked])
    assert store.append([event("a", 5, known_at=5)]) == []
    assert at_hand(store) == [liked]
    assert len(store.append([event("a", 5, known_at=91)])) == 1


def test_what_is_replaced_in_the_archive_does_not_come_back_either(opened: Open) -> None:
    store, liked = opened(max_events=4), event("x", 0, actions={"like": True})
    store.append([event("x", 0), liked, *(event(str(time), time) for time in range(1, 9))])
    assert store.append([event("x", 0)]) == []
    archived = store.events("u").archived
    assert archived is not None
    assert liked in [each for each, _ in archived]


def test_what_is_no_event_or_item_is_left_out_and_named(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    store = opened()
    store.append([event("a", 5), event("b", 6)])
    store.put_items([Item(id="i"), Item(id="j")])
    spoil(store, "5/a", "i")
    assert at_hand(store) == [event("b", 6)]
    taken = opened().snapshot()
    assert taken.events == (event("b", 6),)
    assert [item.id for item in taken.items] == ["j"]
    assert store.left_out.counts == {"event": 1}
    assert "the event '5/a' of user 'u' is left out" in caplog.text
    assert store.delete(events=[("u", "5/a")], items=["i", "none"]) == 2
    assert opened().snapshot().events == (event("b", 6),)


def spoil(store: EventStore, key: str, item: str) -> None:
    """What is no JSON in place of an event of user u, and of an item."""
    if isinstance(store, SQLiteStore):
        store._run("UPDATE events SET body = '[' WHERE key = ?", (key,))
        store._run("UPDATE items SET features = '[' WHERE id = ?", (item,))
    elif isinstance(store, RedisStore):
        store._redis.hset("genrank:e:u", key, "1 [")
        store._redis.hset("genrank:items", item, "0 [")


def test_users_and_all_of_ones_events_are_told_and_forgotten(opened: Open) -> None:
    store = opened(max_events=4)
    store.append([event(str(time), time) for time in range(8)] + [replace(event("a", 1), user="v")])
    assert store.users() == {"u": 8, "v": 1}
    version = store.version("u")
    assert store.delete(user="u") == 8
    assert store.version("u") > version
    assert store.events("u").events == ()
    assert store.users() == {"v": 1}


def test_an_id_tells_events_apart(opened: Open) -> None:
    store = opened()
    assert len(store.append([event("a", 5, id="1"), event("a", 5, id="2"), event("a", 9, id="1")])) == 3
    assert [each.time for each in at_hand(store)] == [5, 9]  # the second came under a known id


def test_all_or_nothing(opened: Open) -> None:
    store = opened()
    with pytest.raises(TypeError):
        store.append([event("a", 5), event("b", 6, actions={"x": object()})])
    assert store.events("u").events == ()
    assert len(store.append([event("a", 5)])) == 1


def test_what_is_too_large_is_refused_before_anything_is_stored(opened: Open) -> None:
    store = opened()
    with pytest.raises(RequestError, match=r"the event of item 'b' has 16\d{3} bytes of JSON, at most 16384 are kept"):
        store.append([event("a", 5), event("b", 6, context={"text": "x" * MAX_EVENT_BYTES})])
    with pytest.raises(RequestError, match=r"the item 'j' has 1000\d\d bytes of JSON, at most 100000 are kept"):
        store.put_items([Item(id="i"), Item(id="j", features={"text": "x" * MAX_ITEM_BYTES})])
    found = store.snapshot()
    assert (found.events, found.items) == ((), ())


@pytest.mark.parametrize("body", ["[", "7", "[1, true]", "[{}, 1]", "[{}]", "null"])
def test_a_text_that_is_no_item_is_left_out(body: str) -> None:
    left_out = LeftOut("the store", quiet=True)
    bodies = [("i", body), ("j", '{"a": 1}'), ("k", '[{"a": 1}, false]')]
    whole = (Item(id="j", features={"a": 1}), Item(id="k", features={"a": 1}, available=False))
    assert parsed_items(bodies, left_out) == whole
    assert [name.id for name in left_out.reasons] == ["i"]


def test_two_connections_see_each_other(opened: Open) -> None:
    one, other = opened(), opened()
    one.append([event("a", 5)])
    assert other.version("u") == 1
    one.append([event("b", 6)])
    assert [each.item for each in at_hand(other)] == ["a", "b"]
    if one.shared:
        other.append([event("c", 7)])
        assert [each.item for each in at_hand(one)] == ["a", "b", "c"]


def test_the_oldest_are_archived_and_nothing_is_lost(opened: Open) -> None:
    store = opened(max_events=8)
    sent = [event(f"i{n}", 100 - n) for n in range(11)]
    store.append(sent)
    kept = store.events("u")
    assert [each.time for each in at_hand(store)] == list(range(93, 101))
    assert [each.time for each, _ in kept.archived or ()] == [90, 91, 92]
    assert store.events("u", archive=kept.archive) == replace(kept, archived=None)
    assert sorted(each.time for each in store.snapshot().events) == list(range(90, 101))


def test_an_archived_event_that_changes_comes_back(opened: Open) -> None:
    store = opened(max_events=8)
    store.append([event(f"i{n}", n) for n in range(11)])
    before = store.events("u")
    assert len(store.append([event("i1", 1)])) == 0
    (change,) = store.append([event("i1", 1, actions={"like": True})])
    assert change.before == event("i1", 1)
    after = store.events("u", archive=before.archive)
    assert after.archived is not None
    assert [each.item for each, _ in after.archived] == ["i0", "i2"]
    assert after.events[0][0].actions == {"like": True}
    assert len(store.snapshot().events) == 11


def test_names_with_odd_letters(opened: Open) -> None:
    store = opened()
    for user in ("a:b", "a*", "ä ö", "[x]", "\\"):
        store.append([Event(user=user, item="i 1", time=1, context={"text": 'q"uote'})])
        store.append([Event(user=user, item="i:2", time=2)])
        assert [each.item for each in at_hand(store, user)] == ["i 1", "i:2"]
    assert len(store.snapshot().events) == 10


def test_who_follows_sees_every_call(opened: Open) -> None:
    store = opened()
    store.append([event("old", 1)])
    position = store.snapshot().position
    assert store.updates(position) == ([], position)
    store.append([event("a", 5), event("b", 6)])
    store.append([event("a", 5)])  # changes nothing
    store.put_items([Item(id="x", features={"length": 2.0}), Item(id="y")])
    store.append([event("a", 5, actions={"like": True})])
    updates, later = store.updates(position)
    assert [[change.event.item for change in update.changes] for update in updates] == [["a", "b"], [], ["a"]]
    assert [[item.id for item in update.items] for update in updates] == [[], ["x", "y"], []]
    assert updates[2].changes[0].before == event("a", 5)
    assert store.updates(later) == ([], later)


def test_who_follows_an_empty_store_from_the_beginning(opened: Open) -> None:
    store = opened()
    position = store.snapshot().position
    store.append([event("a", 5)])
    updates, _ = store.updates(position)
    assert [change.event.item for update in updates for change in update.changes] == ["a"]


def test_items_come_back_in_the_order_of_their_arrival(opened: Open) -> None:
    store = opened()
    store.put_items([Item(id="b", features={"length": 1.0}), Item(id="a")])
    store.put_items([Item(id="b", features={"length": 2.0}), Item(id="0")])
    assert [item.id for item in store.snapshot().items] == ["b", "a", "0"]
    assert store.snapshot().items[0].features == {"length": 2.0}


def test_too_far_behind(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "MAX_IN_MEMORY", 50)
    monkeypatch.setattr(redis_store, "MAX_UPDATES", 50)
    one = opened()
    one.append([event("first", 0)])
    beginning, position = "0-0" if one.shared else "0", one.snapshot().position
    for turn in range(400):  # Redis cuts its streams a hundred entries at a time
        one.append([event("a", turn)])
    for since in (beginning, position):
        with pytest.raises(UpdatesExpired, match="updates"):
            one.updates(since)


def test_updates_that_every_model_has_had_time_for_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(sqlite_store.time, "monotonic", lambda: now)
    with closing(SQLiteStore(tmp_path / "events.sqlite")) as store:
        store.put_items([Item(id="a")])
        now += sqlite_store.KEPT_SECONDS - 1
        store.put_items([Item(id="b")])
        assert len(store.updates("0")[0]) == 2
        now += 2
        store.put_items([Item(id="c")])
        with pytest.raises(UpdatesExpired, match="3 updates have come since, of which 2 are kept"):
            store.updates("0")
        assert [update.items[0].id for update in store.updates("1")[0]] == ["b", "c"]


@pytest.mark.redis
def test_a_snapshot_meets_writers(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while a snapshot is being read is in it, or in the updates after it, once."""
    reader, writer = RedisStore(redis_server.url, timeout=5.0), RedisStore(redis_server.url, timeout=5.0)
    writer.append([event("a", 1), event("b", 2)])
    read = reader._all_events

    def read_while_others_write() -> dict[tuple[str, str], tuple[int, str]]:
        writer.append([event("a", 1, actions={"like": True}), event("c", 3)])
        kept = read()
        writer.append([event("c", 3, actions={"like": True}), event("d", 4)])
        writer.put_items([Item(id="x")])
        return kept

    monkeypatch.setattr(reader, "_all_events", read_while_others_write)
    taken = reader.snapshot()
    assert sorted(taken.events, key=lambda each: each.time) == at_hand(writer)
    assert [item.id for item in taken.items] == ["x"]
    assert reader.updates(taken.position)[0] == []


@pytest.mark.redis
def test_more_than_a_page_is_read_whole(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 3)
    store = RedisStore(redis_server.url, timeout=5.0)
    assert store.last_written() == 0
    events = [Event(user=f"u{place % 20:02d}", item=f"i{place}", time=place) for place in range(40)]
    for begin in range(0, 40, 8):
        store.append(events[begin : begin + 8])
    for user in range(20):  # as if each user's events were just moving from the archive
        key = f"{user}/i{user}"
        revision, _, body = store._redis.hget(f"genrank:e:u{user:02d}", key).partition(" ")
        store._redis.hset(f"genrank:a:u{user:02d}", key, f"{int(revision) - 1} {body.replace('i', 'old')}")
    assert sorted(store.snapshot().events, key=lambda each: each.time) == events
    assert store.users() == {f"u{user:02d}": 2 for user in range(20)}
    updates, position = store.updates("0-0")
    assert [change.event for update in updates for change in update.changes] == events
    assert len(updates) == 5
    assert store.last_written() == int(position.partition("-")[0]) / 1000 > 1_600_000_000


@pytest.mark.redis
def test_a_snapshot_of_items_leaves_out_events_that_come_meanwhile(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = RedisStore(redis_server.url, timeout=5.0), RedisStore(redis_server.url, timeout=5.0)
    last = reader._last

    def last_before_others_write() -> str:
        position = last()
        writer.append([event("a", 1)])
        writer.put_items([Item(id="x")])
        return position

    monkeypatch.setattr(reader, "_last", last_before_others_write)
    taken = reader.snapshot(events=False)
    assert (taken.events, taken.items) == ((), (Item(id="x"),))
    assert reader.updates(taken.position)[0] == []


@pytest.mark.redis
def test_a_store_in_redis_exists_for_whoever_looks_at_it(redis_server: RedisServer) -> None:
    RedisStore(redis_server.url).append([event("a", 5)])
    with closing(open_existing(redis_server.url, writing=True)) as store:
        assert summary(store, limit=9)["some_users"] == {"u": 1}


@pytest.mark.redis
def test_feeds_share_a_database_under_prefixes(redis_server: RedisServer) -> None:
    one, other = open_store(redis_server.url + "#one"), open_store(redis_server.url + "#other")
    one.append([event("a", 5)])
    assert other.version("u") == 0
    assert one.version("u") == 1


@pytest.mark.redis
def test_out_of_reach(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAUSE", 0.0)
    store = RedisStore(redis_server.url)
    store.append([event("a", 5)])
    redis_server.kill()
    for call in (lambda: store.version("u"), lambda: store.append([event("b", 6)]), store.snapshot):
        with pytest.raises(StoreUnavailable, match=str(redis_server.port)):
            call()
    redis_server.start()
    assert store.version("u") == 1  # it has kept what it acknowledged
    redis_server.pause()
    with pytest.raises(StoreUnavailable):
        store.version("u")
    redis_server.resume()
    assert store.version("u") == 1
    monkeypatch.setattr(redis_store, "PAUSE", 1e6)
    redis_server.kill()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.version("u")
    with pytest.raises(StoreUnavailable, match="called again"):  # at once, without a try
        store.version("u")
    with pytest.raises(StoreUnavailable):
        RedisStore(redis_server.url)
    redis_server.start()


def test_places_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("not a database at all, and long enough to be looked at" * 9)
    with pytest.raises(DataError, match="can't be opened as a store of events"):
        open_store(str(tmp_path / "s.sqlite"))
    with pytest.raises(ConfigError, match="redis://host"):
        open_store("http://localhost:6379")
    with pytest.raises(ConfigError, match=r"its password has a #; write %23 instead of it") as raised:
        open_store("redis://:sec#ret@localhost:6379/0")
    assert "sec" not in str(raised.value).replace("s.sqlite", "")


def test_a_store_in_redis_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"needs the redis package; pip install 'genrank\[redis\]'"):
        open_store("redis://localhost:6379/0")


class StoreMachine(RuleBasedStateMachine):
    """Against a plain dict; a follower, who began with a snapshot, has the same events at any time."""

    def __init__(self, open_one: Callable[[], EventStore]):
        super().__init__()
        self.store, self.other = open_one(), open_one()
        self.plain: dict[tuple[str, str], Event] = {}
        self.former: dict[tuple[str, str], list[Event]] = {}
        self.versions = {"u": 0, "v": 0}

    @initialize()
    def follow(self) -> None:
        taken = self.store.snapshot()
        assert taken.events == ()
        self.followed, self.position = dict(self.plain), taken.position

    @rule(
        user=st.sampled_from("uv"),
        sent=st.lists(
            st.builds(
                partial(Event, user=""),
                item=st.sampled_from("abc"),
                time=st.integers(0, 3),
                actions=st.builds(lambda like: {"like": like}, st.booleans()),
                id=st.sampled_from(["", "1", "2"]),
                version=st.sampled_from([0, 0, 1, 2]),
                known_at=st.sampled_from([0, 0, 7, 8]),
            ),
            max_size=4,
        ),
        through_other=st.booleans(),
    )
    def send(self, user: str, sent: list[Event], through_other: bool) -> None:
        events = [replace(each, user=user) for each in sent]
        writer = self.other if through_other and self.store.shared else self.store
        changed = 0
        for each in events:
            place = (user, each.key)
            before, former = self.plain.get(place), self.former.setdefault(place, [])
            if before is not None and (each == before or each in former or each.is_older_than(before)):
                continue
            if before is not None:
                self.former[place] = [*former, before][-FORMER:]
            self.plain[place] = each
            changed += 1
        assert len(writer.append(events)) == changed
        cut = self.store.version(user) - self.versions[user] - changed  # the version counts what went to the archive
        assert cut in (0, 1) if changed else cut == 0
        self.versions[user] += changed + cut

    def teardown(self) -> None:
        self.store.close()
        self.other.close()

    @rule()
    def catch_up(self) -> None:
        updates, self.position = self.store.updates(self.position)
        for update in updates:
            for change in update.changes:
                place = (change.event.user, change.event.key)
                assert self.followed.get(place) == change.before
                self.followed[place] = change.event
        assert self.followed == self.plain

    @rule()
    def begin_anew(self) -> None:
        taken = self.other.snapshot() if self.store.shared else self.store.snapshot()
        assert {(each.user, each.key): each for each in taken.events} == self.plain
        self.followed, self.position = dict(self.plain), taken.position

    @invariant()
    def events_are_those_sent(self) -> None:
        for user in "uv":
            found = self.other.events(user)
            pairs = [*found.events, *(found.archived or ())]
            assert len({revision for _, revision in pairs}) == len(pairs)
            expected = [each for (owner, _), each in self.plain.items() if owner == user]
            assert sorted((e for e, _ in pairs), key=lambda e: e.key) == sorted(expected, key=lambda e: e.key)
            assert [each.time for each, _ in found.events] == sorted(each.time for each, _ in found.events)
            assert len(found.events) <= 5


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_store_does_as_a_plain_dict_would(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server: RedisServer | None = request.getfixturevalue("redis_server") if kind == "redis" else None
    turns = iter(range(10**6))

    def machine() -> StoreMachine:
        turn = next(turns)
        if server is None:
            alone = iter([True, False])
            return StoreMachine(lambda: SQLiteStore(tmp_path / f"{turn}.sqlite", max_events=4, alone=next(alone)))
        return StoreMachine(lambda: RedisStore(f"{server.url}#t{turn}", timeout=5.0, max_events=4))

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_store_file_of_before_is_read(tmp_path: Path) -> None:
    """The layout on disk is a promise."""
    one = SQLiteStore(tmp_path / "s.sqlite")
    one.append([event("a", 5, actions={"click": True})])
    one.close()
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        (row,) = connection.execute("SELECT user, key, time, revision, body FROM events").fetchall()
    assert row[:4] == ("u", "5/a", 5, 1)
    assert Event.parse("u", row[4]) == event("a", 5, actions={"click": True})


def test_a_store_file_from_before_there_was_an_archive_is_converted(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        for statement in (
            "CREATE TABLE users (user TEXT PRIMARY KEY, version INTEGER NOT NULL, dropped INTEGER NOT NULL)",
            "CREATE TABLE events (user TEXT NOT NULL, key TEXT NOT NULL, time INTEGER NOT NULL, "
            "revision INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (user, key)) WITHOUT ROWID",
            "CREATE INDEX by_time ON events (user, time)",
            "INSERT INTO users VALUES ('u', 7, 3)",
        ):
            connection.execute(statement)
        old = event("a", 5, actions={"click": True})
        connection.execute("INSERT INTO events VALUES ('u', '5/a', 5, 7, ?)", (old.body(),))
    for _ in range(2):
        store = SQLiteStore(tmp_path / "s.sqlite", max_events=4)
        assert store.events("u").events[0] == (old, 7)
        store.append([event("b", 6)])
        assert at_hand(store) == [old, event("b", 6)]
        store.close()
