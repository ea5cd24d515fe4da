"""The figures that a cell keeps: metrics of the first binary task, over all exposures and by the item's age; for a
retriever recall, NDCG, HR and MRR over the full catalogue.

Figures have bootstrap replicates over users. All cells of a data set draw the same users, so that the replicates of two
cells are paired, and differences get intervals without stored predictions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.evaluation.bootstrap import auc_intervals, gauc_replicates, poisson_weights
from genrank.evaluation.metrics import Floats, auc, gauc, logloss
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.retrieval_metrics import RetrievedTargets, request_metrics, slices
from genrank.studies.study import RETRIEVAL

NUM_REPLICATES = 200
BOOTSTRAP_SEED = 20250504
HOUR, DAY = 3600, 86400
DIGITS = 6
ALL = "all"
AGES: tuple[tuple[str, float, float], ...] = (  # slices by the item's age at the exposure, in seconds
    ("first 6 h", 0, 6 * HOUR),
    ("6 h to 1 d", 6 * HOUR, DAY),
    ("1 to 3 d", DAY, 3 * DAY),
    ("older", 3 * DAY, float("inf")),
)
FIRST_DAY = "first day"


def slices_by_age(p: Predictions) -> dict[str, NDArray[np.bool_]]:
    """Slice → mask; slices without exposures are left out."""
    masks = {ALL: np.ones(len(p), bool), FIRST_DAY: p.item_age < DAY}
    masks |= {name: (p.item_age >= low) & (p.item_age < high) for name, low, high in AGES}
    return {name: mask for name, mask in masks.items() if mask.any()}


def judge(p: Predictions, task: str, scores: Floats) -> dict[str, Any]:
    """Per slice: auc, gauc, neg_logloss, num_exposures, and replicates of AUC and GAUC."""
    label = p.labels[task]
    known = ~np.isnan(label)
    return {
        name: _judge(scores[chosen], label[chosen].astype(np.float64), p.user[chosen], p.weights_of(task, chosen))
        for name, mask in slices_by_age(p).items()
        if (chosen := mask & known).any()
    }


def _judge(score: Floats, label: Floats, user: NDArray[Any], weights: Floats | None) -> dict[str, Any]:
    options: dict[str, Any] = {"num_replicates": NUM_REPLICATES, "seed": BOOTSTRAP_SEED, "weights": weights}
    _, replicates = auc_intervals({"it": score}, label, user, **options)
    kept = {"auc": replicates["it"], "gauc": gauc_replicates({"it": score}, label, user, **options)["it"]}
    loss = logloss(score, label, weights)
    return {
        "num_exposures": len(label),
        "num_positives": int(label.sum()),
        "auc": _rounded(auc(score, label, weights)),
        "gauc": _rounded(gauc(score, label, user, weights).value),
        "neg_logloss": None if loss is None else _rounded(-loss),
        "replicates": {metric: [_rounded(value) for value in values] for metric, values in kept.items()},
    }


def judge_retrieval(r: RetrievedTargets) -> dict[str, Any]:
    """Per slice of the targets: the last stage's figures of RETRIEVAL, num_exposures, and replicates of the figures."""
    *_, last = r.ranks
    masks = {ALL: np.ones(len(r.item), bool), **{name: m for group in slices(r).values() for name, m in group.items()}}
    users = np.unique(r.user)
    drawn = poisson_weights(len(users), NUM_REPLICATES, BOOTSTRAP_SEED)
    return {name: _judge_part(r, mask, last, users, drawn) for name, mask in masks.items() if mask.any()}


def _judge_part(
    r: RetrievedTargets, mask: NDArray[np.bool_], stage: str, users: NDArray[Any], drawn: Floats
) -> dict[str, Any]:
    request = r.request[mask]
    figures = request_metrics(request, r.ranks[stage][mask])
    first = np.unique(request, return_index=True)[1]
    user = np.searchsorted(users, r.user[mask][first])
    size = drawn @ np.bincount(user, minlength=len(users))
    replicates = {
        name: drawn @ np.bincount(user, weights=figures[name], minlength=len(users)) / np.maximum(size, 1)
        for name in RETRIEVAL
    }
    return {
        "num_exposures": int(mask.sum()),
        **{name: _rounded(float(figures[name].mean())) for name in RETRIEVAL},
        "replicates": {name: [_rounded(float(value)) for value in values] for name, values in replicates.items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
