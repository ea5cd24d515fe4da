"""Slices of the evaluated exposures, each a mask, to see where a ranker is accurate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.evaluation.predictions import Predictions

Masks = dict[str, dict[str, NDArray[np.bool_]]]
DAY = 86400


def slices(p: Predictions) -> Masks:
    """Group → slice → mask. Positions are left out where the log has none."""
    hour = (p.time // 3600) % 24
    groups: Masks = {
        "user": {"new (under 10 exposures before)": p.history_length < 10, "known": p.history_length >= 10},
        "item": {
            "cold (never in training)": p.item_train_count == 0,
            "first day": p.item_age < DAY,
            "warm": (p.item_train_count > 0) & (p.item_age >= DAY),
        },
        "history length": _bands(p.history_length, (0, 1, 20, 100, 500)),
        "hour (UTC)": {f"{h:02d}-{h + 6:02d}": (hour >= h) & (hour < h + 6) for h in range(0, 24, 6)},
    }
    if (p.position >= 0).any():
        groups["position"] = _bands(np.where(p.position < 0, -1, p.position), (0, 1, 2, 4, 8, 16, 32))
    return groups


def _bands(values: NDArray[Any], edges: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    bands = {}
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        mask = (values >= low) if high is None else (values >= low) & (values < high)
        name = f"{low}+" if high is None else (str(low) if high == low + 1 else f"{low}-{high - 1}")
        if mask.any():
            bands[name] = mask
    return bands
