"""Optimizers: AdamW for dense parameters, row-wise Adagrad for embedding tables.

Row-wise Adagrad keeps one accumulator per row and touches only the rows that were looked up, so a step costs the
batch, not the table. On CPU it is one pass in C++ (nn/native/adagrad.cpp), which sums repeated lookups as it goes.
"""

import ctypes
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genrank.nn.embeddings import Table
from genrank.nn.native.library import load


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
        assert weight.grad is not None
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and load() is not None:
            native_update(weight, total, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"])
        else:
            self._plain_update(weight, total, group)

    def _plain_update(self, weight: Tensor, total: Tensor, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        rows, values = summed_by_row(weight.grad)
        total_rows = total[rows] + values.square().mean(1)
        total[rows] = total_rows
        step = values / (total_rows.sqrt() + group["eps"])[:, None]
        kept = weight[rows] * (1 - group["lr"] * group["weight_decay"])
        weight[rows] = kept - group["lr"] * step.to(weight.dtype)


def summed_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """(N) rows of a sparse gradient in order, and (N, D) in float32 the sum over all lookups of the same row.

    Rows still repeat, each time with the same sum: how many are different, `coalesce` would have to ask the device.
    What is then written to a row is the same number as often as it was looked up.
    """
    rows, order = gradient._indices()[0].sort(stable=True)
    is_first = rows.diff(prepend=rows.new_full((1,), -1)) > 0
    segment_N = is_first.cumsum(0) - 1
    values = gradient._values().float()[order]
    # Added up in order, on CUDA too, where index_add would add in any order.
    sums = torch.zeros_like(values).index_put_((segment_N,), values, accumulate=True)
    return rows, sums[segment_N]


def native_update(weight: Tensor, total: Tensor, *, lr: float, weight_decay: float, eps: float) -> None:
    """The same update in C++, from a gradient whose rows may repeat. fp32 on CPU."""
    gradient, library = weight.grad, load()
    assert gradient is not None
    assert library is not None
    rows, values = gradient._indices()[0].contiguous(), gradient._values().contiguous()
    assert weight.is_contiguous()
    if len(rows) == 0:
        return
    if rows.min() < 0 or rows.max() >= len(weight):
        raise IndexError(
            f"rows {int(rows.min())} to {int(rows.max())} are not all within the {len(weight)} of the table"
        )
    library.adagrad_step(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, total, rows, values)),
        *map(ctypes.c_int64, values.shape),
        *map(ctypes.c_float, (lr, weight_decay, eps)),
        ctypes.c_int64(torch.get_num_threads()),
    )


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
    return AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def learning_rate_scale(step: int, num_steps: int, *, warmup: float, final: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine down to `final`."""
    warmup_steps = max(int(warmup * num_steps), 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
