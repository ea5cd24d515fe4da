"""Served rankings, computed again offline: are the scores those that users were ranked by?

The history comes from a prepared folder that holds what the service was told, up to each request's time. Where scores
differ, the reasons that can be told are counted: events that the service had not heard of at the time, or that the
folder doesn't have, an item that came while serving, a store that was out of reach.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from genrank.data.manifest import Manifest
from genrank.errors import LogError
from genrank.serving.bundle import load_bundle
from genrank.serving.ranker import GenRanker
from genrank.serving.request_log import ServedRanking, read_requests
from genrank.serving.versions import current, is_published

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Differences are absolute for probabilities, relative for seconds, over all answered candidates and tasks.

    different: rankings with a difference above `tolerance`. reasons: what is known of these, one count per ranking.
    worst: the ranking with the largest difference.
    """

    rankings: int
    scores: int
    largest: float
    mean: float
    tolerance: float
    different: int
    reasons: dict[str, int]
    worst: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def replay(
    path: Path, data: Path, *, run: Path | None = None, limit: int | None = None, tolerance: float = TOLERANCE
) -> Replayed:
    """Recompute the rankings of a request log, the first `limit` of them if given.

    data: a prepared folder with the histories. run: a run or a folder of published models, to take every model from
    instead of where the log says it lay. Raises LogError, BundleError and DataError.
    """
    rankers: dict[str, GenRanker] = {}
    largest, total, count, rankings = 0.0, 0.0, 0, 0
    reasons: Counter[str] = Counter()
    worst: dict[str, Any] | None = None
    Manifest.open(data)  # before anything is read that takes time
    for served, bundle in islice(read_requests(path), limit):
        if served.model not in rankers:
            rankers[served.model] = _ranker(served.model, bundle, run, data)
        difference, why = _compare(rankers[served.model], served)
        rankings, count, total = rankings + 1, count + difference.size, total + float(difference.sum())
        highest = float(difference.max(initial=0.0))
        if highest > tolerance:
            reasons[why] += 1
        if highest > largest:
            largest, worst = highest, {"user": served.user, "time": served.time, "difference": highest, "reason": why}
    if not rankings:
        raise LogError(f"{path}: holds no ranking; serve with --log-requests {path} and send some")
    return Replayed(
        rankings=rankings,
        scores=count,
        largest=largest,
        mean=total / max(count, 1),
        tolerance=tolerance,
        different=sum(reasons.values()),
        reasons=dict(reasons.most_common()),
        worst=worst if largest > tolerance else None,
    )


def _ranker(model: str, bundle: Path, run: Path | None, data: Path) -> GenRanker:
    folder = bundle
    if run is not None:
        folder = run / model if is_published(run) and (run / model).is_dir() else run
        folder = run / current(run) if folder == run and is_published(run) else folder
    found = load_bundle(folder)
    if found.version != model:
        raise LogError(f"the log's rankings are by model {model}, and {folder} holds {found.version}; give its --run")
    return GenRanker(found, data=data, in_memory=True)


def _compare(ranker: GenRanker, served: ServedRanking) -> tuple[np.ndarray, str]:
    """Differences of all scores, and what may have caused them."""
    ranking = ranker.rank(served.user, served.candidates, time=served.time, context=served.context)
    ours = {place.item: place for place in ranking.places}
    binary = {task.name for task in ranker.spec.tasks if task.kind == "binary"}
    differences, unknown = [], False
    for item, scores in served.scores.items():
        unknown |= not ours[item].known
        for task, score in scores.items():
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
