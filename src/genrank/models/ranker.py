"""Ranker: the interface of every model that scores a request's candidates. Its families are in the modules beside.

Shapes: C candidates.
"""

from abc import abstractmethod
from typing import Any, cast

from torch import Tensor, nn

from genrank.batch import PackedBatch
from genrank.models.inputs import RankerConfig
from genrank.models.outputs import Outputs
from genrank.models.score_inputs import ScoreInputs
from genrank.schema import DataSpec


class Ranker(nn.Module):
    """`forward` equals `score` over `encode_history`, to rounding.

    extends_history: what is encoded holds for a history's first events too, and more can be put behind it.
    num_reencoded_events: the last ones of what is encoded hold for their request's time only.
    capturable: `score` has two halves, of which the second asks its device nothing, so that a CUDA graph can hold it.
    """

    config: RankerConfig
    spec: DataSpec
    outputs: Outputs
    extends_history: bool = False
    capturable: bool = False
    num_reencoded_events: int = 0

    @abstractmethod
    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits per task, (C, logits of the task's head)."""

    @abstractmethod
    def encode_history(self, batch: PackedBatch) -> Any:
        """The batch's histories; its candidates are not looked at."""

    @abstractmethod
    def score(self, state: Any, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits of the batch's candidates over histories that were encoded before; its history is not looked at."""

    def extend_history(self, state: Any, batch: PackedBatch) -> Any:
        """`state` with the events of the batch's history behind it, where the model `extends_history`."""
        raise NotImplementedError

    def prepare_score(self, state: Any, batch: PackedBatch) -> ScoreInputs:
        """The first half of `score`, where the model is `capturable`: features become vectors."""
        raise NotImplementedError

    def score_prepared(self, inputs: ScoreInputs) -> dict[str, Tensor]:
        """The second half of `score`: the blocks and heads. Its kernels depend on the inputs' sizes only."""
        raise NotImplementedError

    def predict(self, logits: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
        """(C) per task: a probability, or expected seconds."""
        return self.outputs.predict(logits, batch)

    def loss(self, logits: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
        """(C) per task: each candidate's loss, 0 where its label is unknown."""
        return self.outputs.loss(logits, batch)

    def attention_flops(self, batch: PackedBatch) -> int:
        """Floating-point operations of a forward pass outside of linear layers: see flops.py. 0: hardly any."""
        del batch
        return 0


def build_ranker(config: RankerConfig, spec: DataSpec, *, max_history: int) -> Ranker:
    """The model of a configuration. ValueError where the data lacks what it asks for."""
    config.check(spec)
    return cast(Ranker, config.build(spec, max_history=max_history))
