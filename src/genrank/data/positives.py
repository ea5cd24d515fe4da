"""Prepared data for retrieval: the positive events of users, not all exposures."""

from dataclasses import replace
from typing import Literal

import numpy as np

from genrank.data.prepared import PreparedData
from genrank.data.timelines import Timelines
from genrank.errors import DataError


def of_positives(data: PreparedData, task: str, *, events: Literal["positives", "all"] = "positives") -> PreparedData:
    """The data with positives as targets, and as the only events unless `events` is `all`.

    task: the task whose label 1 makes a positive; empty: every event is one. DataError if there are none.
    """
    seen = replace(data, timelines=positives(data.timelines, task, events=events))
    require_positives(seen, task)
    return seen


def require_positives(data: PreparedData, task: str) -> None:
    """DataError where the data has no target."""
    if not data.timelines.target.any():
        raise DataError(f"{data.folder}: no exposure has {task}=1, so there is nothing to retrieve; name another task")


def positives(timelines: Timelines, task: str, *, events: Literal["positives", "all"] = "positives") -> Timelines:
    """See of_positives."""
    if not task:
        return timelines
    positive = timelines.tasks[task] == 1
    if events == "all":
        return replace(timelines, target=timelines.target & positive)
    return timelines.where(np.asarray(positive))
