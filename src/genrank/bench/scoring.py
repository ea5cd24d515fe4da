"""How fast are candidates scored over a history that is encoded already, as a ranking service does?

One user and one request at a time. Uncached is `forward` on the same request: the history is encoded for it. A cached
request brings its candidates only; whether both give the same logits is reported as `deviation`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from genrank.batch import PackedBatch, map_arrays
from genrank.bench.machine import MatrixProducts, bench_device, settle
from genrank.bench.measure import Work, interleave
from genrank.bench.options import BenchOptions
from genrank.bench.worlds import synthetic
from genrank.data.sequence import SequenceConfig
from genrank.data.timelines import gather
from genrank.models.flops import scoring_flops
from genrank.models.sequence_ranker import SequenceRanker

OWN_MINUTES = 1.0


def scoring(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`cached_over_uncached`, `time_over_matrix_products`, `p50_ms`, `p99_ms`."""
    sizes, device = options.sizes, bench_device()
    num_history, num_candidates = sizes.scored
    say(f"{num_candidates} candidates over {num_history} past exposures")
    world = synthetic([num_history], candidates=num_candidates, num_items=sizes.items, seed=options.seed)
    sequence = SequenceConfig(max_history=num_history, max_candidates=num_candidates)
    loader = world.loader(sequence, batch_tokens=num_history + num_candidates)
    whole = loader.builder.batch(loader.samples)
    request: PackedBatch = map_arrays(candidates_only(whole), torch.from_numpy).to(device)
    both: PackedBatch = map_arrays(whole, torch.from_numpy).to(device)
    torch.manual_seed(options.seed)
    model = SequenceRanker(sizes.model, world.spec, max_history=num_history).to(device).eval()
    products = MatrixProducts(sizes.matrix, device)
    with torch.no_grad():
        state = model.encode_history(both)
        work: dict[str, Work] = {"cached": lambda: model.score(state, request), "uncached": lambda: model(both)}
        deviation = _deviation(model.score(state, request), model(both))
        rounds = interleave(
            {**work, "history": lambda: model.encode_history(both), **products.work()},
            seconds=options.seconds(OWN_MINUTES),
            settle=settle,
        )
    flops = scoring_flops(model, request, work["cached"])
    cached = np.array(rounds.taken["cached"]) * 1e3
    return {
        "cached_over_uncached": rounds.ratio("uncached", "cached"),
        "time_over_matrix_products": products.share(rounds, "cached", flops, "fp32").inverse(),
        "p50_ms": float(np.percentile(cached, 50)),
        "p99_ms": float(np.percentile(cached, 99)),
        "candidates_per_second": rounds.rate("cached", num_candidates),
        "deviation": deviation,
        "gflops": flops / 1e9,
        "rounds": len(rounds),
        "matrix_rate": products.rates(rounds),
        "cells": {name: {"ms": rounds.seconds(name).times(1e3)} for name in ("cached", "uncached", "history")},
    }


def candidates_only(batch: PackedBatch) -> PackedBatch:
    """The NumPy batch with an item table of its candidates only: what a request brings where the history is cached."""
    rows, item = np.unique(batch.candidates.item, return_inverse=True)
    items = {name: gather(column, rows) for name, column in batch.items.items()}
    return replace(batch, items=items, candidates=replace(batch.candidates, item=item))


def _deviation(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of logits."""
    return max(float((logits - theirs[name]).abs().max()) for name, logits in ours.items())
