"""Metrics of rankings and probabilities, vectorised over exposures; definitions: docs/metrics.md.

All take (N) arrays without unknown labels. A metric that is not defined (one class only, no rows) is None. `weights`:
(N) how many exposures each row stands for, so that a weight of k has the effect of k copies; None: one each.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrank.data.groups import changes, group_starts

Floats = NDArray[Any]


def auc(scores: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """P(score of a positive > score of a negative), with ties as one half."""
    order = np.argsort(scores, kind="stable")
    return sorted_auc(group_starts(scores[order]), labels[order], None if weights is None else weights[order])


def sorted_auc(starts: NDArray[np.int64], labels: Floats, weights: Floats | None) -> float | None:
    """AUC of rows sorted by score. starts: first row of each run of equal scores."""
    if not len(labels):
        return None
    positive = labels.astype(np.float64) if weights is None else labels * weights.astype(np.float64)
    every = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    pos, neg = np.add.reduceat(positive, starts), np.add.reduceat(every - positive, starts)
    pairs = pos.sum() * neg.sum()
    if pairs <= 0:
        return None
    return float((pos * (np.cumsum(neg) - neg / 2)).sum() / pairs)


class Gauc(NamedTuple):
    """GAUC: AUC within users, weighted by their exposures. Users with one class are left out of it."""

    value: float | None
    unweighted: float | None
    coverage: float  # share of exposures that belong to users with both classes


class UserAucs(NamedTuple):
    """AUC of every user with both classes."""

    user: NDArray[Any]
    auc: Floats
    num_exposures: Floats  # weights summed


def user_aucs(scores: Floats, labels: Floats, users: NDArray[Any], weights: Floats | None = None) -> UserAucs:
    """AUC per user, without a loop over users: ranks within users, ties averaged."""
    if not len(users):
        return UserAucs(users, np.zeros(0), np.zeros(0))
    order = np.lexsort((scores, users))
    user, score, label = users[order], scores[order], labels[order].astype(np.float64)
    new_user = changes(user)
    new_run = new_user | changes(score)
    runs, users_at = np.flatnonzero(new_run), np.flatnonzero(new_user)
    weight = np.ones(len(label)) if weights is None else weights[order]
    pos, neg = np.add.reduceat(label * weight, runs), np.add.reduceat((1 - label) * weight, runs)
    first_run = np.searchsorted(runs, users_at)
    below = np.cumsum(neg) - neg
    below -= np.repeat(below[first_run], np.diff(np.append(first_run, len(runs))))
    wins = np.add.reduceat(pos * (below + neg / 2), first_run)
    num_pos, num_neg = np.add.reduceat(pos, first_run), np.add.reduceat(neg, first_run)
    both = (num_pos > 0) & (num_neg > 0)
    return UserAucs(user[users_at][both], wins[both] / (num_pos * num_neg)[both], (num_pos + num_neg)[both])


def gauc(scores: Floats, labels: Floats, users: NDArray[Any], weights: Floats | None = None) -> Gauc:
    """Σ n_u AUC_u / Σ n_u, the unweighted mean over users, and the coverage."""
    per_user = user_aucs(scores, labels, users, weights)
    if not len(per_user.auc):
        return Gauc(None, None, 0.0)
    total = per_user.num_exposures.sum()
    covered = total / (len(scores) if weights is None else weights.sum())
    return Gauc(float(per_user.auc @ per_user.num_exposures / total), float(per_user.auc.mean()), float(covered))


def _mean(values: Floats, weights: Floats | None) -> float | None:
    """The weighted mean; None without values or without weight."""
    if not len(values) or (weights is not None and weights.sum() <= 0):
        return None
    return float(np.average(values, weights=weights))


def logloss(probabilities: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Mean cross-entropy in nats."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    return _mean(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)), weights)


def normalized_entropy(probabilities: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Log loss over the entropy of the labels' rate: below 1 is better than always predicting that rate."""
    loss, rate = logloss(probabilities, labels, weights), _mean(labels, weights)
    if loss is None or rate is None or not 0 < rate < 1:
        return None
    entropy = logloss(np.full(len(labels), rate), labels, weights)
    return loss / entropy if entropy else None


def pcoc(probabilities: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Predicted over observed positives: 1 is calibrated."""
    predicted, observed = _mean(probabilities, weights), _mean(labels, weights)
    return predicted / observed if predicted is not None and observed else None


class Calibration(NamedTuple):
    """Bins of equal mass: mean prediction, observed rate, weight."""

    predicted: Floats
    observed: Floats
    mass: Floats


def calibration(
    probabilities: Floats, labels: Floats, num_bins: int = 20, weights: Floats | None = None
) -> Calibration:
    """Mean prediction and observed rate in bins of equal mass, in order of prediction.

    Whole masses are split as numpy.array_split splits rows; a row's mass may be divided between two bins.
    """
    order = np.argsort(probabilities, kind="stable")
    weight = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    total = mass[-1]
    if total == round(total):
        sizes = [len(part) for part in np.array_split(np.arange(round(total)), num_bins)]
        edges = np.concatenate([[0.0], np.cumsum([size for size in sizes if size])])
    else:
        edges = np.linspace(0, total, num_bins + 1)
    size = np.diff(edges)
    predicted, observed = (
        np.diff(np.interp(edges, mass, np.concatenate([[0.0], np.cumsum(values[order] * weight)]))) / size
        for values in (probabilities, labels)
    )
    return Calibration(predicted, observed, size)


def ece(probabilities: Floats, labels: Floats, num_bins: int = 20, weights: Floats | None = None) -> float | None:
    """Expected calibration error: mean |prediction - rate| over bins of equal mass."""
    if not len(labels) or (weights is not None and weights.sum() <= 0):
        return None
    bins = calibration(probabilities, labels, num_bins, weights)
    return float(np.average(np.abs(bins.predicted - bins.observed), weights=bins.mass))


def mae(predicted: Floats, actual: Floats, weights: Floats | None = None) -> float | None:
    """Mean absolute error, in the unit of the durations."""
    return _mean(np.abs(predicted - actual), weights)


def xauc(
    predicted: Floats,
    actual: Floats,
    weights: Floats | None = None,
    *,
    num_pairs: int = 2_000_000,
    seed: int = 0,
) -> float | None:
    """Share of pairs of unequal durations that are predicted in the right order, with tied predictions as one half.

    All pairs up to 1,500 rows; above, `num_pairs` random ones (a standard error of 0.0004 at two million).
    """
    n = len(actual)
    if n < 2:
        return None
    if n <= 1500:
        first, second = np.triu_indices(n, 1)
    else:
        random = np.random.default_rng(seed)
        first, second = random.integers(0, n, num_pairs), random.integers(0, n, num_pairs)
    order, guess = np.sign(actual[first] - actual[second]), np.sign(predicted[first] - predicted[second])
    unequal = order != 0
    right = _mean((order * guess)[unequal], None if weights is None else (weights[first] * weights[second])[unequal])
    return None if right is None else (1 + right) / 2
