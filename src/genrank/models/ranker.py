"""Ranker: the interface of every model that scores a request's candidates. The other modules have its families.

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
    """`forward` equals `score` over `encode_history`, up to rounding.

    extends_history: the state of a history can be cut to its first events and extended by later ones.
    num_reencoded_events: how many of the last encoded events are valid at their request's time only.
    capturable: `score` has two halves, the second without reads from the device, so that a CUDA graph can capture it.
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
        """The state of the batch's histories; its candidates are not used."""

    @abstractmethod
    def score(self, state: Any, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits of the batch's candidates over histories that were encoded before; its own history is not used."""

    def extend_history(self, state: Any, batch: PackedBatch) -> Any:
        """`state` extended by the events of the batch's history, if the model `extends_history`."""
        raise NotImplementedError

    def prepare_score(self, state: Any, batch: PackedBatch) -> ScoreInputs:
        """The first half of `score`, if the model is `capturable`: features become vectors."""
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
        """Floating-point operations of attention in a forward pass, see flops.py. 0: negligible."""
        del batch
        return 0


def build_ranker(config: RankerConfig, spec: DataSpec, *, max_history: int) -> Ranker:
    """The model of a configuration. ValueError if the data lacks what the configuration needs."""
    config.check(spec)
    return cast(Ranker, config.build(spec, max_history=max_history))
