"""What a retriever sees of timelines: the positive events of users, not all exposures."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from genrank.data.manifest import Manifest, PartCounts
from genrank.data.prepared import Part
from genrank.data.timelines import Timelines
from genrank.errors import DataError


def positives(timelines: Timelines, task: str, *, events: Literal["positives", "all"] = "positives") -> Timelines:
    """Timelines with positives as targets, and as the only events unless `events` is `all`.

    task: the task whose label 1 makes a positive; empty: every event is one.
    """
    if not task:
        return timelines
    positive = timelines.tasks[task] == 1
    if events == "all":
        return replace(timelines, target=timelines.target & positive)
    return timelines.where(np.asarray(positive))


def num_positives(manifest: Manifest, task: str, part: Part) -> int:
    """The number of positives in a part. task: see `positives`."""
    counts: PartCounts = getattr(manifest.counts, part)
    return counts.positives[task] if task else counts.exposures


def require_positives(folder: Path, manifest: Manifest, task: str, part: Part) -> None:
    """DataError where no exposure of a part is a positive."""
    if task and not num_positives(manifest, task, part):
        raise DataError(
            f"{folder}: the part {part!r} has no exposure with {task}=1, so there is nothing to retrieve; name another "
            "task (model.positive), or choose other days"
        )
