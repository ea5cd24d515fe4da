"""Confidence intervals by bootstrap over users, because a user's exposures are not independent. Plain and paired."""

from collections.abc import Iterator, Sequence

import numpy as np

from genrank.data.groups import group_starts
from genrank.evaluation.metrics import Floats, sorted_auc, user_aucs

Interval = tuple[float, float]
ROW_BUDGET = 200_000_000  # rows times replicates: above, fewer replicates are drawn, but at least 50


def interval(replicates: list[float]) -> Interval | None:
    """The middle 95 % of the replicates."""
    if len(replicates) < 20:
        return None
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def user_weights(users: Floats, num_replicates: int, seed: int) -> Iterator[Floats]:
    """(N) weights per replicate: how often each row's user was drawn, with replacement."""
    _, index = np.unique(users, return_inverse=True)
    num_users = int(index.max()) + 1 if len(index) else 0
    random = np.random.default_rng(seed)
    if num_users:
        for _ in range(max(min(num_replicates, ROW_BUDGET // len(users)), min(num_replicates, 50))):
            yield np.bincount(random.integers(0, num_users, num_users), minlength=num_users)[index]


def poisson_weights(num_users: int, num_replicates: int, seed: int) -> Floats:
    """(replicates, users) how often each user was drawn, independently: for sums over users, as one matrix product."""
    return np.random.default_rng(seed).poisson(1.0, (num_replicates, num_users)).astype(float)


def auc_intervals(
    scores: dict[str, Floats],
    labels: Floats,
    users: Floats,
    *,
    num_replicates: int,
    seed: int,
    weights: Floats | None = None,
) -> tuple[dict[str, Interval | None], dict[str, list[float]]]:
    """Per named score: the AUC's interval, and its replicates, which are paired over the names."""
    prepared = {}
    for name, score in scores.items():
        order = np.argsort(score, kind="stable")
        prepared[name] = (order, group_starts(score[order]), labels[order])
    replicates: dict[str, list[float]] = {name: [] for name in scores}
    for drawn in user_weights(users, num_replicates, seed):
        each = drawn if weights is None else drawn * weights
        values = {n: sorted_auc(starts, label, each[order]) for n, (order, starts, label) in prepared.items()}
        for name, value in values.items():
            if value is not None:
                replicates[name].append(value)
    return {name: interval(values) for name, values in replicates.items()}, replicates


def gauc_replicates(
    scores: dict[str, Floats],
    labels: Floats,
    users: Floats,
    *,
    num_replicates: int,
    seed: int,
    weights: Floats | None = None,
) -> dict[str, list[float]]:
    """Per named score: replicates of GAUC, paired over the names. Users with one class are left out."""
    per_name = {name: user_aucs(score, labels, users, weights) for name, score in scores.items()}
    first = next(iter(per_name.values()))
    replicates: dict[str, list[float]] = {name: [] for name in scores}
    if len(first.user):
        for drawn in user_weights(first.user, num_replicates, seed):
            weight = drawn * first.num_exposures
            for name, values in per_name.items():
                replicates[name].append(float(values.auc @ weight / weight.sum()))
    return replicates


def sum_replicates(columns_KN: Sequence[Floats], users: Floats, *, num_replicates: int, seed: int) -> Floats:
    """(replicates, K) sums of columns over the rows of the drawn users: for metrics that are ratios of sums."""
    _, index = np.unique(users, return_inverse=True)
    sums_KU = np.stack([np.bincount(index, weights=column) for column in columns_KN])
    drawn = user_weights(np.arange(sums_KU.shape[1]), num_replicates, seed)
    return np.array([sums_KU @ times_U for times_U in drawn]).reshape(-1, len(columns_KN))


def calibration_intervals(
    probabilities: Floats,
    labels: Floats,
    users: Floats,
    *,
    num_replicates: int,
    seed: int,
    weights: Floats | None = None,
) -> dict[str, Interval | None]:
    """The intervals of normalised entropy (`ne`) and of predicted over observed positives (`pcoc`)."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    each = np.ones(len(p)) if weights is None else weights.astype(np.float64)
    loss = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    columns = [each, each * labels, each * probabilities, each * loss]
    found = sum_replicates(columns, users, num_replicates=num_replicates, seed=seed)
    total, positive, predicted, lost = found[(found[:, 1] > 0) & (found[:, 1] < found[:, 0])].T
    rate = positive / total
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return {"ne": interval((lost / total / entropy).tolist()), "pcoc": interval((predicted / positive).tolist())}


def mean_interval(
    values: Floats, users: Floats, *, num_replicates: int, seed: int, weights: Floats | None = None
) -> Interval | None:
    """The interval of a mean over rows."""
    each = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    found = sum_replicates([each, each * values], users, num_replicates=num_replicates, seed=seed)
    found = found[found[:, 0] > 0]
    return interval((found[:, 1] / found[:, 0]).tolist())


def difference(one: list[float], other: list[float]) -> Interval | None:
    """The interval of `one` minus `other`, from paired replicates; None if their numbers differ."""
    return interval([a - b for a, b in zip(one, other, strict=True)]) if len(one) == len(other) else None
