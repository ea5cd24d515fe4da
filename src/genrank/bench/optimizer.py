"""The time of a step of row-wise Adagrad, compared with the gather that every lookup needs.

One table, with as many lookups as in a batch, some 57 % of them distinct. PyTorch's optimizers are measured beside it:
SparseAdam on the same sparse gradient, and Adagrad on a dense one, if there is enough memory.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer, SparseAdam

from genrank.bench.bench_options import BenchOptions
from genrank.bench.machine import bench_device, settle
from genrank.bench.measure import Work, interleave
from genrank.training.optimizers import RowWiseAdagrad

DEFAULT_MINUTES = 0.5
ZIPF = 0.957  # density 1 / rank^ZIPF: 18.7k distinct rows in 32,768 lookups of 2 million
DENSE_TABLES = 4  # tables that a dense step needs: weights, gradient, state, and a temporary one


def optimizer(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`step_over_gather`, and the same ratio for PyTorch's optimizers."""
    sizes, device = options.sizes, bench_device()
    num_rows, dim = sizes.table
    say(f"{sizes.lookups:,} lookups into {num_rows:,} × {dim}")
    index = zipf_rows(num_rows, sizes.lookups, seed=options.seed)
    index_N, values_ND = torch.from_numpy(index).to(device), torch.randn(sizes.lookups, dim, device=device)
    table = torch.randn(num_rows, dim, device=device)
    work: dict[str, Work] = {"gather": lambda: table[index_N]}
    work["step"] = _sparse_step(RowWiseAdagrad, table, index_N, values_ND, lr=0.05)
    work["sparse_adam"] = _sparse_step(SparseAdam, table, index_N, values_ND, lr=1e-3)
    if DENSE_TABLES * table.nbytes < 0.25 * _memory(device):
        work["dense_adagrad"] = _dense_step(table, index_N, values_ND)
    rounds = interleave(work, seconds=options.seconds(DEFAULT_MINUTES), settle=settle)
    ratios = {f"{name}_over_gather": rounds.ratio(name, "gather") for name in work if name != "gather"}
    return ratios | {
        "lookups": sizes.lookups,
        "distinct": len(np.unique(index)),
        "table_rows": num_rows,
        "table_dim": dim,
        "rounds": len(rounds),
        "cells": {name: {"ms": rounds.seconds(name).times(1e3)} for name in work},
    }


def zipf_rows(num_rows: int, count: int, *, seed: int) -> np.ndarray:
    """(count) int64 rows, popular ones first, by the inverse of the distribution's integral."""
    rest = 1 - ZIPF
    uniform = np.random.default_rng(seed).random(count)
    rank = (uniform * (num_rows**rest - 1) + 1) ** (1 / rest)
    rows: np.ndarray = np.minimum(rank.astype(np.int64), num_rows) - 1
    return rows


def _sparse_step(
    kind: Callable[..., Optimizer], table: Tensor, index_N: Tensor, values_ND: Tensor, *, lr: float
) -> Work:
    """A step from the gradient of the backward pass: a row per lookup, repeated rows not yet summed."""
    weight = nn.Parameter(table)  # shares the table's memory: the optimizers change weights in place
    steps = kind([weight], lr=lr)

    def step() -> None:
        weight.grad = torch.sparse_coo_tensor(index_N[None], values_ND, table.shape, check_invariants=False)
        steps.step()

    return step


def _dense_step(table: Tensor, index_N: Tensor, values_ND: Tensor) -> Work:
    weight = nn.Parameter(table)
    steps = Adagrad([weight], lr=0.05)

    def step() -> None:
        weight.grad = torch.zeros_like(table).index_add_(0, index_N, values_ND)
        steps.step()
        weight.grad = None

    return step


def _memory(device: torch.device) -> int:
    """Bytes of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
