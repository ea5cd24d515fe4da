"""How fast does a log become timelines, how fast do timelines become batches, and does training wait for batches?

The data is a simulated feed. The loader is timed over a whole epoch of some samples, so that batches built in the
background count too. It is compared with the training step of the size's model on batches of the same epoch.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrank.bench.bench_options import BenchOptions
from genrank.bench.feeds import prepare_feed
from genrank.bench.machine import settle
from genrank.bench.measure import Figure, Rounds, Work, interleave
from genrank.bench.steps import Steps, num_exposures
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig, take
from genrank.simulation import simulate

DEFAULT_MINUTES = 1.0
LOADED_BATCHES = 16  # of a timed epoch
NUM_STEPS = 2  # batches whose steps are timed


def data(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`prepare_exposures_per_second`, the loader's, and `loader_over_step`."""
    with tempfile.TemporaryDirectory() as folder:
        say("simulating")
        summary = simulate(replace(options.sizes.world, seed=options.seed), Path(folder) / "feed")
        say("preparing")
        preparing = _prepare(Path(folder), options)
        feed = PreparedData.load(Path(folder) / "data0")
    say("loading against training")
    return {
        "prepare_exposures_per_second": preparing.rate("prepare", summary.num_exposures),
        "prepared_exposures": summary.num_exposures,
        **_loader_against_step(feed, options),
    }


def _prepare(folder: Path, options: BenchOptions) -> Rounds:
    number = iter(range(1000))
    return interleave(
        {"prepare": lambda: prepare_feed(folder / "feed", folder / f"data{next(number)}")},
        seconds=options.seconds(DEFAULT_MINUTES, 0.3),
        min_rounds=2,
        max_rounds=10,
    )


def _loader_against_step(feed: PreparedData, options: BenchOptions) -> dict[str, Any]:
    sizes = options.sizes
    builder = feed.builder(SequenceConfig(max_history=sizes.max_history, grouping="user"))
    config = LoaderConfig(batch_tokens=sizes.batch_tokens, seed=options.seed)
    whole = Loader(builder, feed.part(builder, "train"), config)
    chosen = np.concatenate(whole.plan()[:LOADED_BATCHES])
    loader = Loader(builder, take(whole.samples, chosen), config)
    exposures, batches = len(loader.samples.candidates), list(loader)
    tokens = sum(sizes.model.num_tokens(batch) for batch in batches)
    steps = Steps(sizes.model, loader, batches[:NUM_STEPS], seed=options.seed)
    work: dict[str, Work] = {"loader": lambda: list(loader), "steps": steps.train_on_all}
    rounds = interleave(work, seconds=options.seconds(DEFAULT_MINUTES, 0.6), settle=settle)
    trained = num_exposures(steps.batches)
    ratio: Figure = rounds.ratio("steps", "loader").times(exposures / trained)
    return {
        "loader_exposures_per_second": rounds.rate("loader", exposures),
        "loader_tokens_per_second": rounds.rate("loader", tokens),
        "step_exposures_per_second": rounds.rate("steps", trained),
        "loader_over_step": ratio,
        "batch_ms": rounds.seconds("loader").times(1e3 / len(batches)),
        "batches": len(batches),
        "rounds": len(rounds),
    }
