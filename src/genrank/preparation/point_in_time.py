"""The last step of `prepare`: what needs the finished item table. Window statistics, and durations by group.

    statistics/bucket=NNNN.npy    float16 (rows of the bucket, columns), in the order of the bucket's timelines

Counting is NumPy on arranged buckets rather than a query, so that ranking can ask the same code. In memory is the
whole log: 25 bytes an exposure and 17 per task, and while an entity is counted about 50 and 30 per task for every
event of it, of which an exposure has as many as its item has values.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.arranging import array
from genrank.data.manifest import SplitTimes
from genrank.data.statistics import (
    Events,
    base_rates,
    label_counts,
    statistics_columns,
    statistics_tasks,
)
from genrank.data.tables import FeatureTable
from genrank.data.window_statistics import WindowStatistics
from genrank.preparation.buckets import Buckets
from genrank.preparation.fitting import Sample
from genrank.preparation.writing import target_of
from genrank.schema import DataSpec, LogSchema, TaskSpec

LEVELS = np.linspace(0, 1, 33)  # of a group's quantiles; ours
MIN_GROUP = 50  # durations below which a group takes the quantiles of all; ours


def write_statistics(
    buckets: Buckets,
    schema: LogSchema,
    items: FeatureTable,
    split: SplitTimes,
    folder: Path,
    *,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Writes the statistics of every bucket below `folder`; the base rates they are measured against."""
    (folder / "statistics").mkdir()
    events = _events(buckets, statistics_tasks(schema))
    rates = base_rates(schema, label_counts(schema, events, split.valid_start))
    statistics = WindowStatistics(schema, events, rates=rates, item_features=items.features)
    ends = np.cumsum([0, *(bucket.num_rows for bucket in buckets)])
    shape = len(statistics_columns(schema))
    files = [
        np.lib.format.open_memmap(
            folder / "statistics" / f"bucket={number:04d}.npy", "w+", np.float16, (int(end - begin), shape)
        )
        for number, (begin, end) in enumerate(pairwise(ends))
    ]

    stop = 0
    for entity in statistics.entities:
        start, stop = stop, stop + statistics.formulas.width
        report(f"counting window statistics, {stop} of {shape} columns")
        index = statistics.index(entity)  # one in memory at a time
        for file, (begin, end) in zip(files, pairwise(ends), strict=True):
            rows = slice(begin, end)
            asked = (events.user[rows], events.item[rows], events.request_time[rows])
            statistics.answer(entity, [index], *asked, file[:, start:stop])
    for file in files:
        file.flush()
    return rates


def _events(buckets: Buckets, tasks: tuple[str, ...]) -> Events:
    parts: dict[str, list[NDArray[np.generic]]] = {}
    for bucket in buckets:
        columns = {name: array(bucket, name) for name in ("user", "item", "request_time")}
        columns["time"] = array(bucket, "known_at" if "known_at" in bucket.column_names else "time")
        columns |= {f"task_{task}": array(bucket, f"task_{task}") for task in tasks}
        for name, column in (columns | {"target": target_of(bucket)}).items():
            parts.setdefault(name, []).append(column)
    whole = {name: np.concatenate(columns) for name, columns in parts.items()}
    return Events(
        user=whole["user"].astype(np.int32),
        item=whole["item"].astype(np.int32),
        time=whole["time"].astype(np.int64),
        request_time=whole["request_time"].astype(np.int64),
        target=whole["target"].astype(bool),
        labels={task: whole[f"task_{task}"].astype(np.int8) for task in tasks},
    )


def with_duration_groups(
    spec: DataSpec, buckets: Buckets, schema: LogSchema, items: FeatureTable, split: SplitTimes
) -> DataSpec:
    """The spec with the training durations' quantiles per group, for D2Q."""
    groups = {task.name: task.group for task in schema.tasks if task.kind == "duration"}
    if not groups:
        return spec
    samples = {name: (Sample(buckets.num_rows), Sample(buckets.num_rows)) for name in groups}
    for bucket in buckets:
        training = array(bucket, "time") < split.valid_start
        for name, feature in groups.items():
            seconds = array(bucket, f"task_{name}")
            known = training & np.isfinite(seconds) & ~_censored(bucket, name)
            item = array(bucket, "item")[known]
            samples[name][0].add(seconds[known])
            samples[name][1].add(items.features[feature][item] if feature else np.zeros(len(item), np.int32))
    tasks = []
    for task in spec.tasks:
        if task.name in groups:
            seconds, group = (sample.values() for sample in samples[task.name])
            quantiles = _quantiles(seconds, group, _size(spec, task, groups))
            feature = groups[task.name] if quantiles else None  # no duration is known: nothing to rank within
            task = replace(task, group=feature or "", group_quantiles=quantiles)
        tasks.append(task)
    return replace(spec, tasks=tuple(tasks))


def _censored(bucket: pa.Table, task: str) -> NDArray[np.bool_]:
    name = f"censored_{task}"
    return array(bucket, name) if name in bucket.column_names else np.zeros(bucket.num_rows, bool)


def _size(spec: DataSpec, task: TaskSpec, groups: dict[str, str | None]) -> int:
    return next((f.size for f in spec.of("item") if f.name == groups[task.name]), 1)


def _quantiles(
    seconds: NDArray[np.float32], group: NDArray[np.int32], num_groups: int
) -> tuple[tuple[float, ...], ...]:
    if not len(seconds):
        return ()
    rows = []
    for number in range(num_groups):
        mine = seconds[group == number]
        chosen = mine if len(mine) >= MIN_GROUP else seconds
        rows.append(tuple(float(value) for value in np.quantile(chosen, LEVELS)))
    return tuple(rows)
