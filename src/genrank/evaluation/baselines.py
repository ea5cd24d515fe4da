"""Count-based baselines, which a model has to beat: they are printed beside it in every evaluation.

    base rate           the training part's rate
    item rate           (clicks + 5 · base) / (exposures + 5), of the item in the training part
    item + user rate    logit(item rate) + logit(user rate) - logit(base rate), point in time

The user rate is computed from all known exposures before the request, also those of the test part, with the same
smoothing. Five pseudo-exposures were chosen for ml-100k.
"""

import numpy as np
from numpy.typing import NDArray

from genrank.data.timelines import Timelines
from genrank.data.weights import metric_weights
from genrank.evaluation.metrics import Floats
from genrank.schema import TaskSpec

PSEUDO = 5.0


def baselines_of(
    timelines: Timelines, task: TaskSpec, *, rows: NDArray[np.int64], visible_end: NDArray[np.int32], valid_start: int
) -> dict[str, Floats]:
    """The baselines of timelines that are all in memory: see CountBaselines."""
    counted = CountBaselines(task, valid_start)
    counted.add(timelines, rows=rows, visible_end=visible_end)
    return counted.predicted()


class CountBaselines:
    """Count-based baselines of a task, from timelines that come a pool after another.

    Of a pool its items' counts are added up, and the predicted rows' items and users' counts kept: 24 bytes a row.
    Exposures before valid_start are for training.
    """

    def __init__(self, task: TaskSpec, valid_start: int):
        self.task, self.valid_start = task, valid_start
        self.count, self.total = np.zeros(0), np.zeros(0)  # (I) exposures, and clicks or seconds, of training
        self.item: list[NDArray[np.int32]] = []
        self.seen: list[Floats] = []
        self.done: list[Floats] = []

    def add(self, timelines: Timelines, *, rows: NDArray[np.int64], visible_end: NDArray[np.int32]) -> None:
        """A pool of which the exposures at `rows` are predicted.

        visible_end: (N) first row that each exposure's request doesn't see.
        """
        t = timelines
        value, weight = t.tasks[self.task.name].astype(np.float64), metric_weights(t, self.task)
        weight = np.ones(len(value)) if weight is None else weight
        binary = self.task.kind == "binary"
        # History-only rows may be clicks alone, from which no rate can be computed.
        known = (value >= 0 if binary else ~np.isnan(value)) & t.target
        train = known & (t.time < self.valid_start)
        items = int(t.item.max(initial=-1)) + 1
        counts = np.bincount(t.item[train], weights=weight[train], minlength=items)
        totals = np.bincount(t.item[train], weights=value[train] * weight[train], minlength=items)
        self.count, self.total = _added(self.count, counts), _added(self.total, totals)
        self.item.append(t.item[rows])
        if binary:
            user_start = t.offsets[:-1][t.user_of_row()[rows]]
            self.seen.append(_before(np.where(known, weight, 0.0), visible_end[rows], user_start))
            self.done.append(_before(np.where(known, value * weight, 0.0), visible_end[rows], user_start))

    def predicted(self) -> dict[str, Floats]:
        """Probabilities or seconds of all predicted rows, per baseline."""
        none = 0.5 if self.task.kind == "binary" else 0.0
        mean = float(self.total.sum() / self.count.sum()) if self.count.sum() > 0 else none
        item = np.concatenate(self.item)
        of_item = ((self.total + PSEUDO * mean) / (self.count + PSEUDO))[item]
        if self.task.kind != "binary":
            return {"mean": np.full(len(item), mean), "item_mean": of_item}
        of_user = (np.concatenate(self.done) + PSEUDO * mean) / (np.concatenate(self.seen) + PSEUDO)
        both = 1 / (1 + np.exp(-(_logit(of_item) + _logit(of_user) - _logit(np.array(mean)))))
        return {"base_rate": np.full(len(item), mean), "item_rate": of_item, "item_user_rate": both}


def _added(one: Floats, other: Floats) -> Floats:
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    longer[: len(shorter)] += shorter
    return longer


def _before(values: Floats, end: NDArray[np.int32], start: NDArray[np.int64]) -> Floats:
    """Σ values[start:end] per row."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    sums: Floats = total[end] - total[start]
    return sums


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    logits: Floats = np.log(p / (1 - p))
    return logits
