"""Optimizers: AdamW for dense parameters, row-wise Adagrad for embedding tables.

Row-wise Adagrad keeps one accumulator per row and updates only the rows that were looked up, so the cost of a step
depends on the batch, not on the table. On CPU it is one pass in C++ (nn/native/adagrad.cpp), which also sums repeated
lookups.
"""

import ctypes
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genrank.nn.embeddings import Table
from genrank.nn.native.library import is_watched, load


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
        """One update from the current gradients."""
        assert closure is None
        for group in self.param_groups:
            plain: dict[int, list[Tensor]] = {}  # by width: tables of one width are updated together
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.device.type == "cpu" and weight.dtype == torch.float32 and load() is not None:
                    native_update(weight, self.state[weight]["sum"], **_numbers(group))
                else:
                    plain.setdefault(weight.shape[1], []).append(weight)
            for weights in plain.values():
                plain_update(weights, [self.state[weight]["sum"] for weight in weights], **_numbers(group))


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    return {name: group[name] for name in ("lr", "weight_decay", "eps")}


def plain_update(
    weights: Sequence[Tensor], totals: Sequence[Tensor], *, lr: float, weight_decay: float, eps: float
) -> None:
    """The update of tables of one width, on any device, in few operators: on CUDA each of them is a kernel launch."""
    rows, sums_ND = summed_by_row([(len(weight), weight.grad) for weight in weights if weight.grad is not None])
    counts = [len(row) for row in rows]
    total_N = torch.cat([total[row] for total, row in zip(totals, rows, strict=True)]) + sums_ND.square().mean(1)
    step_ND = lr * (sums_ND / (total_N.sqrt() + eps)[:, None])
    parts = zip(weights, totals, rows, torch.split(total_N, counts), torch.split(step_ND, counts), strict=True)
    for weight, total, row, new_total, step in parts:
        total[row] = new_total
        weight[row] = weight[row] * (1 - lr * weight_decay) - step.to(weight.dtype)


def summed_by_row(gradients: Sequence[tuple[int, Tensor]]) -> tuple[list[Tensor], Tensor]:
    """From the tables' numbers of rows and their sparse gradients: the (N) rows of every table, in order, and, over
    all tables one after another, (N, D) in float32 the sum over all lookups of the same row.

    Rows still repeat, each time with the same sum: `coalesce` would wait for the device to get the number of distinct
    rows. A row is then written as often as it was looked up, each time with the same value.
    """
    sizes, counts = [size for size, _ in gradients], [gradient._nnz() for _, gradient in gradients]
    begins = [0, *itertools.accumulate(sizes)][:-1]
    rows = torch.cat([gradient._indices()[0] + begin for (_, gradient), begin in zip(gradients, begins, strict=True)])
    rows, order = rows.sort(stable=True)
    segment_N = (rows.diff(prepend=rows.new_full((1,), -1)) > 0).cumsum(0) - 1
    values = torch.cat([gradient._values() for _, gradient in gradients]).float()[order]
    # Added up in order, on CUDA too, where index_add would add in any order.
    sums = torch.zeros_like(values).index_put_((segment_N,), values, accumulate=True)
    return [row - begin for row, begin in zip(torch.split(rows, counts), begins, strict=True)], sums[segment_N]


def native_update(weight: Tensor, total: Tensor, *, lr: float, weight_decay: float, eps: float) -> None:
    """The same update in C++, from a gradient whose rows may repeat. fp32 on CPU."""
    gradient = weight.grad
    assert gradient is not None
    rows, values = gradient._indices()[0].contiguous(), gradient._values().contiguous()
    assert weight.is_contiguous()
    if len(rows) == 0:
        return
    if rows.min() < 0 or rows.max() >= len(weight):
        raise IndexError(
            f"rows {int(rows.min())} to {int(rows.max())} are not all within the {len(weight)} of the table"
        )
    update = adagrad_step if is_watched() else _adagrad_step
    update(weight, total, rows, values, lr, weight_decay, eps)


def _adagrad_step(
    weight: Tensor, total: Tensor, rows: Tensor, values: Tensor, lr: float, weight_decay: float, eps: float
) -> None:
    """weight (I, D) and total (I) in place, from the gradients values (N, D) of rows (N), which may repeat."""
    library = load()
    assert library is not None
    library.adagrad_step(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, total, rows, values)),
        *map(ctypes.c_int64, values.shape),
        *map(ctypes.c_float, (lr, weight_decay, eps)),
        ctypes.c_int64(torch.get_num_threads()),
    )


adagrad_step = torch.library.custom_op(
    "genrank::adagrad_step", _adagrad_step, mutates_args=("weight", "total"), device_types="cpu"
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
