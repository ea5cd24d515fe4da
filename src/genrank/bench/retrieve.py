"""The time of a whole retrieval, its parts, and how it grows with the number of candidates of the ranker.

One user and one request at a time, as in GRank's paper: a generator over the last events, a flat int8 search among all
items, a cross-attention ranker over a long history. The model is not trained, which makes no difference to the time.
"""

from collections.abc import Callable
from itertools import cycle
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from genrank.bench.bench_options import BenchOptions
from genrank.bench.machine import bench_device
from genrank.bench.measure import figure, interleave
from genrank.bench.worlds import World, synthetic
from genrank.data.sequence import SequenceConfig
from genrank.inference.histories import Histories, UserHistory
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest
from genrank.retrieval.item_vectors import embed_all
from genrank.retrieval.live_search import LiveIndex
from genrank.retrieval.retriever import Retriever

DEFAULT_MINUTES = 3.0
NUM_USERS = 16
PARTS = ("encode", "search", "rank")


def retrieve(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`p50_ms` and `p99_ms` with the model's number of candidates; with others also the medians of the parts."""
    sizes = options.sizes
    say(f"{sizes.retrieved_items:,} items")
    engine, latest = _engine(options)
    users = cycle(f"u{number}" for number in range(NUM_USERS))
    parts: dict[int, list[dict[str, float]]] = {count: [] for count in sizes.retrieved_candidates}

    def call(count: int) -> None:
        request = RetrieveRequest(user=next(users), time=latest, k=sizes.search_k)
        (found,) = engine.retrieve([request], num_candidates=count)
        parts[count].append(dict(found.seconds))

    work = {str(count): lambda count=count: call(count) for count in parts}
    rounds = interleave(work, seconds=options.seconds(DEFAULT_MINUTES), max_rounds=10_000)
    rows: dict[str, dict[str, Any]] = {}
    for count, seconds in parts.items():
        taken = np.array(rounds.taken[str(count)]) * 1e3
        rows[f"{count} candidates"] = {
            "p50_ms": float(np.percentile(taken, 50)),
            "p99_ms": float(np.percentile(taken, 99)),
            **{f"{part}_ms": figure([1e3 * each[part] for each in seconds]) for part in PARTS},
        }
    own = rows[f"{engine.model.config.num_candidates} candidates"]
    return {"p50_ms": own["p50_ms"], "p99_ms": own["p99_ms"], "rounds": len(rounds), "cells": rows}


def _engine(options: BenchOptions) -> tuple[RetrievalEngine, int]:
    """The engine over users with long histories in memory, and a time just after these."""
    sizes, device = options.sizes, bench_device()
    config = sizes.retriever
    window = sizes.auxiliary[0]
    world = synthetic(
        [config.ranker_events + 2 * window] * NUM_USERS,
        candidates=1,
        num_items=sizes.retrieved_items,
        seed=options.seed,
    )
    torch.manual_seed(options.seed)
    model = Retriever(config, world.spec, max_history=window).to(device).eval()
    rows = np.arange(1, len(world.items))
    index = LiveIndex(
        rows,
        embed_all(model, world.items, rows).cpu().numpy(),
        vectors=lambda embedded: model.vectors(torch.from_numpy(embedded)).numpy(),
        precision="int8",
    )
    engine = RetrievalEngine(
        model,
        SequenceConfig(max_history=window),
        histories=cast(Any, _Histories(world)),
        index=index,
        device=device,
    )
    return engine, int(world.timelines.time.max()) + 1


class _Histories:
    """Users' histories in memory, instead of those of a prepared folder."""

    builder = Histories.builder

    def __init__(self, world: World):
        self.spec, self.user_table = world.spec, world.users
        everything = np.ones(len(world.items), np.bool_)
        self.catalogue = SimpleNamespace(table=world.items, available=everything)
        unknown = {feature.name: np.zeros(1, np.int32) for feature in world.spec.of("exposure")}
        self.context = SimpleNamespace(encode=lambda *_: unknown)
        timelines = [world.timelines.of_user(index) for index in range(NUM_USERS)]
        self.known = {
            f"u{index}": UserHistory(
                user=f"u{index}", row=index + 1, timeline=each, stamps=np.zeros((each.num_exposures, 3), np.int64)
            )
            for index, each in enumerate(timelines)
        }

    def of(self, user: str) -> UserHistory:
        """See Histories."""
        return self.known[user]
