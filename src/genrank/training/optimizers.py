"""Optimizers: AdamW for dense parameters, row-wise Adagrad for embedding tables.

Row-wise Adagrad keeps one accumulator per row and touches only the rows that were looked up, so a step costs the
batch, not the table (32,768 lookups of a 2M × 64 table: 15-25 ms on two CPU cores, a dense gradient about 200).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genrank.nn.embeddings import Table


class RowWiseAdagrad(Optimizer):
    """w[r] -= lr · g[r] / (√s[r] + ε), with s[r] the sum of the row's mean squared gradients.

    Weight decay is applied to the rows that were looked up. Takes sparse gradients only.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, eps: float = 1e-10):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps})
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["sum"] = torch.zeros(len(weight), dtype=torch.float32, device=weight.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients at hand."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, self.state[weight]["sum"], group)

    def _update(self, weight: Tensor, total: Tensor, group: dict[str, Any]) -> None:
        gradient = weight.grad.coalesce()  # type: ignore[union-attr]
        rows, values = gradient.indices()[0], gradient.values().float()
        total_rows = total[rows] + values.square().mean(1)
        total[rows] = total_rows
        step = values / (total_rows.sqrt() + group["eps"])[:, None]
        kept = weight[rows] * (1 - group["lr"] * group["weight_decay"])
        weight[rows] = kept - group["lr"] * step.to(weight.dtype)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(dense, sparse) parameters: the sparse ones are the embedding tables'."""
    sparse = [module.weight for module in model.modules() if isinstance(module, Table)]
    taken = {id(weight) for weight in sparse}
    return [weight for weight in model.parameters() if id(weight) not in taken], sparse


def dense_optimizer(params: list[nn.Parameter], *, lr: float, weight_decay: float) -> AdamW:
    """AdamW; vectors (norms, biases) are not decayed."""
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, betas=(0.9, 0.98))


def learning_rate_scale(step: int, num_steps: int, *, warmup: float, final: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine down to `final`."""
    warmup_steps = max(int(warmup * num_steps), 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
