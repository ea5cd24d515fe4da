"""Logs of several days, in which users, items and values appear as time goes on, and the days of one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from exposure_logs import CLICK
from genrank.preparation.prepare import PrepareOptions
from genrank.schema import Columns, Feature, Feedback, LogSchema, Split, Statistics

DAY = 86_400
START = 18_000 * DAY
OPTIONS = PrepareOptions(threads=1, memory_limit="1GB", num_buckets=2, days_per_part=1)
SCHEMA = LogSchema(
    name="growing",
    columns=Columns(user="user", item="item", time="time", request="request"),
    tasks=(CLICK,),
    feedback=(Feedback(name="how", column="how"),),
    features=(
        Feature(name="tab", owner="exposure", kind="categorical", column="tab", min_count=2),
        Feature(name="tags", owner="exposure", kind="multi", column="tags", separator=",", max_values=2),
        Feature(name="price", owner="exposure", kind="numeric", column="price"),
        Feature(name="topic", owner="item", kind="categorical", column="topic"),
        Feature(name="labels", owner="item", kind="multi", column="labels", separator=","),
    ),
    split=Split(valid_start=START + 2 * DAY, test_start=START + 5 * DAY // 2),
    statistics=Statistics(enabled=True, windows=("1d", "all")),
    item_min_count=2,
)


def random_log(seed: int, num_days: int = 6, num_rows: int = 240) -> dict[str, list[Any]]:
    """Exposures of `num_days` days, in order of time; items and values appear as time goes on."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, num_days * DAY // 600, num_rows)) * 600 + START
    day = (times - START) // DAY
    items = random.integers(0, 4 + 3 * day)
    late = random.integers(0, 3, num_rows)
    return {
        "user": [f"u{user}" for user in random.integers(0, 3 + day)],
        "item": [f"i{item}" for item in items],
        "time": times.tolist(),
        "request": [f"r{request}" for request in random.integers(0, 4, num_rows)],
        "click": random.integers(0, 2, num_rows).tolist(),
        "how": [f"h{value}" for value in random.integers(0, 1 + day)],
        "tab": [f"t{value}" for value in random.integers(0, 2 + day)],
        "tags": [
            f"g{one},g{one + other},g{other}" for one, other in zip(random.integers(0, 2 + day), late, strict=True)
        ],
        "price": random.normal(size=num_rows).tolist(),
        "topic": [f"o{item % 5}" for item in items],
        "labels": [f"l{item % 3},l{item % 7}" for item in items],
    }


def rows_where(log: dict[str, list[Any]], chosen: Sequence[bool]) -> dict[str, list[Any]]:
    return {name: [value for value, keep in zip(values, chosen, strict=True) if keep] for name, values in log.items()}


def by_days(log: dict[str, list[Any]], cuts: Sequence[int]) -> list[dict[str, list[Any]]]:
    """The log cut before the given days."""
    part = np.searchsorted(np.array(cuts), (np.array(log["time"]) - START) // DAY, side="right")
    return [rows_where(log, part == number) for number in range(len(cuts) + 1)]
