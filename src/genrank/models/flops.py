"""How many floating-point operations does a model's mathematics ask for?

Linear layers: 2 · rows · in · out. Attention: 4 · width per pair of a query and a token that it sees (itself included):
2 for the score, 2 for the value. Nothing that is masked, padded or computed a second time counts, so the figure is the
model's and not a backend's. The backward pass counts twice the forward one: a product each for inputs and weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from genrank.batch import Candidates, PackedBatch
from genrank.models.ranker import Ranker
from genrank.models.sequence_ranker import SequenceRanker, SequenceRankerConfig
from genrank.nn.organization import tokens_per_event

BACKWARD = 2  # times the forward pass


def training_flops(model: Ranker, batch: PackedBatch) -> int:
    """Of one training step on the batch, forward and backward."""
    flops = linear_flops(model, lambda: model(batch))
    if isinstance(model, SequenceRanker):  # a pointwise ranker pools: what isn't a linear layer there is small
        flops += attention_flops(model.config, batch)
    return (1 + BACKWARD) * flops


def linear_flops(model: nn.Module, run: Callable[[], object]) -> int:
    """Forward, of all linear layers that are called while `run` runs."""
    total = 0

    def count(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        del arguments
        assert isinstance(layer, nn.Linear)
        total += 2 * output.numel() * layer.in_features

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Linear)]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def attention_flops(config: SequenceRankerConfig, batch: PackedBatch) -> int:
    """Forward, over all blocks. The last block has candidates as queries only."""
    own = batch.candidates.in_history < 0
    if not config.predicts_in_place:
        own = torch.ones_like(own)
    seen_C = seen_by_candidates(config, batch.candidates)
    inner = _seen_by_history(config, batch) + int(seen_C[own].sum())
    return 4 * config.width * ((config.num_blocks - 1) * inner + int(seen_C.sum()))


def scoring_flops(model: SequenceRanker, batch: PackedBatch, score: Callable[[], object]) -> int:
    """Forward, of candidates over a history that is encoded already; `score` scores them."""
    pairs = model.config.num_blocks * int(seen_by_candidates(model.config, batch.candidates).sum())
    return linear_flops(model, score) + 4 * model.config.width * pairs


def seen_by_candidates(config: SequenceRankerConfig, candidates: Candidates) -> torch.Tensor:
    """(C) tokens that each candidate sees, itself included."""
    seen_C: torch.Tensor = tokens_per_event(config.organization) * candidates.prefix + 1
    return seen_C


def _seen_by_history(config: SequenceRankerConfig, batch: PackedBatch) -> int:
    """Tokens that the history's tokens see, themselves included, in one block."""
    assert config.user_features != "prefix", "tokens of users are not counted"
    history = batch.history
    if config.history_mask == "full":
        return int(((tokens_per_event(config.organization) * history.offsets.diff()) ** 2).sum())
    if config.organization == "action":
        return int((history.position + 1).sum())
    items_T, actions_T = 2 * history.asked.prefix + 1, 2 * history.position + 2
    return int((items_T + actions_T).sum())
