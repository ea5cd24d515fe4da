"""Logs that are hard to count: equal times, unknown labels, rows that are no targets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exposure_logs import CLICK, SCHEMA, START
from genrank.batch import Jagged
from genrank.data.statistics import Events
from genrank.data.timelines import offsets_of
from genrank.log_settings import RequestSettings
from genrank.schema import Columns, Feature, LogSchema, Statistics, Task

WINDOWS = {"5m": 300, "1h": 3600, "all": None}  # exposures are multiples of 25 s apart, so some stand at an edge
SMOOTHING = 3.0
RATES = {"click": 0.3, "like": 0.04}
LIKE = Task(name="like", kind="binary", column="like")
FEATURES = (
    Feature(name="author", owner="item", kind="categorical", column="author"),
    Feature(name="tags", owner="item", kind="multi", column="tags"),
)


def schema(*, request: bool, gap: int) -> LogSchema:
    return replace(
        SCHEMA,
        columns=Columns(user="user", item="item", time="time", target="target", request="request" if request else None),
        tasks=(CLICK, LIKE),
        features=FEATURES,
        requests=RequestSettings(gap_seconds=gap),
        statistics=Statistics(enabled=True, windows=tuple(WINDOWS), smoothing=SMOOTHING),
    )


def random_log(seed: int, size: int = 70) -> dict[str, Any]:
    """Many equal times, unknown labels, rows that are no targets, items with no, one and two tags."""
    random = np.random.default_rng(seed)
    item = random.integers(0, 7, size)
    authors, tags = ["a", "b", None], [[], ["x"], ["x", "y"], ["y"]]
    label = np.where(random.random(size) < 0.15, None, random.integers(0, 2, size))
    click = random.integers(0, 2, size)
    click[:2], click[-2:] = (0, 1), (0, 1)
    return {
        "user": [f"u{n}" for n in random.integers(0, 3, size)],
        "item": [f"i{n}" for n in item],
        "time": (START + np.sort(random.integers(0, 40, size)) * 25).tolist(),
        "click": click.tolist(),
        "like": label.tolist(),
        "target": (random.random(size) < 0.85).tolist(),
        "request": [f"r{n}" for n in random.integers(0, 25, size)],
        "author": [authors[n % 3] for n in item],
        "tags": [tags[n % 4] for n in item],
    }


def random_events(random: np.random.Generator, size: int) -> Events:
    """Many equal times, unknown labels, actions known late, unknown items and users."""
    asked = random.integers(0, 60, size) * 25 + 1_700_000_000
    return Events(
        user=random.integers(0, 4, size).astype(np.int32),
        item=random.integers(0, 9, size).astype(np.int32),
        time=asked + random.integers(0, 3, size) * 25,
        request_time=asked,
        target=random.random(size) < 0.85,
        labels={task: random.integers(-1, 2, size).astype(np.int8) for task in RATES},
    )


def random_item_features(random: np.random.Generator) -> dict[str, np.ndarray | Jagged]:
    lengths = random.integers(0, 3, 9)
    tags = Jagged(random.integers(0, 4, lengths.sum()).astype(np.int32), offsets_of(lengths))
    return {"author": random.integers(0, 4, 9).astype(np.int32), "tags": tags}


def counted_feed(folder: Path, *, statistics: bool = True, **world: float) -> Path:
    """A simulated feed with content embeddings, prepared in `folder`/data."""
    from genrank.cli import main
    from genrank.simulation import WorldConfig, simulate

    simulate(WorldConfig(num_topics=4, **world), folder / "feed")
    arguments = ["--set", f"statistics.enabled={str(statistics).lower()}", "--set", "statistics.windows=['1d', 'all']"]
    log, schema_file = folder / "feed" / "exposures", folder / "feed" / "schema.toml"
    assert main(["prepare", str(log), "--schema", str(schema_file), "--out", str(folder / "data"), *arguments]) == 0
    return folder / "data"
