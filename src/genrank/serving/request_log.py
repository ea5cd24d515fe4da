"""Rankings as they were served, one JSON line each, to be recomputed offline (see replay.py).

A line of {"model", "bundle"} says where a model's bundle lay; it comes before the first ranking by that model.
"""

import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genrank.errors import LogError, OutputError

log = logging.getLogger("genrank.service")
MAX_WAITING = 10_000  # rankings that wait to be written


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


class RequestLog:
    """Appends to a file from a thread of its own, so that no ranking waits for the disk.

    What the disk can't take in time, or at all, is left out and counted in `dropped`; the service goes on.
    """

    def __init__(self, path: Path):
        """OutputError where the file can't be written to."""
        self.path, self.dropped = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as problem:
            raise OutputError(
                f"{path}: can't be written to ({problem.strerror}); give another --log-requests"
            ) from None
        self._waiting: queue.Queue[tuple[ServedRanking, Path] | None] = queue.Queue(MAX_WAITING)
        self._model = ""  # of the last line
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
                self._write(*each)
                if self._waiting.empty():
                    self._file.flush()
            except OSError as problem:
                self._failed(problem)
        try:
            self._file.close()
        except OSError as problem:
            self._failed(problem)

    def _failed(self, problem: OSError) -> None:
        if not self.dropped:
            log.error("%s: can't be written to (%s); rankings go unlogged", self.path, problem.strerror)
        self.dropped += 1

    def _write(self, ranking: ServedRanking, bundle: Path) -> None:
        if ranking.model != self._model:
            self._file.write(json.dumps({"model": ranking.model, "bundle": str(bundle.resolve())}) + "\n")
            self._model = ranking.model
        self._file.write(json.dumps(asdict(ranking)) + "\n")


def read_requests(path: Path) -> Iterator[tuple[ServedRanking, Path]]:
    """The rankings of a file with the folder of each one's model. A last line that was cut short is left out.

    LogError, naming the line, for what is no log of rankings.
    """
    bundles: dict[str, Path] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    return
                about = _parse(path, number, line)
                if isinstance(about, ServedRanking):
                    if about.model not in bundles:
                        raise LogError(f"{path}, line {number}: no line before it names the bundle of {about.model}")
                    yield about, bundles[about.model]
                else:
                    bundles[about[0]] = about[1]
    except (OSError, UnicodeDecodeError) as problem:
        raise LogError(f"{path}: can't be read ({problem}); expected a file of genrank serve --log-requests") from None


def _parse(path: Path, number: int, line: str) -> ServedRanking | tuple[str, Path]:
    try:
        about = json.loads(line)
        if "bundle" in about:
            return str(about["model"]), Path(about["bundle"])
        return ServedRanking(**{**about, "candidates": tuple(about["candidates"])})
    except (ValueError, TypeError, KeyError):
        raise LogError(
            f"{path}, line {number}: is no served ranking; expected a file of genrank serve --log-requests"
        ) from None
