"""The last step of `prepare`, which needs the finished item table: window statistics, and durations by group.

    statistics/bucket=NNNN.npy    float16 (rows of the bucket, columns), in the order of the bucket's timelines

Counting works on arranged buckets and not by a query, so that ranking can use the same code; memory holds a bucket or a
partition of keys: see partitioned_statistics.py.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.arranging import array
from genrank.data.event_totals import EventTotals
from genrank.data.manifest import SplitTimes
from genrank.data.statistics import Events, base_rates, label_counts, statistics_tasks
from genrank.data.tables import FeatureTable
from genrank.preparation.admission import DAY
from genrank.preparation.buckets import Buckets, load_bucket
from genrank.preparation.fitting import Sample
from genrank.preparation.key_partitions import choose_num_partitions
from genrank.preparation.partitioned_statistics import PartitionedStatistics
from genrank.preparation.writing import target_of
from genrank.schema import DataSpec, LogSchema, TaskSpec

LEVELS = np.linspace(0, 1, 33)  # of a group's quantiles; ours
LATEST = 2 * DAY  # seconds before the last day for which late requests still have statistics; ours
MIN_GROUP = 50  # a group with fewer durations has the quantiles of all; ours


def write_statistics(
    buckets: Buckets,
    schema: LogSchema,
    item_features: Mapping[str, Any],
    split: SplitTimes,
    folder: Path,
    *,
    report: Callable[[str], None],
    threads: int = 1,
    past: EventTotals | None = None,
    keep: Path | None = None,
) -> dict[str, float]:
    """Writes the statistics of every bucket below `folder`; the base rates they are measured against.

    `item_features`: see counted_features. Each of the `threads` holds a bucket in memory. `past`: of the log's earlier
    days, which `buckets` then leave out. `keep`: a new folder for the totals of all days, without those of `past` that
    stay.
    """
    (folder / "statistics").mkdir()
    tasks, last = statistics_tasks(schema), 0
    counts = np.zeros((len(tasks), 2), np.int64)
    for bucket in buckets:
        events = events_of(bucket, tasks)
        counts += label_counts(schema, events, split.valid_start)
        last = max(last, int(events.request_time.max(initial=0)))
    rates = base_rates(schema, counts) if past is None else past.rates
    num_partitions = choose_num_partitions(buckets.num_rows) if past is None else past.num_partitions
    totals = None
    if keep is not None:
        until = max(last - last % DAY - LATEST, 0 if past is None else past.until)
        totals = EventTotals.of(schema, keep, until=until, num_partitions=num_partitions, rates=rates, past=past)
    with TemporaryDirectory(prefix=".counts-", dir=folder) as scratch:
        log = PartitionedStatistics(
            schema, rates, item_features, Path(scratch), num_partitions=num_partitions, past=past
        )
        report("counting window statistics")
        for number in range(len(buckets.paths)):
            log.add(number, _corrected(buckets, number, tasks))
        log.count(totals, threads=threads)

        def write(number: int) -> None:
            answers = log.answers(number, _corrected(buckets, number, tasks))
            written = answers[: load_bucket(buckets.paths[number]).num_rows]
            np.save(folder / "statistics" / f"bucket={number:04d}.npy", written)

        report("writing window statistics")
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for _ in pool.map(write, range(len(buckets.paths))):
                pass
    return rates


def _corrected(buckets: Buckets, number: int, tasks: tuple[str, ...]) -> Events:
    """A bucket's events, then with sign -1 those of earlier days that it has with other labels."""
    events = events_of(load_bucket(buckets.paths[number]), tasks)
    if number not in buckets.replaced:
        return events
    before = events_of(buckets.replaced[number], tasks)
    return events.joined(replace(before, sign=np.full(len(before.time), -1, np.int8)))


def events_of(bucket: pa.Table, tasks: tuple[str, ...]) -> Events:
    """The counted columns of an arranged bucket."""
    time = "known_at" if "known_at" in bucket.column_names else "time"
    return Events(
        user=array(bucket, "user").astype(np.int32, copy=False),
        item=array(bucket, "item").astype(np.int32, copy=False),
        time=array(bucket, time).astype(np.int64, copy=False),
        request_time=array(bucket, "request_time").astype(np.int64, copy=False),
        target=target_of(bucket).astype(bool, copy=False),
        labels={task: array(bucket, f"task_{task}").astype(np.int8, copy=False) for task in tasks},
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
            feature = groups[task.name] if quantiles else None  # without quantiles no duration is known
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
