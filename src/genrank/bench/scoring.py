"""The time to score candidates over a history that is encoded already, as in a ranking service.

One user and one request at a time. Uncached is `forward` on the same request, which encodes the history too. A cached
request has its candidates only; `deviation` is the difference between the logits of both. Growth with the size is
measured for the recipe `genrank`, and beside it for the recipe `din`, the production ranker with target attention, with
the same candidates and the same history, which it can't encode ahead.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from genrank.batch import PackedBatch, map_arrays
from genrank.bench.bench_options import BenchOptions, Size
from genrank.bench.machine import MatrixProducts, bench_device, settle
from genrank.bench.measure import Rounds, Work, interleave
from genrank.bench.worlds import synthetic
from genrank.data.sequence import SequenceConfig
from genrank.data.timelines import gather
from genrank.models.flops import linear_flops
from genrank.models.pointwise_ranker import PointwiseRanker
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.models.sequence_flops import scoring_attention_flops
from genrank.models.sequence_ranker import SequenceRanker

DEFAULT_MINUTES = 4.0
GROWTH_SHARE = 0.75  # of the time, for all sizes of the growth together


def scoring(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`cached_over_uncached`, `time_over_matrix_products`, `p50_ms`, `p99_ms`, and how they grow, DIN beside them."""
    sizes = options.sizes
    num_history, num_candidates = sizes.scored
    say(f"{num_candidates} candidates over {num_history} past exposures")
    one = _Case.of(sizes, sizes.model, num_history, num_candidates, options.seed)
    products = MatrixProducts(sizes.matrix, bench_device())
    rounds = interleave(
        {**one.work(), **products.work()}, seconds=options.seconds(DEFAULT_MINUTES, 1 - GROWTH_SHARE), settle=settle
    )
    attention = scoring_attention_flops(one.genrank.config, one.request)
    flops = linear_flops(one.genrank, one.work()["cached"]) + attention
    return {
        "cached_over_uncached": rounds.ratio("uncached", "cached"),
        "time_over_matrix_products": products.share(rounds, "cached", flops, "fp32").inverse(),
        **_percentiles(rounds, "cached"),
        "candidates_per_second": rounds.rate("cached", num_candidates),
        "deviation": one.deviation(),
        "gflops": flops / 1e9,
        "rounds": len(rounds),
        "matrix_rate": products.rates(rounds),
        "cells": {name: {"ms": rounds.seconds(name).times(1e3)} for name in one.work()},
        "growth": _growth(options, say),
    }


def _growth(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """By candidates at the usual history, then by events at the usual candidates."""
    sizes = options.sizes
    history, candidates = sizes.scored
    cases = [(history, count) for count in sizes.scored_candidates]
    cases += [(length, candidates) for length in sizes.scored_histories if length != history]
    rows = {}
    for length, count in cases:
        say(f"{count} candidates over {length} past exposures")
        one = _Case.of(sizes, sizes.generative, length, count, options.seed)
        seconds = options.seconds(DEFAULT_MINUTES, GROWTH_SHARE / len(cases))
        rounds = interleave(one.work(), seconds=seconds, settle=settle)
        ours, theirs = _percentiles(rounds, "cached"), _percentiles(rounds, "din")
        rows[f"{count} over {length}"] = {
            **ours,
            "din_p50_ms": theirs["p50_ms"],
            "din_p99_ms": theirs["p99_ms"],
            "over_din": rounds.ratio("cached", "din"),
            "p99_over_din": ours["p99_ms"] / theirs["p99_ms"],
            "cached_over_uncached": rounds.ratio("uncached", "cached"),
        }
    return rows


@dataclass(frozen=True)
class _Case:
    """A request of one user, for GenRank with and without its cache and for DIN."""

    genrank: SequenceRanker
    din: PointwiseRanker
    whole: PackedBatch
    request: PackedBatch  # candidates only

    @classmethod
    def of(cls, sizes: Size, model: SequenceRankerConfig, num_history: int, num_candidates: int, seed: int) -> "_Case":
        device = bench_device()
        world = synthetic([num_history], candidates=num_candidates, num_items=sizes.items, seed=seed)
        sequence = SequenceConfig(max_history=num_history, max_candidates=num_candidates)
        loader = world.loader(sequence, batch_tokens=num_history + num_candidates)
        whole = loader.builder.batch(loader.samples)
        torch.manual_seed(seed)
        return cls(
            genrank=SequenceRanker(model, world.spec, max_history=num_history).to(device).eval(),
            din=PointwiseRanker(sizes.pointwise, world.spec).to(device).eval(),
            whole=map_arrays(whole, torch.from_numpy).to(device),
            request=map_arrays(candidates_only(whole), torch.from_numpy).to(device),
        )

    def work(self) -> dict[str, Work]:
        """The pieces of work that are timed; the history of `cached` is encoded here."""
        with torch.no_grad():
            state = self.genrank.encode_history(self.whole)
        work: dict[str, Work] = {
            "cached": lambda: self.genrank.score(state, self.request),
            "uncached": lambda: self.genrank(self.whole),
            "history": lambda: self.genrank.encode_history(self.whole),
            "din": lambda: self.din(self.whole),
        }
        return {name: torch.no_grad()(run) for name, run in work.items()}

    def deviation(self) -> float:
        """The largest difference between cached and uncached logits."""
        work = self.work()
        ours, theirs = work["cached"](), work["uncached"]()
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        return max(float((logits - theirs[name]).abs().max()) for name, logits in ours.items())


def candidates_only(batch: PackedBatch) -> PackedBatch:
    """The NumPy batch with an item table of its candidates only, as in a request whose history is cached."""
    rows, item = np.unique(batch.candidates.item, return_inverse=True)
    items = {name: gather(column, rows) for name, column in batch.items.items()}
    return replace(batch, items=items, candidates=replace(batch.candidates, item=item))


def _percentiles(rounds: Rounds, name: str) -> dict[str, float]:
    taken = np.array(rounds.taken[name]) * 1e3
    return {f"p{share}_ms": float(np.percentile(taken, share)) for share in (50, 99)}
