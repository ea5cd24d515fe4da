"""What a crash, a full disk or a rotation leaves of a request log: all whole lines are read, the others are named."""

import json
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.data.manifest import Manifest
from genrank.errors import LogError, OutputError
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.replay import replay
from genrank.inference.request_log import RequestLog, ServedRanking, Unreadable, read_requests

BUNDLE = Path("bundles/m")


def ranking(user: str = "u", **more: object) -> ServedRanking:
    values = {
        "model": "m",
        "user": user,
        "candidates": ("i",),
        "time": 1,
        "history": 0,
        "scores": {"i": {"click": 0.5}},
    }
    return ServedRanking(**{**values, "user": user, **more})  # type: ignore[arg-type]


def write(path: Path, *users: str) -> None:
    log = RequestLog(path)
    for user in users:
        log.note(ranking(user), BUNDLE)
    log.close()


def users(path: Path) -> list[str]:
    return [found[1].user for found in read_requests(path) if not isinstance(found, Unreadable)]


def unreadable(path: Path) -> list[int]:
    return [found.line for found in read_requests(path) if isinstance(found, Unreadable)]


def until(reached: Callable[[], bool]) -> None:
    import time

    for _ in range(2000):
        if reached():
            return
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_a_service_begins_a_new_line_behind_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    os.truncate(path, path.stat().st_size - 20)
    write(path, "c", "d")
    assert users(path) == ["a", "c", "d"]
    assert unreadable(path) == [3]


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 4096, b"\0" * 10 + b"\n" + b"\0" * 10, b"\n\n", b"\xff\xfe", b"[" * 5000]
)
def test_what_is_before_and_behind_the_damage_is_read(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    whole = path.read_bytes()
    cut = whole[: len(whole) - 30] if damage != b"\n\n" else whole
    path.write_bytes(cut + damage + whole)  # as another process wrote it, right behind the cut
    assert users(path) == ["a", "a", "b"] if damage != b"\n\n" else ["a", "b", "a", "b"]
    assert bool(unreadable(path)) == (damage != b"\n\n")


@pytest.mark.parametrize("length", range(1, 200, 11))
def test_a_cut_at_any_byte_costs_one_ranking_at_most(length: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    os.truncate(path, path.stat().st_size - length)
    left = len([line for line in path.read_bytes().split(b"\n") if b'"user"' in line and line.endswith(b"}")])
    write(path, "c")
    assert users(path) == [*["a", "b"][:left], "c"]


def test_a_file_that_is_moved_away_deleted_or_emptied_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = RequestLog(path)
    log.note(ranking("a"), BUNDLE)
    until(lambda: path.stat().st_size > 0)
    path.rename(tmp_path / "log.1")
    log.note(ranking("b"), BUNDLE)
    until(lambda: path.exists() and users(path) == ["b"])
    path.unlink()
    log.note(ranking("c"), BUNDLE)
    until(lambda: path.exists() and users(path) == ["c"])
    os.truncate(path, 0)
    log.note(ranking("d"), BUNDLE)
    log.close()
    assert users(tmp_path / "log.1") == ["a"]
    assert [(found[1].user, found[2]) for found in read_requests(path)] == [("d", BUNDLE.resolve())]


def test_a_folder_that_is_gone_costs_the_rankings_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "logs" / "log"
    log = RequestLog(path)
    log.note(ranking("a"), BUNDLE)
    until(lambda: path.stat().st_size > 0)
    path.parent.rename(tmp_path / "before")
    log.note(ranking("lost"), BUNDLE)
    until(lambda: log.dropped == 1)
    path.parent.mkdir()
    path.write_bytes(b"")
    log.note(ranking("b"), BUNDLE)
    until(lambda: path.stat().st_size > 0)
    path.parent.rename(tmp_path / "between")
    log.note(ranking("lost"), BUNDLE)
    log.close()
    assert log.dropped == 2
    assert users(tmp_path / "before" / "log") == ["a"]
    assert [(found[1].user, found[2]) for found in read_requests(tmp_path / "between" / "log")] == [
        ("b", BUNDLE.resolve())
    ]
    assert "can't be written to (No such file or directory); 1 rankings were not logged" in caplog.text


def test_behind_several_cuts_in_a_line_what_is_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    about, one, other = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([about, one[:-30] + other[:-30] + one, other[:-30] + one[:-30], other]))
    assert users(path) == ["a", "b"]
    assert unreadable(path) == [2, 3]


def test_files_that_can_not_be_a_log_are_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"log: can't be read \(.*No such file.*\); expected a file of genrank serve"):
        users(tmp_path / "log")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"can't be written to \(.*\); give another --log-requests"):
        RequestLog(tmp_path / "file" / "log")


@pytest.fixture
def disk() -> Iterator[Callable[[int], None]]:
    """Limits how large a file may become, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_once_and_what_comes_when_there_is_room_again_is_read(
    tmp_path: Path, disk: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    log = RequestLog(path)
    log.note(ranking("a"), BUNDLE)
    until(lambda: path.stat().st_size > 0)
    disk(path.stat().st_size + 40)
    with caplog.at_level(logging.ERROR, "genrank.server"):
        for _ in range(5):
            log.note(ranking("lost"), BUNDLE)
        until(lambda: log.dropped == 5)
    assert len(caplog.records) == 1
    assert "rankings were not logged" in caplog.text
    disk(resource.RLIM_INFINITY)
    log.note(ranking("b"), BUNDLE)
    log.close()
    assert users(path) == ["a", "b"]
    assert unreadable(path) == [3]


def test_replay_counts_and_names_the_lines_that_it_leaves_out(run: Path, data: Path, tmp_path: Path) -> None:
    path, bundle = tmp_path / "log", load_bundle(run)
    time = Manifest.load(data).split.last_time + 1
    answer = GenRanker.load(run).rank("u", ["i00000001", "i00000002"], time=time)
    served = ranking(
        model=bundle.version,
        candidates=("i00000001", "i00000002"),
        time=time,
        history=answer.num_history,
        scores={place.item: place.scores for place in answer.places},
    )
    log = RequestLog(path)
    for _ in range(3):
        log.note(served, bundle.folder)
    log.note(ranking(model=bundle.version, scores={"i": {"no task": 1.0}}), bundle.folder)
    log.note(ranking(model=bundle.version, time=-5), bundle.folder)
    log.close()
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2][:40], *lines[3:]]))
    found = replay(path, data)
    assert (found.rankings, found.different, found.unreadable) == (2, 0, 3)
    assert [place.split(":")[0] for place in found.unreadable_at] == [f"{path}, line {line}" for line in (3, 5, 6)]
    assert json.loads(json.dumps(found.to_json()))["unreadable"] == 3
    assert replay(path, data, limit=1).rankings == 1
    path.write_bytes(lines[1] + b"\n")  # the line that named the bundle is gone
    with pytest.raises(LogError, match=r"line 1: no line before it names the bundle .* give --run"):
        replay(path, data)
    assert replay(path, data, run=run).rankings == 1
