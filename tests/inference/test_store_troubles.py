"""A store that is locked, full, damaged or refuses: what it raises, and that nothing acknowledged is lost."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrank.errors import ConfigError, DataError, OutputError
from genrank.inference import redis_store, sqlite_store
from genrank.inference.catalogue import Item
from genrank.inference.redis_store import RedisStore
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event, EventStore, StoreUnavailable
from redis_server import RedisServer

ONE, TWO = Event(user="u", item="a", time=5), Event(user="u", item="b", time=6)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SQLiteStore:
    monkeypatch.setattr(sqlite_store, "PAUSE", 0.0)
    made = SQLiteStore(tmp_path / "s.sqlite")
    made.append([ONE])
    return made


def kept(store: EventStore, user: str = "u") -> list[Event]:
    return [event for event, _ in store.events(user).events]


def refused(match: str, *calls: Callable[[], Any]) -> None:
    for call in calls:
        with pytest.raises(StoreUnavailable, match=match):
            call()


def test_while_another_process_writes_reads_go_on_and_writes_are_refused(store: SQLiteStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused("another process holds it", lambda: store.append([TWO]), lambda: store.put_items([Item(id="i")]))
    assert kept(store) == [ONE]
    other.execute("ROLLBACK")
    store.append([TWO])
    assert kept(store) == [ONE, TWO]


def test_who_waits_behind_a_write_that_fails_hears_of_it_at_once(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "PAUSE", 1e6)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused("another process holds it", lambda: store.append([TWO]))
    other.execute("ROLLBACK")  # so that only the pause is in the way
    refused(
        "another process holds it.*tried again after",
        lambda: store.append([TWO]),
        lambda: store.put_items([Item(id="i")]),
    )


def test_who_reads_after_a_reading_that_failed_hears_of_it_at_once(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "PAUSE", 1e6)
    reader = store._reader
    store._reader = sqlite3.connect(":memory:")  # has none of the tables
    refused("no such table", lambda: store.events("u"))
    store._reader = reader  # so that only the pause is in the way
    refused("could not be read; reads are tried again after", lambda: store.events("u"), lambda: store.version("u"))
    store.append([TWO])  # writes go on
    store._silent_until = 0.0
    assert kept(store) == [ONE, TWO]


def test_a_long_reading_keeps_nobody_waiting(store: SQLiteStore) -> None:
    with store._moment() as (run, position):
        store.append([TWO])
        assert kept(store) == [ONE, TWO]
        assert run("SELECT COUNT(*) FROM events").fetchone() == (1,)
        assert position == "0"


def test_a_file_is_looked_at_without_changing_it(store: SQLiteStore, tmp_path: Path) -> None:
    store.close()
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.sqlite").read_bytes()
    with pytest.raises(DataError, match="no store of events"):
        SQLiteStore(tmp_path / "other.sqlite", alone=False)
    assert (tmp_path / "other.sqlite").read_bytes() == before
    assert kept(SQLiteStore(tmp_path / "s.sqlite", alone=False)) == [ONE]


def test_a_full_disk_refuses_writes_and_keeps_what_was_acknowledged(store: SQLiteStore, tmp_path: Path) -> None:
    (pages,) = store._run("PRAGMA page_count").fetchone()
    store._run(f"PRAGMA max_page_count = {pages}")
    large = [Event(user="u", item=str(n), time=n, context={"text": "x" * 4000}) for n in range(50)]
    refused("no space left", lambda: store.append(large))
    assert kept(store) == [ONE]
    store._run("PRAGMA max_page_count = 1000000")
    store.append([*large, TWO])
    store.close()
    assert len(kept(SQLiteStore(tmp_path / "s.sqlite"))) == 52


def test_a_damaged_file_is_named_as_that(store: SQLiteStore, tmp_path: Path) -> None:
    store._run("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "s.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 8)
    store._reader.execute("PRAGMA cache_size = 0")
    refused("damaged", lambda: SQLiteStore(tmp_path / "s.sqlite", alone=False).snapshot())


def test_a_file_has_one_owner(store: SQLiteStore, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a store of events: process \d+ on .* has been using it"):
        SQLiteStore(tmp_path / "s.sqlite")
    assert kept(SQLiteStore(tmp_path / "s.sqlite", alone=False)) == [ONE]  # to look at
    store.close()
    SQLiteStore(tmp_path / "s.sqlite").close()


def test_a_write_in_the_way_makes_no_reader_wait(store: SQLiteStore) -> None:
    with store._writing:
        assert kept(store) == [ONE]
        assert store.version("u") == 1


@pytest.mark.redis
class TestRedis:
    @pytest.fixture
    def store(self, redis_server: RedisServer) -> RedisStore:
        made = RedisStore(redis_server.url, timeout=5.0)
        made.append([ONE])
        return made

    def test_one_users_bad_key_concerns_that_user(self, store: RedisStore) -> None:
        store._redis.set("genrank:e:v", "no hash")
        mine = Event(user="v", item="a", time=5)
        refused("refuses", lambda: store.append([TWO, mine]), lambda: store.events("v"))
        assert kept(store) == [ONE]  # all or none, and nobody else waits
        store.append([TWO])
        assert kept(store) == [ONE, TWO]
        store._redis.delete("genrank:e:v")
        store.append([mine])
        assert kept(store, "v") == [mine]

    @pytest.mark.parametrize("value", ["[", "x [", "1 [", "", "\x00"])
    def test_a_value_that_is_none_is_left_out_and_replaced(self, store: RedisStore, value: str) -> None:
        mine = Event(user="v", item="a", time=5)
        store._redis.hset("genrank:e:v", mine.key, value)
        store._redis.hset("genrank:v:v", "version", "3")
        store._redis.hset("genrank:items", "i", value)
        assert kept(store, "v") == []
        assert store.snapshot().events == (ONE,)
        assert store.users() == {"u": 1, "v": 1}
        store.append([TWO, mine])
        store.put_items([Item(id="i"), Item(id="j")])
        assert kept(store, "v") == [mine]
        assert sorted(item.id for item in store.snapshot().items) == ["i", "j"]

    def test_a_version_that_is_no_number_leaves_nothing_half_written(self, store: RedisStore) -> None:
        store._redis.hset("genrank:v:v", "version", "x")
        refused("no number", lambda: store.append([TWO, Event(user="v", item="a", time=5)]))
        assert kept(store) == [ONE]
        assert store.version("v") == 0
        store._redis.set("genrank:calls", "x")
        refused("no number", lambda: store.append([TWO]))

    def test_items_keep_their_order_when_some_are_deleted(self, store: RedisStore) -> None:
        store.put_items([Item(id="a"), Item(id="b")])
        store.delete(items=["a"])
        store.put_items([Item(id="c")])
        store.put_items([Item(id="d")])
        assert [item.id for item in store.snapshot().items] == ["b", "c", "d"]

    def test_a_password_that_is_missing_is_asked_for(self, store: RedisStore, redis_server: RedisServer) -> None:
        store._redis.config_set("requirepass", "secret")
        with pytest.raises(ConfigError, match="needs another password") as problem:
            RedisStore(redis_server.url)
        assert "secret" not in str(problem.value)

    def test_a_bad_stream_leaves_nothing_half_written(self, store: RedisStore) -> None:
        store._redis.rename("genrank:updates", "elsewhere")
        store._redis.set("genrank:updates", "no stream")
        refused("WRONGTYPE", lambda: store.append([TWO]), lambda: store.put_items([Item(id="i")]))
        assert kept(store) == [ONE]
        assert store._redis.hlen("genrank:items") == 0

    def test_a_full_memory_concerns_writes(self, store: RedisStore) -> None:
        store._redis.config_set("maxmemory", "1")
        refused("memory", lambda: store.append([TWO]), lambda: store.put_items([Item(id="i")]))
        assert kept(store) == [ONE]
        store._redis.config_set("maxmemory", "0")
        store.append([TWO])
        assert kept(store) == [ONE, TWO]

    def test_a_replica_that_may_not_be_written_to_concerns_writes(self, store: RedisStore) -> None:
        store._redis.replicaof("127.0.0.1", "1")
        refused("(?i)read.?only|refuses", lambda: store.append([TWO]))
        assert kept(store) == [ONE]
        store._redis.replicaof("NO", "ONE")
        store.append([TWO])

    def test_a_question_that_takes_too_long_silences_nobody_else(
        self, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from redis import exceptions

        def slow(**_: Any) -> None:
            raise exceptions.TimeoutError("too slow")

        monkeypatch.setattr(redis_store, "PAUSE", 1e6)
        monkeypatch.setattr(store, "_events", slow)
        refused("too slow", lambda: store.events("u"))
        assert store.version("u") == 1

    def test_one_users_bad_key_is_left_out_of_a_snapshot_and_can_be_deleted(self, store: RedisStore) -> None:
        store._redis.set("genrank:e:v", "no hash")
        assert store.snapshot().events == (ONE,)
        assert store.users() == {"u": 1}
        assert store.left_out.counts == {"event": 1}
        assert store.delete(user="v") == 1
        store.append([Event(user="v", item="a", time=5)])


def test_a_file_has_one_owner_by_any_name(store: SQLiteStore, tmp_path: Path) -> None:
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "s.sqlite")
    with pytest.raises(OutputError, match="has been using it"):
        SQLiteStore(tmp_path / "link.sqlite")


@pytest.mark.parametrize("changed", [{"time": 10**20}, {"position": 2**40}, {"time": -5}, {"item": 7}])
def test_stored_numbers_out_of_range_are_left_out(store: SQLiteStore, changed: dict[str, object]) -> None:
    store.append([TWO])
    body = json.dumps(TWO.content() | changed)
    store._run("UPDATE events SET body = ? WHERE key = ?", (body, TWO.key))
    assert kept(store) == [ONE]
    assert store.left_out.counts == {"event": 1}
