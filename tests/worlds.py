"""Small timelines for tests: made directly, without a log."""

from typing import Any

import numpy as np
import pyarrow as pa

from genrank.batch import Jagged
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, offsets_of
from genrank.schema import DataSpec, FeatureSpec, FeedbackSpec, TaskSpec

SPEC = DataSpec(
    features=(
        FeatureSpec(name="item_id", owner="item", kind="categorical", size=31),
        FeatureSpec(name="topic", owner="item", kind="categorical", size=5),
        FeatureSpec(name="tags", owner="item", kind="multi", size=6),
        FeatureSpec(name="content", owner="item", kind="embedding", dim=4),
        FeatureSpec(name="age", owner="user", kind="numeric", size=4),
        FeatureSpec(name="device", owner="exposure", kind="categorical", size=4),
    ),
    tasks=(
        TaskSpec(name="click", kind="binary"),
        TaskSpec(name="dwell", kind="duration", boundaries=(2.0, 5.0, 9.0), means=(1.0, 3.0, 7.0, 12.0)),
    ),
    feedback=(FeedbackSpec(name="rating", size=4),),
    statistics=("item_1d_count", "item_1d_click_rate", "user_all_click_rate"),
)


def timelines(*, lengths: list[int], seed: int = 0, max_gap: int = 3, slots: int = 3) -> Timelines:
    """Random timelines; times repeat, and requests have up to `slots` exposures."""
    random = np.random.default_rng(seed)
    times, requests = [], []
    for length in lengths:
        request = np.sort(random.integers(0, max(length // slots, 1), length)) if length else np.zeros(0, int)
        start = np.cumsum(random.integers(0, max_gap, max(length, 1)) * 40) + 1_000_000
        times.append(start[request] if length else np.zeros(0, int))
        requests.append(np.unique(request, return_inverse=True)[1] if length else request)
    count = sum(lengths)
    click = random.integers(-1, 2, count).astype(np.int8)
    dwell = np.where(click > 0, random.gamma(2, 3, count), np.nan).astype(np.float32)
    return Timelines(
        users=np.arange(1, len(lengths) + 1, dtype=np.int32),
        offsets=offsets_of(np.array(lengths)),
        time=np.concatenate(times).astype(np.int64),
        request=np.concatenate(requests).astype(np.int32),
        position=random.integers(-1, slots, count).astype(np.int32),
        item=random.integers(0, 31, count).astype(np.int32),
        target=np.ones(count, bool),
        tasks={"click": click, "dwell": dwell},
        censored={"dwell": random.random(count) < 0.1},
        feedback={"rating": random.integers(0, 4, count).astype(np.int32)},
        features={"device": random.integers(0, 4, count).astype(np.int32)},
        statistics=random.normal(size=(count, 3)).astype(np.float16),
        oracle={},
    )


def tables(num_users: int, seed: int = 0) -> tuple[FeatureTable, FeatureTable]:
    """31 items and `num_users` users, row 0 of each unknown."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 4, 31)
    lengths[0] = 0
    features: dict[str, Any] = {
        "item_id": np.arange(31, dtype=np.int32),
        "topic": np.concatenate([[0], random.integers(1, 5, 30)]).astype(np.int32),
        "tags": Jagged(random.integers(1, 6, lengths.sum()).astype(np.int32), offsets_of(lengths)),
        "content": random.normal(size=(31, 4)).astype(np.float32),
    }
    items = FeatureTable(
        ids=pa.array(["", *(f"i{n:02d}" for n in range(1, 31))]),
        features=features,
        first_time=np.zeros(31, np.int64),
        train_count=np.ones(31, np.int64),
    )
    users = FeatureTable(
        ids=pa.array(["", *(f"u{n}" for n in range(1, num_users + 1))]),
        features={"age": random.integers(0, 4, num_users + 1).astype(np.int32)},
        first_time=np.zeros(num_users + 1, np.int64),
        train_count=np.ones(num_users + 1, np.int64),
    )
    return items, users


def builder(t: Timelines, *, search: SearchConfig | None = None, **settings: Any) -> SequenceBuilder:
    items, users = tables(len(t.users))
    return SequenceBuilder(SequenceConfig(**settings), SPEC, timelines=t, items=items, users=users, search=search)
