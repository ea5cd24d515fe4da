"""A served process whose store is locked, full, or that is killed: rankings go on, nothing acknowledged is lost."""

import http.client
import itertools
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest_service import Running
from genrank.client import ServiceError
from genrank.inference.sqlite_store import PAUSE, SQLiteStore

pytestmark = pytest.mark.slow
Serve = Callable[..., Running]
Record = Callable[[str, object], None]
WRITERS, KILLS, ACKNOWLEDGED = 4, 3, 300


def event(number: int, *, user: str = "u1") -> dict[str, object]:
    return {"user": user, "item": "i1", "time": 1_000_000 + number, "id": f"e{number}"}


def refused_at_once(running: Running, number: int) -> str:
    with running.client(timeout=5.0) as client, pytest.raises(ServiceError) as problem:
        client.send_events([event(number)])
    assert problem.value.status == 503
    assert problem.value.retry_after >= 1
    return str(problem.value)


def test_a_locked_store_refuses_writes_and_rankings_go_on(serve: Serve, tmp_path: Path) -> None:
    running = serve()
    with running.client() as client:
        client.send_events([event(0)])
        other = sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert "another process holds it" in refused_at_once(running, 1)
        with pytest.raises(ServiceError, match="503"):
            client.put_items([{"item": "new"}])
        assert client.rank("u1", ["i1", "i2"])["history_current"]
        other.execute("ROLLBACK")
        time.sleep(2 * PAUSE)
        client.send_events([event(1)])
        assert client.user("u1")["exposures"] >= 2


def test_a_store_that_can_not_be_read_is_said_in_answers(serve: Serve, tmp_path: Path) -> None:
    running = serve()
    with running.client() as client:
        client.send_events([event(0)])
        assert client.rank("u1", ["i1"])["history_current"]
        other = sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None)
        other.execute("ALTER TABLE users RENAME TO elsewhere")
        assert not client.rank("u2", ["i1"])["history_current"]
        assert not client.rank("u1", ["i1"])["history_current"]
        refused_at_once(running, 1)
        other.execute("ALTER TABLE elsewhere RENAME TO users")
        while not client.rank("u1", ["i1"])["history_current"]:  # it is asked again by itself
            pass
        time.sleep(2 * PAUSE)
        client.send_events([event(1)])


def test_a_full_disk_refuses_writes_and_rankings_go_on(serve: Serve, tmp_path: Path) -> None:
    running = serve()
    with running.client() as client:
        client.send_events([event(0)])
        limit = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        size = max(path.stat().st_size for path in tmp_path.glob("events.sqlite*"))
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, limit[1]))
        acknowledged = [0]
        for number in range(1, 2000):
            try:
                client.send_events([event(number)])
                acknowledged.append(number)
            except ServiceError:
                break
        said = refused_at_once(running, 5000)
        assert "make room" in said
        assert client.rank("u1", ["i1", "i2"])["places"]
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limit)
        time.sleep(2 * PAUSE)
        client.send_events([event(6000)])
    running.stop()
    assert {f"e{number}" for number in (*acknowledged, 6000)} <= stored(tmp_path)


def test_two_services_on_one_file_are_refused(serve: Serve, tmp_path: Path) -> None:
    serve()
    with pytest.raises(AssertionError, match=r"a store of events: process .* has been using it"):
        serve()


def test_a_killed_service_has_lost_no_acknowledged_event(serve: Serve, tmp_path: Path, record_property: Record) -> None:
    acknowledged: set[str] = set()
    numbers = itertools.count()
    for _ in range(KILLS):
        running, before = serve(), len(acknowledged)
        enough = threading.Event()

        def write(running: Running = running, before: int = before, enough: threading.Event = enough) -> None:
            with running.client() as client:
                while True:
                    sent = [event(next(numbers), user=f"u{n}") for n in range(5)]
                    try:
                        client.send_events(sent)
                    except (OSError, http.client.HTTPException, ServiceError):
                        return
                    acknowledged.update(str(each["id"]) for each in sent)
                    if len(acknowledged) - before > ACKNOWLEDGED:
                        enough.set()

        writers = [threading.Thread(target=write) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        assert enough.wait(60)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        for writer in writers:
            writer.join(30)
    lost = acknowledged - stored(tmp_path)
    record_property(
        "lost", f"{len(lost)} of {len(acknowledged):,} acknowledged events, {KILLS} times killed under load"
    )
    assert not lost


def stored(folder: Path) -> set[str]:
    store = SQLiteStore(folder / "events.sqlite")
    found = {each.id for each in store.snapshot().events}
    store.close()
    return found
