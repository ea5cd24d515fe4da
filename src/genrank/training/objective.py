"""What a batch teaches: the trainer's view of a model and its losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from genrank.batch import PackedBatch
from genrank.models.ranker import Ranker
from genrank.schema import TaskSpec

SMALLEST = 1e-12  # of a sum of weights that is divided by


class Measured(NamedTuple):
    """By name: (N) losses; (N) labels, NaN where unknown, which say over how many a loss is averaged; (N, 1) logits.

    weight: (N) what each counts in the average, which the losses contain already; None: one.
    """

    losses: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    weight: Tensor | None = None


def num_known(label_N: Tensor, weight_N: Tensor | None) -> Tensor:
    """For how many exposures the known labels stand."""
    known = ~label_N.isnan()
    return known.sum() if weight_N is None else (known * weight_N).sum()


class Objective(Protocol):
    """`losses`: their names. `binary`: those of binary tasks, whose running AUC is worth knowing."""

    losses: tuple[str, ...]
    binary: tuple[str, ...]
    weights: Mapping[str, float]  # of the losses; 1 where one is not named

    def forward(self, batch: PackedBatch) -> Any:
        """The model's part, which may run in half precision."""

    def measure(self, result: Any, batch: PackedBatch) -> Measured:
        """The losses of `forward`'s result, in full precision."""

    def state(self) -> dict[str, Tensor]:
        """What a run that goes on needs of the objective, beside model and optimizers."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""


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
