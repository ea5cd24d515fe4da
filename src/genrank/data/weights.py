"""The weight of an exposure in the metrics of a task: its logged weight, times that of sampled negatives."""

import numpy as np
from numpy.typing import NDArray

from genrank.data.timelines import Timelines
from genrank.schema import TaskSpec

Floats = NDArray[np.float64]

LARGEST_WEIGHT = 1e18  # its product with a score, and its quotient with the smallest rate, are still a float32


def metric_weights(t: Timelines, task: TaskSpec, rows: NDArray[np.int64] | slice = slice(None)) -> Floats | None:
    """(rows) the number of exposures that each represents: a kept negative of a sampled task, 1 / rate. None: one."""
    if t.weight is None and task.negative_rate == 1:
        return None
    label = t.tasks[task.name][rows]
    weight: Floats = np.ones(len(label)) if t.weight is None else t.weight[rows].astype(np.float64)
    return np.where(label == 0, weight / task.negative_rate, weight) if task.kind == "binary" else weight
