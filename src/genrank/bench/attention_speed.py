"""How fast is one layer's attention in every backend, how near to the matrix rate, and how does its memory grow?

`forward` and `training` (forward and backward) are times of a layer; `first` is the time to build the backend, once per
batch, and compute its first layer. Rates count visible pairs only (models/flops.py). A backend that can't run a case is
left out, and `skipped` has the reason. `deviation` is the largest difference from plain attention, as a share of the
largest value.
"""

from collections.abc import Callable, Mapping
from math import log2
from typing import Any

import numpy as np
import torch

from genrank.bench.bench_options import BenchOptions
from genrank.bench.layers import CASES, GROWING, Layer, growing_layer, layer_of
from genrank.bench.machine import MatrixProducts, Precision, bench_device, settle
from genrank.bench.measure import Rounds, Work, interleave
from genrank.bench.peak_memory import peak_memory
from genrank.models.flops import BACKWARD
from genrank.nn.backends import BACKENDS

DEFAULT_MINUTES = 4.0
CANNOT = (ValueError, NotImplementedError, RuntimeError, AssertionError, ImportError, OSError)


def attention(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures per backend and case, and peak memory per history length with its growth exponent."""
    cells: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    skipped: list[dict[str, str]] = []
    seconds = options.seconds(DEFAULT_MINUTES, 0.7 / len(CASES))
    for case in CASES:
        say(case)
        layer = layer_of(case, options)
        backends = _runnable(layer, case, skipped)
        products = MatrixProducts(options.sizes.matrix, bench_device())
        rounds = interleave(_work(layer, backends) | products.work(), seconds=seconds, settle=settle)
        rates = products.rates(rounds)
        cells |= {f"{backend}: {case}": _cell(layer, backend, rounds, products) for backend in backends}
    say("memory")
    growing = tuple(name for name in cells if name.split(": ", 1)[1] in GROWING)
    peaks = {name: peak / 2**20 for name, peak in peak_memory(_memory_work, options, tuple(cells), growing).items()}
    for name, cell in cells.items():
        cell["peak_mib"] = peaks[name]
    by_length = {name: {n: peaks[f"{name}: {n}"] for n in options.sizes.growth} for name in growing}
    return {
        "matrix_rate": rates,
        "cells": cells,
        "memory_mib": {name: {f"{n} tokens": peak for n, peak in row.items()} for name, row in by_length.items()},
        "memory_exponent": {name: growth_exponent(row) for name, row in by_length.items()},
        "skipped": skipped,
    }


def growth_exponent(peaks: Mapping[int, float]) -> float:
    """p of memory ~ length^p, by least squares over the logarithms: 1 is linear, 2 quadratic."""
    slope: float = np.polyfit([log2(n) for n in peaks], [log2(peak) for peak in peaks.values()], 1)[0]
    return float(slope)


def _runnable(layer: Layer, case: str, skipped: list[dict[str, str]]) -> list[str]:
    """The backends that compute the layer, forward and backward, on this device."""
    found = []
    for name in BACKENDS:
        if name == "reference":
            continue  # one query at a time: for reading and tests
        try:
            layer.training(name)()
        except CANNOT as problem:
            reason = str(problem).partition("\n")[0] or "it can't compute this kind of attention"
            skipped.append({"backend": name, "case": case, "reason": reason})
        else:
            found.append(name)
    return found


def _work(layer: Layer, backends: list[str]) -> dict[str, Work]:
    work: dict[str, Work] = {}
    for name in backends:
        work[f"{name}: forward"] = layer.forward(name)
        work[f"{name}: training"] = layer.training(name)
        work[f"{name}: first"] = layer.first(name)
    return work


def _cell(layer: Layer, name: str, rounds: Rounds, products: MatrixProducts) -> dict[str, Any]:
    precision: Precision = "bf16" if layer.dtype == torch.bfloat16 else "fp32"
    flops = {"forward": layer.flops, "training": (1 + BACKWARD) * layer.flops}
    cell: dict[str, Any] = {}
    for kind, count in flops.items():
        cell[f"{kind}_ms"] = rounds.seconds(f"{name}: {kind}").times(1e3)
        cell[f"{kind}_gflops"] = rounds.rate(f"{name}: {kind}", count / 1e9)
        cell[f"{kind}_share"] = products.share(rounds, f"{name}: {kind}", count, precision)
    cell["first_ms"] = rounds.seconds(f"{name}: first").times(1e3)
    cell["deviation"] = layer.deviation(name)
    return cell


def _memory_work(options: BenchOptions, names: tuple[str, ...], growing: tuple[str, ...]) -> dict[str, Work]:
    """Building, forward and backward of each `backend: case`; called in the process whose memory is measured.

    growing: names that are repeated over one history of each of the size's lengths.
    """
    work: dict[str, Work] = {}
    for name in names:
        backend, case = name.split(": ", 1)
        work[name] = layer_of(case, options).whole(backend)
        for length in options.sizes.growth if name in growing else ():
            work[f"{name}: {length}"] = growing_layer(case, length, options).whole(backend)
    return work
