"""A store that is locked, full, damaged or refuses: what it raises, and that nothing acknowledged is lost."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrank.errors import OutputError
from genrank.serving import redis_store
from genrank.serving.catalogue import Item
from genrank.serving.redis_store import RedisStore
from genrank.serving.sqlite_store import SQLiteStore
from genrank.serving.store import Event, EventStore, StoreUnavailable
from redis_server import RedisServer

ONE, TWO = Event(user="u", item="a", time=5), Event(user="u", item="b", time=6)


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
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
    with pytest.raises(OutputError, match=r"a store of events: process \d+ on .* has been at it"):
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
