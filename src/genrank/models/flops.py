"""The number of floating-point operations that a model's equations need.

Linear layers: 2 · rows · in · out. Attention: 4 · width per pair of a query and a token that it sees (itself included):
2 for the score, 2 for the value. Masked, padded and repeated computations don't count, so the figure is the same for
every backend. The backward pass counts twice the forward pass: a product each for inputs and weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from genrank.batch import PackedBatch
from genrank.models.ranker import Ranker

BACKWARD = 2  # times the forward pass


def training_flops(model: Ranker, batch: PackedBatch) -> int:
    """Operations of one training step on the batch, forward and backward."""
    return (1 + BACKWARD) * (linear_flops(model, lambda: model(batch)) + model.attention_flops(batch))


def linear_flops(model: nn.Module, run: Callable[[], object]) -> int:
    """Operations of the forward passes of all linear layers that `run` calls."""
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
