"""Served rankings, computed again offline, and compared with the served scores.

The history comes from a prepared folder with the exposures that the service received, up to each request's time. If
scores differ, the known reasons are counted: events that the service didn't have at the time, or that the folder
doesn't have, items that were added while serving, a store that could not be reached.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts.bundle import load_bundle
from genrank.data.manifest import Manifest
from genrank.errors import LogError, RequestError, shown
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.published import current, is_published
from genrank.inference.request_log import ServedRanking, Unreadable, read_requests

TOLERANCE = 1e-5
MAX_NAMED = 20  # lines that can't be read


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Differences are absolute for probabilities, relative for seconds, over all answered candidates and tasks.

    different: rankings with a difference above `tolerance`. reasons: the known reasons, one count per ranking.
    worst: the ranking with the largest difference. unreadable: lines of the file that were left out, such as lines cut
    short by a crash or a full disk; unreadable_at: file, line and reason of the first of these.
    """

    rankings: int
    scores: int
    largest: float
    mean: float
    tolerance: float
    different: int
    reasons: dict[str, int]
    worst: dict[str, Any] | None
    unreadable: int = 0
    unreadable_at: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Replay:
    """Compares rankings one after another."""

    def __init__(self, path: Path, data: Path, run: Path | None, tolerance: float):
        self.path, self.data, self.run, self.tolerance = path, data, run, tolerance
        self.rankers: dict[str, GenRanker] = {}
        self.largest, self.total, self.count, self.rankings = 0.0, 0.0, 0, 0
        self.reasons: Counter[str] = Counter()
        self.worst: dict[str, Any] | None = None
        self.unreadable, self.unreadable_at = 0, list[str]()

    def leave_out(self, line: Unreadable) -> None:
        """Count a line that can't be read."""
        self.unreadable += 1
        if len(self.unreadable_at) < MAX_NAMED:
            self.unreadable_at.append(f"{self.path}, line {line.line}: {line.reason}")

    def take(self, line: int, served: ServedRanking, bundle: Path | None) -> None:
        """Recompute a ranking. Raises BundleError and DataError."""
        if served.model not in self.rankers:
            if bundle is None and self.run is None:
                self.leave_out(Unreadable(line, f"no line before it names the bundle of {served.model}; give --run"))
                return
            self.rankers[served.model] = _ranker(served.model, bundle, self.run, self.data)
        try:
            difference, why = _compare(self.rankers[served.model], served)
        except RequestError as problem:
            self.leave_out(Unreadable(line, f"can't be ranked by the model that it names ({problem})"))
            return
        self.rankings, self.count = self.rankings + 1, self.count + difference.size
        self.total += float(difference.sum())
        highest = float(difference.max(initial=0.0))
        if highest > self.tolerance:
            self.reasons[why] += 1
        if highest > self.largest:
            about = {"user": served.user, "time": served.time, "difference": highest, "reason": why}
            self.largest, self.worst = highest, about

    def result(self) -> Replayed:
        """The result. LogError if no ranking could be read."""
        if not self.rankings:
            if self.unreadable_at:
                raise LogError(f"{self.unreadable_at[0]}; expected a file of genrank serve --log-requests")
            raise LogError(f"{self.path}: holds no ranking; serve with --log-requests {self.path} and send some")
        return Replayed(
            rankings=self.rankings,
            scores=self.count,
            largest=self.largest,
            mean=self.total / max(self.count, 1),
            tolerance=self.tolerance,
            different=sum(self.reasons.values()),
            reasons=dict(self.reasons.most_common()),
            worst=self.worst if self.largest > self.tolerance else None,
            unreadable=self.unreadable,
            unreadable_at=tuple(self.unreadable_at),
        )


def replay(
    path: Path, data: Path, *, run: Path | None = None, limit: int | None = None, tolerance: float = TOLERANCE
) -> Replayed:
    """Recompute the rankings of a request log, the first `limit` of them if given.

    data: a prepared folder with the histories. run: a run or a folder of published models that has the models; None:
    the folders named in the log. Raises LogError, BundleError and DataError.
    """
    Manifest.open(data)  # fails before anything is read that takes time
    replayed = _Replay(path, data, run, tolerance)
    for found in read_requests(path):
        if isinstance(found, Unreadable):
            replayed.leave_out(found)
        else:
            replayed.take(*found)
        if replayed.rankings == limit:
            break
    return replayed.result()


def _ranker(model: str, bundle: Path | None, run: Path | None, data: Path) -> GenRanker:
    folder = bundle
    if run is not None:
        folder = run / model if is_published(run) and (run / model).is_dir() else run
        folder = run / current(run) if folder == run and is_published(run) else folder
    assert folder is not None
    found = load_bundle(folder)
    if found.version != model:
        raise LogError(f"the log's rankings are by model {model}, and {folder} holds {found.version}; give its --run")
    return GenRanker(found, data=data, in_memory=True)


def _compare(ranker: GenRanker, served: ServedRanking) -> tuple[np.ndarray, str]:
    """Differences of all scores, and their probable reason."""
    ranking = ranker.rank(served.user, served.candidates, time=served.time, context=served.context)
    ours = {place.item: place for place in ranking.places}
    binary = {task.name for task in ranker.spec.tasks if task.kind == "binary"}
    differences, unknown = [], False
    for item, scores in served.scores.items():
        unknown |= not ours[item].known
        for task, score in scores.items():
            if task not in ours[item].scores:
                raise RequestError(f"scores: there is no task {shown(task)}")
            scale = 1.0 if task in binary else max(abs(score), 1.0)
            differences.append(abs(ours[item].scores[task] - score) / scale)
    if not served.history_current:
        why = "the store of events was out of reach"
    elif ranking.num_history != served.history:
        why = f"the service saw {'more' if served.history > ranking.num_history else 'fewer'} past events"
    elif unknown:
        why = "items that are not in the data"
    else:
        why = "unknown"
    return np.array(differences), why
