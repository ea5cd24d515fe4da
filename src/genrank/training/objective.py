"""Objectives: the trainer's view of a model and its losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from genrank.batch import PackedBatch
from genrank.models.ranker import Ranker
from genrank.schema import TaskSpec

SMALLEST = 1e-12  # of a sum of weights that is divided by


class Measured(NamedTuple):
    """By name: (N) losses; (N) labels, NaN if unknown (a loss is averaged over the known ones); (N, 1) logits.

    weight: (N) weights in the average, already multiplied into the losses; None: all 1.
    """

    losses: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    weight: Tensor | None = None


def num_known(label_N: Tensor, weight_N: Tensor | None) -> Tensor:
    """The number of exposures with known labels, weighted if the losses are."""
    known = ~label_N.isnan()
    return known.sum() if weight_N is None else (known * weight_N).sum()


class Objective(Protocol):
    """`losses`: their names. `binary`: the names of binary tasks, for which a running AUC is computed."""

    losses: tuple[str, ...]
    binary: tuple[str, ...]
    weights: Mapping[str, float]  # of the losses; 1 for a loss without an entry

    def forward(self, batch: PackedBatch) -> Any:
        """The model's part, which may run in half precision."""

    def measure(self, result: Any, batch: PackedBatch) -> Measured:
        """The losses of `forward`'s result, in full precision."""

    def state(self) -> dict[str, Tensor]:
        """The state that a resumed run needs of the objective, beside model and optimizers."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`."""


class RankingObjective:
    """Every task's loss on every candidate."""

    def __init__(self, model: Ranker, weights: Mapping[str, float]):
        self.model, self.weights = model, weights
        tasks: tuple[TaskSpec, ...] = model.spec.tasks
        self.losses = tuple(task.name for task in tasks)
        self.binary = tuple(task.name for task in tasks if task.kind == "binary")

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits per task."""
        return {name: value.float() for name, value in self.model(batch).items()}

    def measure(self, result: dict[str, Tensor], batch: PackedBatch) -> Measured:
        """See Objective."""
        c = batch.candidates
        return Measured(self.model.loss(result, batch), c.labels, result, c.weight)

    def state(self) -> dict[str, Tensor]:
        """See Objective: nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See Objective."""
