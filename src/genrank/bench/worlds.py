"""Data for benchmarks: timelines in memory with exactly known lengths (a simulated feed: feeds.py).

They go through the sequence builder and the loader, as in training. Neither Arrow nor rich is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genrank.batch import Jagged, PackedBatch
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, offsets_of
from genrank.schema import DataSpec, FeatureSpec, TaskSpec

SLOTS = 8  # exposures of a past request
CANDIDATE_SHARE = 0.15  # of a user's positions, in the middle of the paper's 10 to 20 %
_BEGIN, _PAUSE = 1_700_000_000, 1800  # seconds: of the first request, and between requests
_SIZES = {"author": 5_000, "topic": 100, "popularity": 16, "age": 16, "tags": 500}
_BINARY_RATES = {"click": 0.2, "like": 0.05, "follow": 0.01}
_BOUNDARIES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  # seconds


@dataclass(frozen=True, kw_only=True)
class World:
    """Users, items and exposures."""

    spec: DataSpec
    timelines: Timelines
    items: FeatureTable
    users: FeatureTable

    def loader(self, sequence: SequenceConfig, *, batch_tokens: int, shuffle: bool = False) -> Loader:
        """A loader of all samples."""
        builder = SequenceBuilder(
            sequence, self.spec, timelines=self.timelines, items=self.items, users=self.users, search=None
        )
        return Loader(builder, builder.samples(), LoaderConfig(batch_tokens=batch_tokens, shuffle=shuffle))


def share_of(positions: int) -> tuple[int, int]:
    """(history, candidates) of a user with `positions` exposures."""
    candidates = max(round(positions * CANDIDATE_SHARE), 1)
    return positions - candidates, candidates


def synthetic(
    histories: Sequence[int], *, candidates: int, num_items: int, all_targets: bool = False, seed: int = 0
) -> World:
    """A user per entry of `histories`: that many past exposures in requests of `SLOTS`, then one request to predict.

    all_targets: the past exposures are predicted too.
    """
    random = np.random.default_rng(seed)
    lengths = np.array(histories) + candidates
    request = np.concatenate(
        [np.append(np.arange(past) // SLOTS, np.full(candidates, -(-past // SLOTS))) for past in histories]
    )
    position = np.concatenate([np.append(np.arange(past) % SLOTS, np.arange(candidates)) for past in histories])
    count = int(lengths.sum())
    is_past = np.concatenate([np.arange(length) < length - candidates for length in lengths])
    tasks = {name: (random.random(count) < rate).astype(np.int8) for name, rate in _BINARY_RATES.items()}
    timelines = Timelines(
        users=np.arange(1, len(lengths) + 1, dtype=np.int32),
        offsets=offsets_of(lengths),
        time=_BEGIN + _PAUSE * request.astype(np.int64),
        request=request.astype(np.int32),
        position=position.astype(np.int32),
        item=_popular(num_items, count, random).astype(np.int32) + 1,
        target=~is_past | all_targets,
        tasks=tasks | {"dwell": np.where(tasks["click"] > 0, random.exponential(20, count), np.nan).astype(np.float32)},
        censored={"dwell": random.random(count) < 0.05},
        feedback={},
        features={"device": random.integers(1, 4, count).astype(np.int32)},
        statistics=np.zeros((count, 0), np.float16),
        oracle={},
    )
    items, users = _items(num_items, random), _users(len(lengths), random)
    return World(spec=_spec(num_items, len(lengths)), timelines=timelines, items=items, users=users)


def regime(
    positions: int, *, sequences: int, num_batches: int, num_items: int, seed: int, all_targets: bool = False
) -> tuple[World, Loader]:
    """The paper's regime: users with exactly `positions` positions, the last `CANDIDATE_SHARE` of them candidates.

    all_targets: every position is a candidate instead, in requests of `SLOTS`. A batch holds `sequences` users.
    """
    history, candidates = (positions - SLOTS, SLOTS) if all_targets else share_of(positions)
    world = synthetic(
        [history] * sequences * num_batches,
        candidates=candidates,
        num_items=num_items,
        all_targets=all_targets,
        seed=seed,
    )
    tokens = history + (positions if all_targets else candidates)
    sequence = SequenceConfig(max_history=max(history, 2), max_candidates=positions)
    return world, world.loader(sequence, batch_tokens=tokens * sequences)


def batches_of(loader: Loader) -> list[PackedBatch]:
    """An epoch's batches, built ahead."""
    return list(loader)


def _popular(num_items: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Items by popularity: density falls as 1 / rank (Zipf)."""
    ranks: np.ndarray = np.exp(random.random(count) * np.log(num_items)).astype(np.int64) - 1
    return ranks


def _spec(num_items: int, num_users: int) -> DataSpec:
    features = [FeatureSpec(name="item_id", owner="item", kind="categorical", size=num_items + 1)]
    for name, size in _SIZES.items():
        features.append(
            FeatureSpec(name=name, owner="item", kind="multi" if name == "tags" else "categorical", size=size)
        )
    features += [
        FeatureSpec(name="user_id", owner="user", kind="categorical", size=num_users + 1),
        FeatureSpec(name="region", owner="user", kind="categorical", size=50),
        FeatureSpec(name="device", owner="exposure", kind="categorical", size=4),
    ]
    means = (1.0, *((low + high) / 2 for low, high in pairwise(_BOUNDARIES)), 240.0)
    tasks = [TaskSpec(name=name, kind="binary") for name in _BINARY_RATES]
    return DataSpec(
        features=tuple(features),
        tasks=(*tasks, TaskSpec(name="dwell", kind="duration", boundaries=_BOUNDARIES, means=means)),
    )


def _items(num_items: int, random: np.random.Generator) -> FeatureTable:
    rows = num_items + 1
    features: dict[str, object] = {"item_id": np.arange(rows, dtype=np.int32)}
    for name, size in _SIZES.items():
        if name == "tags":
            lengths = random.integers(0, 5, rows)
            values = random.integers(1, size, lengths.sum()).astype(np.int32)
            features[name] = Jagged(values, offsets_of(lengths))
        else:
            features[name] = random.integers(1, size, rows).astype(np.int32)
    return _table("i", rows, features)


def _users(num_users: int, random: np.random.Generator) -> FeatureTable:
    rows = num_users + 1
    region = random.integers(1, 50, rows).astype(np.int32)
    return _table("u", rows, {"user_id": np.arange(rows, dtype=np.int32), "region": region})


def _table(prefix: str, rows: int, features: dict[str, object]) -> FeatureTable:
    ids = np.array(["", *(f"{prefix}{n:08d}" for n in range(1, rows))])
    return FeatureTable(
        ids=ids, features=features, first_time=np.full(rows, _BEGIN), train_count=np.ones(rows, np.int64)
    )
