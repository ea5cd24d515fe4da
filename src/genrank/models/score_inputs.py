"""The inputs of scoring after features were embedded: tensors of three lengths.

The computation before depends on any number of features of any length. The computation after depends only on the model
and the numbers of sequences, candidates and context tokens, so that an accelerator can run it as one graph.

Shapes: B sequences, C candidates, X context tokens, W width, P of PPNet's prior.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from genrank.nn.attention import Queries, Tokens
from genrank.nn.blocks import KeysValues

Rows = Literal["offsets", "candidates", "context"]  # what a tensor's first dimension counts: B + 1, C or X


@dataclass(frozen=True)
class ScoreInputs:
    """Candidates' vectors and positions, and the keys and values that they attend to."""

    offsets: Tensor  # (B + 1) int64, candidates of every sequence
    prefix_C: Tensor  # int64, context tokens of its sequence that the candidate sees
    time_C: Tensor  # int64 seconds, of the request
    slot_C: Tensor  # int64
    x_CW: Tensor  # input of the first block
    beside: tuple[Tensor, ...]  # (C, W) each: added to a candidate's vector after the blocks
    prior_CP: Tensor | None  # None where no tower reads it
    context: Tokens  # X tokens
    keys_values: tuple[KeysValues, ...]  # per block

    @property
    def queries(self) -> Queries:
        """The candidates as queries."""
        return Queries(Tokens(self.offsets, self.prefix_C, self.time_C), self.prefix_C, self.time_C)

    def map(self, function: Callable[[Rows, Tensor], Tensor]) -> "ScoreInputs":
        """The same with `function` applied to every tensor, in a fixed order."""

        def of_candidates(tensor: Tensor) -> Tensor:
            return function("candidates", tensor)

        def of_context(tensor: Tensor) -> Tensor:
            return function("context", tensor)

        context = self.context
        return ScoreInputs(
            offsets=function("offsets", self.offsets),
            prefix_C=of_candidates(self.prefix_C),
            time_C=of_candidates(self.time_C),
            slot_C=of_candidates(self.slot_C),
            x_CW=of_candidates(self.x_CW),
            beside=tuple(of_candidates(tensor) for tensor in self.beside),
            prior_CP=None if self.prior_CP is None else of_candidates(self.prior_CP),
            context=Tokens(
                function("offsets", context.offsets), of_context(context.position), of_context(context.time)
            ),
            keys_values=tuple(KeysValues(of_context(k), of_context(v)) for k, v in self.keys_values),
        )
