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


def rate_baselines(
    timelines: Timelines, task: TaskSpec, *, rows: NDArray[np.int64], visible_end: NDArray[np.int64], valid_start: int
) -> dict[str, Floats]:
    """Predicted probabilities of the binary `task` for the timelines' `rows`, per baseline.

    visible_end: (N) first row that each exposure's request doesn't see. Exposures before valid_start are for training.
    """
    t = timelines
    label, weight = t.tasks[task.name], metric_weights(t, task)
    weight = np.ones(len(label)) if weight is None else weight
    known = label >= 0
    train = known & (t.time < valid_start) & t.target
    items = int(t.item.max()) + 1
    shown = np.bincount(t.item[train], weights=weight[train], minlength=items)
    liked = np.bincount(t.item[train], weights=label[train] * weight[train], minlength=items)
    base = float(liked.sum() / shown.sum()) if shown.sum() > 0 else 0.5
    item_rate = ((liked + PSEUDO * base) / (shown + PSEUDO))[t.item[rows]]
    user_start = t.offsets[:-1][t.user_of_row()[rows]]
    counted = known & t.target  # history-only rows may be clicks alone, from which no rate can be computed
    seen = _before(np.where(counted, weight, 0.0), visible_end[rows], user_start)
    done = _before(np.where(counted, label * weight, 0.0), visible_end[rows], user_start)
    user_rate = (done + PSEUDO * base) / (seen + PSEUDO)
    both = 1 / (1 + np.exp(-(_logit(item_rate) + _logit(user_rate) - _logit(np.array(base)))))
    return {"base_rate": np.full(len(rows), base), "item_rate": item_rate, "item_user_rate": both}


def duration_baselines(
    timelines: Timelines, task: TaskSpec, *, rows: NDArray[np.int64], valid_start: int
) -> dict[str, Floats]:
    """Predicted seconds: the training part's mean, and the item's smoothed mean."""
    t = timelines
    value, weight = t.tasks[task.name].astype(np.float64), metric_weights(t, task)
    weight = np.ones(len(value)) if weight is None else weight
    train = ~np.isnan(value) & (t.time < valid_start) & t.target
    items = int(t.item.max()) + 1
    count = np.bincount(t.item[train], weights=weight[train], minlength=items)
    total = np.bincount(t.item[train], weights=value[train] * weight[train], minlength=items)
    mean = float(total.sum() / count.sum()) if count.sum() > 0 else 0.0
    item_mean = ((total + PSEUDO * mean) / (count + PSEUDO))[t.item[rows]]
    return {"mean": np.full(len(rows), mean), "item_mean": item_mean}


def _before(values: Floats, end: NDArray[np.int64], start: NDArray[np.int64]) -> Floats:
    """Σ values[start:end] per row."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    sums: Floats = total[end] - total[start]
    return sums


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    logits: Floats = np.log(p / (1 - p))
    return logits
