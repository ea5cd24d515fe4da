"""The benchmarks by name, and the parts of every result: machine, size and figures."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from genrank.bench.attention_speed import attention
from genrank.bench.bench_options import BenchOptions
from genrank.bench.data import data
from genrank.bench.decomposed import decomposed
from genrank.bench.machine import describe
from genrank.bench.optimizer import optimizer
from genrank.bench.retrieve import retrieve
from genrank.bench.scoring import scoring
from genrank.bench.search_speed import search
from genrank.bench.serving import serving
from genrank.bench.training import training

Say = Callable[[str], None]

BENCHES: Mapping[str, Callable[[BenchOptions, Say], dict[str, Any]]] = {
    "attention": attention,
    "training": training,
    "data": data,
    "optimizer": optimizer,
    "scoring": scoring,
    "serve": serving,
    "decomposed": decomposed,
    "search": search,
    "retrieve": retrieve,
}


def run_bench(options: BenchOptions, say: Say = lambda _: None) -> dict[str, Any]:
    """The figures as plain values; those with a spread are {"value", "low", "high"}: median and quartiles.

    say: called with the name of what is measured next.
    """
    figures = BENCHES[options.name](options, say)
    return {"bench": options.name, "size": options.size, "seed": options.seed, "machine": describe(), **_plain(figures)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
