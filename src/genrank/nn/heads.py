"""Heads: from a task's logits to predictions and losses. Heads for durations are in `durations.py`.

Shapes: C candidates, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from genrank.nn.durations import (
    D2QDurationHead,
    DurationHead,
    OrdinalDurationHead,
    QuantileDurationHead,
    RegressionDurationHead,
    WLRDurationHead,
)
from genrank.schema import TaskSpec


class BinaryHead:
    """P(action = 1) = σ(logit)."""

    num_logits = 1

    def predict(self, logits_C1: Tensor) -> Tensor:
        """(C) probabilities."""
        return torch.sigmoid(logits_C1.squeeze(-1))

    def loss(self, logits_C1: Tensor, label_C: Tensor, censored_C: Tensor | None = None) -> Tensor:
        """(C) cross-entropy; NaN labels give 0."""
        del censored_C
        known = ~label_C.isnan()
        loss = F.binary_cross_entropy_with_logits(logits_C1.squeeze(-1), label_C.nan_to_num(), reduction="none")
        return torch.where(known, loss, 0.0)


DurationModel = OrdinalDurationHead | RegressionDurationHead | WLRDurationHead | D2QDurationHead | QuantileDurationHead
Head = BinaryHead | DurationModel

DURATION_HEADS: dict[DurationHead, type[DurationModel]] = {
    "ordinal": OrdinalDurationHead,
    "regression": RegressionDurationHead,
    "wlr": WLRDurationHead,
    "d2q": D2QDurationHead,
    "quantile": QuantileDurationHead,
}


def task_head(task: TaskSpec, duration: DurationHead) -> Head:
    """The head of a task. Raises ValueError for a duration task without bucket edges."""
    if task.kind == "binary":
        return BinaryHead()
    if not task.boundaries:
        raise ValueError(f"the duration task {task.name!r} has no bucket edges; the training part has one value only")
    return DURATION_HEADS[duration](task)
