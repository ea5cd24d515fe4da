"""Queries per second of flat search in three precisions, compared with HNSW and IVF at equal recall of the true best.

Vectors are artificial: clusters of normal noise on the unit sphere, as items of a catalogue form topics, and queries
come from the same clusters. A graph or lists are searched with the smallest effort of a grid that reaches the recall;
flat search has no such setting, and its recall is higher. `batch` answers all queries in one call, `single` one at a
time.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from genrank.bench.bench_options import BenchOptions
from genrank.bench.measure import Rounds, interleave
from genrank.retrieval.faiss_search import HNSWSearch, IVFSearch, import_faiss
from genrank.retrieval.item_search import FlatSearch, Precision, Search

DEFAULT_MINUTES = 6.0
RECALLS = (0.95, 0.99)
NUM_SINGLE = 8  # queries of a single round
EFFORTS = (1, 1.5, 2, 3, 4, 6, 8)  # of HNSW: ef_search in units of k
PROBES = (4, 8, 16, 32, 64, 128, 256)
Floats = NDArray[np.float32]


def search(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Queries per second, recall, seconds to build; `int8_over_hnsw` is for the largest catalogue, at recall 0.99."""
    import_faiss()
    sizes = options.sizes
    rows: dict[str, dict[str, Any]] = {}
    ratios: dict[str, dict[str, Any]] = {}
    for count in sizes.searched:
        say(f"{count:,} items")
        items, queries = made_up(count, sizes.search_width, sizes.search_queries, seed=options.seed)
        seconds = options.seconds(DEFAULT_MINUTES, 1 / len(sizes.searched))
        found, ratios[f"{count:,} items"] = _one_size(items, queries, sizes.search_k, seconds)
        rows |= {f"{count:,} {name}": row for name, row in found.items()}
    largest = list(ratios.values())[-1]
    return {**{f"int8_over_{name}": ratio for name, ratio in largest.items()}, "int8_over": ratios, "cells": rows}


def made_up(count: int, width: int, num_queries: int, *, seed: int) -> tuple[Floats, Floats]:
    """Items and queries on the unit sphere, around a cluster per 500 items."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(count // 500, 1), width)).astype(np.float32)

    def drawn(number: int) -> Floats:
        points = random.standard_normal((number, width), np.float32)
        points += 1.5 * centers[random.integers(len(centers), size=number)]
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        return points

    return drawn(count), drawn(num_queries)


def _one_size(items: Floats, queries: Floats, k: int, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    searches: dict[str, Search] = {}
    built: dict[str, float] = {}
    for precision in get_args(Precision):
        began = time.perf_counter()
        searches[precision] = FlatSearch(items, precision=precision)
        built[precision] = time.perf_counter() - began
    true = searches["float32"](queries, k).rows
    graph, lists = _opponents(items, built)
    for recall in RECALLS:
        for name, made in ((f"HNSW at {recall}", _at_recall(graph, queries, true, recall)),
                           (f"IVF at {recall}", _at_recall(lists, queries, true, recall))):  # fmt: skip
            if made is not None:
                searches[name], built[name] = made, built[name.split()[0]]
    work = {f"batch: {name}": lambda s=s: s(queries, k) for name, s in searches.items()}
    work |= {
        f"single: {name}": lambda s=s: [s(query[None], k) for query in queries[:NUM_SINGLE]]
        for name, s in searches.items()
    }
    rounds = interleave(work, seconds=seconds)
    rows = {name: _row(name, s, rounds, queries, true, built[name]) for name, s in searches.items()}
    ratios = {
        f"{other.split()[0].lower()}{'' if other.endswith('0.99') else '_95'}{'_single' if way == 'single' else ''}":
        rounds.ratio(f"{way}: {other}", f"{way}: int8")
        for way in ("batch", "single") for other in searches if " at " in other
    }  # fmt: skip
    return rows, ratios


def _row(
    name: str, s: Search, rounds: Rounds, queries: Floats, true: NDArray[np.int64], built: float
) -> dict[str, Any]:
    return {
        "recall": recall_of(s(queries, true.shape[1]).rows, true),
        "queries_per_second": rounds.rate(f"batch: {name}", len(queries)),
        "single_ms": rounds.seconds(f"single: {name}").times(1e3 / NUM_SINGLE),
        "build_seconds": built,
        "effort": getattr(s, "effort", 0),
    }


def _opponents(items: Floats, built: dict[str, float]) -> tuple[dict[float, Search], dict[float, Search]]:
    began = time.perf_counter()
    graph = HNSWSearch(items)
    built["HNSW"] = time.perf_counter() - began
    began = time.perf_counter()
    lists = IVFSearch(items, num_lists=max(int(len(items) ** 0.5), 1))
    built["IVF"] = time.perf_counter() - began
    return {n: _Effort(graph, "ef_search", n) for n in EFFORTS}, {n: _Effort(lists, "num_probes", n) for n in PROBES}


class _Effort:
    """An approximate search with a given effort, over a shared index."""

    def __init__(self, index: HNSWSearch | IVFSearch, setting: str, effort: float):
        self.index, self.setting, self.effort = index, setting, effort

    def __call__(self, queries_QW: Floats, k: int, **filters: Any) -> Any:
        setattr(self.index, self.setting, int(self.effort * k) if self.setting == "ef_search" else int(self.effort))
        return self.index(queries_QW, k, **filters)


def _at_recall(
    efforts: Mapping[float, Search], queries: Floats, true: NDArray[np.int64], recall: float
) -> Search | None:
    """The search of least effort that reaches the recall; None if none does."""
    for made in efforts.values():
        if recall_of(made(queries, true.shape[1]).rows, true) >= recall:
            return made
    return None


def recall_of(rows: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """The share of the true best that is found."""
    return float(np.mean([len(np.intersect1d(*pair)) / len(pair[1]) for pair in zip(rows, true, strict=True)]))
