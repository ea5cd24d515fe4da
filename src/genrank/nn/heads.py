"""Heads: from a candidate's vector to each task's logits, predictions and losses.

Binary tasks have one logit. A duration has one logit per bucket edge e_k, for P(t >= e_k): an ordinal distribution,
as in CREAD (arXiv 2401.07521) without its error-adaptive edges. Its mean is

    E[t] = m_0 + Σ_k P(t >= e_k) (m_k - m_{k-1}),    m_k the mean duration of bucket k in training,

and a censored duration c teaches only the edges below c. `regression` is the plain control: E[t] by squared error.

Shapes: C candidates, W width, K edges.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.embeddings import module_key
from genrank.schema import TaskSpec

DurationHead = Literal["ordinal", "regression"]


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


class OrdinalDurationHead:
    """A distribution over the training part's duration buckets."""

    def __init__(self, task: TaskSpec):
        self.edges = torch.tensor(task.boundaries, dtype=torch.float32)
        means = task.means or (*task.boundaries, task.boundaries[-1])
        self.first, self.steps = means[0], torch.tensor(means, dtype=torch.float32).diff()
        self.num_logits = len(task.boundaries)

    def predict(self, logits_CK: Tensor) -> Tensor:
        """(C) expected seconds."""
        # P(t >= e_k) falls with k; the running minimum makes it so where the logits disagree.
        at_least_CK = torch.cummin(torch.sigmoid(logits_CK), dim=-1).values
        return self.first + at_least_CK @ self.steps.to(logits_CK)

    def loss(self, logits_CK: Tensor, label_C: Tensor, censored_C: Tensor | None = None) -> Tensor:
        """(C) mean cross-entropy over the edges; NaN labels give 0."""
        reached_CK = label_C[:, None] >= self.edges.to(label_C.device)
        known_CK = ~label_C.isnan()[:, None] & torch.ones_like(reached_CK)
        if censored_C is not None:
            known_CK &= reached_CK | ~censored_C[:, None]
        loss_CK = F.binary_cross_entropy_with_logits(logits_CK, reached_CK.to(logits_CK), reduction="none")
        return torch.where(known_CK, loss_CK, 0.0).mean(-1)


class RegressionDurationHead:
    """Seconds by squared error, in units of the training part's mean: the plain control."""

    num_logits = 1

    def __init__(self, task: TaskSpec):
        means = task.means or task.boundaries
        self.scale = max(sum(means) / len(means), 1e-6)

    def predict(self, logits_C1: Tensor) -> Tensor:
        """(C) expected seconds."""
        return logits_C1.squeeze(-1).clamp_min(0) * self.scale

    def loss(self, logits_C1: Tensor, label_C: Tensor, censored_C: Tensor | None = None) -> Tensor:
        """(C) squared error; NaN labels give 0; a censored duration costs nothing where more is predicted."""
        error = logits_C1.squeeze(-1) - label_C.nan_to_num() / self.scale
        if censored_C is not None:
            error = torch.where(censored_C, error.clamp_max(0), error)
        return torch.where(label_C.isnan(), 0.0, error.square())


Head = BinaryHead | OrdinalDurationHead | RegressionDurationHead


def task_head(task: TaskSpec, duration: DurationHead) -> Head:
    """The head of a task. Raises ValueError for a duration task without bucket edges."""
    if task.kind == "binary":
        return BinaryHead()
    if not task.boundaries:
        raise ValueError(f"the duration task {task.name!r} has no bucket edges; its training part holds one value only")
    return OrdinalDurationHead(task) if duration == "ordinal" else RegressionDurationHead(task)


class SharedBottom(nn.Module):
    """One tower per task on the shared candidate vector."""

    def __init__(self, num_logits: Mapping[str, int], *, width: int, tower: int, dropout: float):
        super().__init__()
        self.names = tuple(num_logits)
        self.norm = nn.LayerNorm(width)
        self.towers = nn.ModuleDict(
            {
                module_key(name): nn.Sequential(
                    nn.Linear(width, tower), nn.GELU(), nn.Dropout(dropout), nn.Linear(tower, size)
                )
                for name, size in num_logits.items()
            }
        )

    def forward(self, x_CW: Tensor) -> dict[str, Tensor]:
        """(C, logits) per task."""
        normed = self.norm(x_CW)
        return {name: self.towers[module_key(name)](normed) for name in self.names}
