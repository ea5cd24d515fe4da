"""Scores and labels of every exposure of a part, with the columns that slices and baselines need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """N exposures, in order of the timelines' rows."""

    exposure: Column  # row in the timelines
    user: Column  # row of users.parquet
    item: Column  # row of items.parquet
    request: Column  # unique over all users
    time: Column  # int64 seconds
    position: Column  # slot in the feed, -1 unknown
    history_length: Column  # exposures that the request could see
    item_age: Column  # seconds since the item's first exposure
    item_train_count: Column
    user_train_count: Column
    labels: Mapping[str, Column]  # float32, NaN unknown; durations in seconds
    censored: Mapping[str, Column]  # bool, duration tasks
    scores: Mapping[str, Column]  # probability, or expected seconds
    oracle: Mapping[str, Column]  # true probabilities, simulated logs only
    weights: Mapping[str, Column | None] = field(default_factory=dict)  # per task, as in metrics.py

    def __len__(self) -> int:
        return len(self.exposure)

    def after(self, rows: int, requests: int) -> "Predictions":
        """The same behind so many rows and requests of other timelines."""
        return replace(self, exposure=self.exposure + rows, request=self.request + requests)

    def weights_of(self, task: str, chosen: Column) -> Column | None:
        """The chosen exposures' weights in the task's metrics; None: one each."""
        weights = self.weights.get(task)
        return None if weights is None else weights[chosen]


def joined_predictions(parts: Sequence[Predictions]) -> Predictions:
    """All of them, one behind another."""
    if len(parts) == 1:
        return parts[0]
    columns = {each.name: joined_column([getattr(part, each.name) for part in parts]) for each in fields(Predictions)}
    return Predictions(**columns)


def joined_column(parts: Sequence[Any]) -> Any:
    """A column of all parts, or a column per name, or None where they have none."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Mapping):
        return {name: joined_column([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)
