"""Rankings as they were served, one JSON line each, to be recomputed offline (see replay.py).

A line of {"model", "bundle"} says where a model's bundle lay; it comes before the first ranking by that model. Every
line is written in one call; one that was cut short, by a crash or a full disk, is ended before the next is written.
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
QUIET = 60.0  # seconds between two reports of the same trouble
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
    """Appends to a file from a thread of its own, so that no ranking waits for the disk.

    What the disk can't take in time, or at all, is left out and counted in `dropped`; the service goes on. A file that
    is moved away, deleted or emptied while it is written is begun anew.
    """

    def __init__(self, path: Path):
        """OutputError where the file can't be written to."""
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
        """Keep a ranking; `bundle`: the folder of its model."""
        try:
            self._waiting.put_nowait((ranking, bundle))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and no more."""
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
            log.error("%s: can't be written to (%s); %d rankings went unlogged", self.path, reason, self.dropped)

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
        """Go on in a new file where the path no longer leads to the one that is open, or another process emptied it."""
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
            self._model = ""  # what of it was written is not known
            self._cut = self._cut if not written else lines[written - 1 : written] != b"\n"
            raise
        finally:
            self._size += written
        self._model, self._cut = ranking.model, False


@dataclass(frozen=True)
class Unreadable:
    """A line of a request log that is no ranking, or only a part of one."""

    line: int
    reason: str


def read_requests(path: Path) -> Iterator[tuple[int, ServedRanking, Path | None] | Unreadable]:
    """The rankings of a file: each one's line, and the folder of its model's bundle, None where no line names that.

    A line that was cut short is answered as Unreadable, and what another process wrote behind the cut is read. LogError
    where there is no such file.
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
    """What is in a line: a ranking, a model with its bundle, or why it can't be read, and what is behind the damage."""
    line = line.rstrip(b"\r\n")
    if not line:
        return
    try:
        yield _ranking_or_bundle(parse_json(line))
        return
    except (ValueError, LogError) as problem:
        yield f"is no served ranking, or a part of one ({problem})"
    for begin in _beginnings(line):
        try:
            yield _ranking_or_bundle(parse_json(line[begin:]))
            return
        except (ValueError, LogError):
            continue


def _beginnings(line: bytes) -> Iterator[int]:
    """Where a line may have begun behind one that was cut."""
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
