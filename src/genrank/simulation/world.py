"""`simulate`: from a WorldConfig to a folder with a log, its side tables, its schema and the true probabilities.

    out/exposures/part-NNNN.parquet   one row per exposure; a part holds some users over the whole period
    out/items.parquet  content.npy    one row per item, in order of publication
    out/users.parquet                 one row per user
    out/schema.toml                   the LogSchema
    out/world.json                    configuration and summary

If actions can be late (`late_share`, `prefetched_share`), `click_time`, `like_time` and `follow_time` are the times of
the actions, null without an action, and `known_at` is the time at which all actions of an exposure were known.

Columns of the exposures besides ids, `request_id`, `timestamp` (of the request, seconds) and `position`: `device`,
`item_age_hours`, the actions `click`, `like`, `follow` (0 or 1), `dwell_ms` (null without a click), `dwell_censored`
(the dwell was cut off, or longer than the client counts), `is_random` (the items are random), and `p_click`, `p_like`,
`p_follow`: the probability of each action given the state of the simulation at the exposure.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.config import to_dict
from genrank.folders import new_folder, refuse_occupied
from genrank.simulation.feed import Shard
from genrank.simulation.oracle import StreamingAuc
from genrank.simulation.simulated_items import SimulatedItems
from genrank.simulation.world_config import WorldConfig
from genrank.simulation.writer import BINARY_TASKS, UserTable, schema_toml, write_exposures, write_items, write_json

Array = NDArray[Any]
Progress = Callable[[float], None]

_SHARD_EXPOSURES = 1_000_000  # about; bounds the memory at some 400 MB


@dataclass(frozen=True, kw_only=True)
class SimulationSummary:
    """Figures of a simulated log. rates, oracle_auc: per binary task; an AUC is None if a class is absent."""

    num_exposures: int
    num_requests: int
    num_items: int
    rates: dict[str, float]
    oracle_auc: dict[str, float | None]
    seconds: float  # wall clock

    @property
    def exposures_per_second(self) -> float:
        """Speed of the simulation, including writing the files."""
        return self.num_exposures / max(self.seconds, 1e-9)


def simulate(config: WorldConfig, out: Path, *, progress: Progress | None = None) -> SimulationSummary:
    """Simulates the feed and writes the log to `out`, which must be absent or empty.

    progress: called with the share that is done, 0 to 1. The same configuration gives the same bytes. Raises
    OutputError if `out` can't be written; no partial output is left then.
    """
    started = time.perf_counter()
    report = progress or (lambda _: None)
    refuse_occupied(out)
    with new_folder(out) as folder:
        rng = np.random.default_rng([config.seed, 0])
        catalogue = SimulatedItems.build(config, rng)
        write_items(folder, catalogue, rng)
        totals = _simulate_shards(config, catalogue=catalogue, folder=folder, report=report)
        (folder / "schema.toml").write_text(schema_toml(late=config.has_late_actions), encoding="utf-8")
        summary = totals.summary(catalogue.topic.size)
        # Without the elapsed time, which would differ between two runs of the same configuration.
        write_json(folder / "world.json", {"format": 1, "config": to_dict(config), "summary": summary})
    report(1.0)
    return SimulationSummary(**summary, seconds=time.perf_counter() - started)


@dataclass
class _Totals:
    exposures: int = 0
    requests: int = 0
    positives: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BINARY_TASKS, 0))
    auc: dict[str, StreamingAuc] = field(default_factory=lambda: {task: StreamingAuc() for task in BINARY_TASKS})

    def add(self, columns: dict[str, Array]) -> None:
        self.exposures += columns["click"].size
        self.requests += int(columns["request"][-1]) + 1 if columns["request"].size else 0
        for task in BINARY_TASKS:
            self.positives[task] += int(columns[task].sum())
            self.auc[task].add(columns[f"p_{task}"], columns[task])

    def summary(self, num_items: int) -> dict[str, Any]:
        return {
            "num_exposures": self.exposures,
            "num_requests": self.requests,
            "num_items": num_items,
            "rates": {task: count / max(self.exposures, 1) for task, count in self.positives.items()},
            "oracle_auc": {task: auc.value() for task, auc in self.auc.items()},
        }


def _simulate_shards(config: WorldConfig, *, catalogue: SimulatedItems, folder: Path, report: Progress) -> _Totals:
    (folder / "exposures").mkdir()
    wanted = round(config.num_users * config.exposures_per_user / _SHARD_EXPOSURES)
    shards = np.array_split(np.arange(config.num_users), min(max(1, wanted), config.num_users))
    totals, users = _Totals(), UserTable()
    for index, numbers in enumerate(shards):
        rng = np.random.default_rng([config.seed, 1, index])
        shard = Shard(numbers, catalogue=catalogue, config=config, rng=rng)
        columns = shard.run(lambda share, done=index: report((done + share) / len(shards)))  # type: ignore[misc]
        if config.shuffle_labels:
            columns = _shuffled(columns, rng)
        path = folder / "exposures" / f"part-{index:04d}.parquet"
        write_exposures(path, columns, first_request=totals.requests)
        totals.add(columns)
        users.add(shard.population)
    users.write(folder)
    return totals


def _shuffled(columns: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """`columns` with the actions permuted over all exposures, and the base rates as probabilities."""
    order = rng.permutation(columns["click"].size)
    after = [name for name in columns if name.endswith("_after")]
    dealt = {name: columns[name][order] for name in (*BINARY_TASKS, "dwell_ms", "dwell_censored", *after)}
    base = {f"p_{task}": np.full(order.size, columns[task].mean(), np.float32) for task in BINARY_TASKS}
    return columns | dealt | base
