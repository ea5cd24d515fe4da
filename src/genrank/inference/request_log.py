"""Served rankings, one JSON line each, to be recomputed offline (see replay.py).

A line of {"model", "bundle"} has the folder of a model's bundle; it comes before the first ranking by that model. Every
line is written in one call; a line that was cut short, by a crash or a full disk, is ended before the next is written.
"""

import json
import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genrank.config import build
from genrank.documents import parse_json
from genrank.errors import LogError, OutputError

log = logging.getLogger("genrank.server")
MAX_WAITING = 10_000  # rankings that wait to be written
QUIET = 60.0  # seconds between two reports of failed writes
BEGINNING = b'{"model"'  # of every line


@dataclass(frozen=True, kw_only=True)
class ServedRanking:
    """A request and its answer. time: seconds since the epoch. scores: by item, then by task."""

    model: str
    user: str
    candidates: tuple[str, ...]
    time: int
    history: int  # events that the model saw
    scores: Mapping[str, Mapping[str, float]]
    context: Mapping[str, Any] = field(default_factory=dict)
    history_current: bool = True

    def __post_init__(self) -> None:
        if not set(self.scores) <= set(self.candidates):
            raise ValueError("has scores of items that are no candidates")


class RequestLog:
    """Appends to a file in a separate thread, so that no ranking waits for the disk.

    Rankings that can't be written, or not fast enough, are left out and counted in `dropped`; the service continues. If
    the file is moved, deleted or emptied meanwhile, it is created again.
    """

    def __init__(self, path: Path):
        """OutputError if the file can't be written to."""
        self.path, self.dropped = path, 0
        self._waiting: queue.Queue[tuple[ServedRanking, Path] | None] = queue.Queue(MAX_WAITING)
        self._next_report = 0.0  # not before, by the monotonic clock
        self._descriptor = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else problem
            raise OutputError(f"{path}: can't be written to ({reason}); give another --log-requests") from None
        self._thread = threading.Thread(target=self._run, name="genrank-request-log", daemon=True)
        self._thread.start()

    def note(self, ranking: ServedRanking, bundle: Path) -> None:
        """Log a ranking. bundle: the folder of its model."""
        try:
            self._waiting.put_nowait((ranking, bundle))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write the waiting rankings, and accept no more."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (each := self._waiting.get()) is not None:
            try:
                self._follow()
                self._write(*each)
            except (OSError, ValueError, TypeError, RecursionError) as problem:  # no ranking may end this thread
                self._failed(problem)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _failed(self, problem: Exception) -> None:
        self.dropped += 1
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + QUIET
            reason = problem.strerror if isinstance(problem, OSError) else problem
            log.error("%s: can't be written to (%s); %d rankings were not logged", self.path, reason, self.dropped)

    def _open(self) -> None:
        if self._descriptor >= 0:
            before, self._descriptor = self._descriptor, -1
            os.close(before)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._model = ""  # of the last line
        self._size = os.fstat(self._descriptor).st_size
        self._cut = self._is_file() and self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def _is_file(self) -> bool:
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _follow(self) -> None:
        """Continue in a new file if the path no longer leads to the open one, or if another process emptied it."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._open()
            return
        if self._descriptor < 0 or not os.path.samestat(found, os.fstat(self._descriptor)):
            self._open()
        elif found.st_size < self._size:
            self._model, self._size, self._cut = "", found.st_size, False

    def _write(self, ranking: ServedRanking, bundle: Path) -> None:
        lines = b"\n" if self._cut else b""
        if ranking.model != self._model:
            lines += json.dumps({"model": ranking.model, "bundle": str(bundle.resolve())}).encode() + b"\n"
        lines += json.dumps(asdict(ranking)).encode() + b"\n"
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
        except OSError:
            self._model = ""  # it is not known whether the line with the model was written
            self._cut = self._cut if not written else lines[written - 1 : written] != b"\n"
            raise
        finally:
            self._size += written
        self._model, self._cut = ranking.model, False


@dataclass(frozen=True)
class Unreadable:
    """A line of a request log that is not a complete ranking."""

    line: int
    reason: str


def read_requests(path: Path) -> Iterator[tuple[int, ServedRanking, Path | None] | Unreadable]:
    """The rankings of a file: each one's line number, and the folder of its model's bundle, None if no line names it.

    A line that was cut short gives an Unreadable, and what another process wrote after the cut is read. LogError if
    there is no such file.
    """
    bundles: dict[str, Path] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                for about in _parse(line):
                    if isinstance(about, ServedRanking):
                        yield number, about, bundles.get(about.model)
                    elif isinstance(about, str):
                        yield Unreadable(number, about)
                    else:
                        bundles[about[0]] = about[1]
    except (OSError, ValueError) as problem:
        raise LogError(f"{path}: can't be read ({problem}); expected a file of genrank serve --log-requests") from None


def _parse(line: bytes) -> Iterator[ServedRanking | tuple[str, Path] | str]:
    """The content of a line: a ranking, a model with its bundle, or why it can't be read, and what follows damage."""
    line = line.rstrip(b"\r\n")
    if not line:
        return
    try:
        yield _ranking_or_bundle(parse_json(line))
        return
    except (ValueError, LogError) as problem:
        yield f"is not a complete served ranking ({problem})"
    for begin in _beginnings(line):
        try:
            yield _ranking_or_bundle(parse_json(line[begin:]))
            return
        except (ValueError, LogError):
            continue


def _beginnings(line: bytes) -> Iterator[int]:
    """Positions at which another line may begin, after one that was cut."""
    begin = line.find(BEGINNING, 1)
    while begin > 0:
        yield begin
        begin = line.find(BEGINNING, begin + 1)


def _ranking_or_bundle(values: Any) -> ServedRanking | tuple[str, Path]:
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if set(values) == {"model", "bundle"} and all(isinstance(value, str) for value in values.values()):
        return values["model"], Path(values["bundle"])
    return build(ServedRanking, values, where="ranking", error=LogError)
