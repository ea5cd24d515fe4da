"""Metrics of retrieval over the full catalogue: the targets' ranks, and the composition of the lists.

A request may have several targets. With r the targets' ranks (from 0) in the request's one list:

    hr@k      whether any r < k                      recall@k    the share of targets with r < k
    ndcg@k    Σ_{r < k} 1 / log2(r + 2), over that of a perfect list
    mrr       1 / (1 + min r)

Means are over requests. Items with equal scores all get the middle rank among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.groups import group_starts
from genrank.evaluation.bootstrap import poisson_weights
from genrank.evaluation.predictions import joined_column

Floats = NDArray[np.float64]
Column = NDArray[Any]

HR, NDCG, RECALL = (5, 10), (5, 10, 50, 500), (10, 50, 100, 500)
HEADLINES = ("hr@10", "ndcg@10", "recall@50", "recall@500")
DAY = 86400


@dataclass(frozen=True, kw_only=True)
class RetrievedTargets:
    """N targets, and the retrieved lists of their requests."""

    request: Column  # the target's request; unique over all users
    user: Column
    item: Column  # row of items.parquet
    repeated: Column  # bool: the user had it before
    item_age: Column  # seconds since the item's first exposure
    train_count: Column  # exposures of the item in training
    ranks: Mapping[str, Floats]  # per stage, from 0; infinite: not retrievable; the last stage gives the answer
    top: Column  # (N, K) rows of items.parquet at the head of each list
    catalogue: Column  # rows that could be retrieved

    def after(self, requests: int) -> "RetrievedTargets":
        """The same behind so many requests of other timelines."""
        return replace(self, request=self.request + requests)


def joined_targets(parts: Sequence[RetrievedTargets]) -> RetrievedTargets:
    """All of them, one behind another; they are of the same catalogue."""
    if len(parts) == 1:
        return parts[0]
    names = [each.name for each in fields(RetrievedTargets) if each.name != "catalogue"]
    columns = {name: joined_column([getattr(part, name) for part in parts]) for name in names}
    return RetrievedTargets(**columns, catalogue=parts[0].catalogue)


def judge(r: RetrievedTargets, popularity: Column, *, num_bootstrap: int = 200, seed: int = 0) -> dict[str, Any]:
    """What `genrank evaluate --json` prints for a retriever. popularity: (I) targets of every item in training."""
    *_, last = r.ranks
    by_request = {stage: request_metrics(r.request, ranks) for stage, ranks in r.ranks.items()}
    means = {stage: _means(figures) for stage, figures in by_request.items()}
    first = np.unique(r.request, return_index=True)[1]
    intervals = _intervals(by_request[last], r.user[first], num_bootstrap, seed)
    return {
        "retrieval": {**means[last], **intervals, "num_targets": len(r.item), "num_requests": len(first)},
        "stages": means,
        "lists": list_figures(r.top[first], popularity, r.catalogue),
        "repeated_targets": float(r.repeated.mean()),
        "slices": {
            group: {name: _slice(r, mask, r.ranks[last]) for name, mask in masks.items() if mask.any()}
            for group, masks in slices(r).items()
        },
    }


def request_metrics(request: Column, ranks: Floats) -> dict[str, Floats]:
    """(R) every metric of every request, requests in order."""
    order = np.lexsort((ranks, request))
    request, ranks = request[order], ranks[order]
    starts = group_starts(request)
    counts = np.diff(np.r_[starts, len(ranks)])
    place = np.arange(len(ranks)) - np.repeat(starts, counts)  # of a target in a perfect list

    def total(values: Floats) -> Floats:
        return np.add.reduceat(values, starts)

    gain, ideal = 1 / np.log2(ranks + 2), 1 / np.log2(place + 2)
    figures = {f"hr@{k}": (ranks[starts] < k).astype(float) for k in HR}
    figures |= {f"recall@{k}": total((ranks < k).astype(float)) / counts for k in RECALL}
    figures |= {f"ndcg@{k}": total(gain * (ranks < k)) / total(ideal * (place < k)) for k in NDCG}
    return figures | {"mrr": 1 / (1 + ranks[starts])}


def list_figures(top: Column, popularity: Column, catalogue: Column) -> dict[str, float]:
    """Composition of the lists: share of the catalogue, mean popularity percentile, and Gini coefficient."""
    shown = np.bincount(top[top > 0], minlength=len(popularity))[catalogue]
    percentile = np.empty(len(catalogue))
    percentile[np.argsort(popularity[catalogue], kind="stable")] = (np.arange(len(catalogue)) + 0.5) / len(catalogue)
    share = np.sort(shown) / max(shown.sum(), 1)
    gini = float(1 - 2 * (share.cumsum() - share / 2).mean()) if shown.sum() else 0.0
    return {
        "k": top.shape[1],
        "coverage": float((shown > 0).mean()),
        "mean_popularity_percentile": float((percentile * shown).sum() / max(shown.sum(), 1)),
        "gini": gini,
    }


def slices(r: RetrievedTargets) -> dict[str, dict[str, Column]]:
    """Group → slice → mask over targets: by the item's age and by its popularity in training."""
    trained = r.train_count > 0
    edges = np.quantile(r.train_count[trained], [0.5, 0.9]) if trained.any() else np.zeros(2)
    return {
        "item age": {
            "never in training": ~trained,
            "first day": trained & (r.item_age < DAY),
            "first week": trained & (r.item_age >= DAY) & (r.item_age < 7 * DAY),
            "older": trained & (r.item_age >= 7 * DAY),
        },
        "item popularity": {
            f"up to {edges[0]:.0f} in training": trained & (r.train_count <= edges[0]),
            f"{edges[0] + 1:.0f} to {edges[1]:.0f}": (r.train_count > edges[0]) & (r.train_count <= edges[1]),
            f"above {edges[1]:.0f}": r.train_count > edges[1],
        },
    }


def _means(figures: Mapping[str, Floats]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in figures.items()}


def _slice(r: RetrievedTargets, mask: Column, ranks: Floats) -> dict[str, Any]:
    figures = _means(request_metrics(r.request[mask], ranks[mask]))
    return {
        **{name: figures[name] for name in ("hr@10", "ndcg@10", "recall@50", "recall@500")},
        "num_targets": int(mask.sum()),
    }


def _intervals(figures: Mapping[str, Floats], user: Column, count: int, seed: int) -> dict[str, list[float]]:
    """95 %, by bootstrap over users."""
    if count == 0:
        return {}
    index = np.unique(user, return_inverse=True)[1]
    num_users = int(index.max()) + 1
    weights = poisson_weights(num_users, count, seed)
    size = weights @ np.bincount(index, minlength=num_users)
    found = {}
    for name in HEADLINES:
        means = weights @ np.bincount(index, weights=figures[name], minlength=num_users) / np.maximum(size, 1)
        found[f"{name}_ci"] = [float(bound) for bound in np.quantile(means, [0.025, 0.975])]
    return found
