"""Timelines as files: an arranged bucket's rows grouped by user, codes turned into indices, written as Parquet.

N: exposures of one bucket, in the order that data/arranging.py gives them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.data.arranging import array
from genrank.data.groups import group_starts
from genrank.data.manifest import FolderLayout, PartCounts, SplitTimes
from genrank.data.requests import request_ordinals
from genrank.data.timeline_files import WEIGHTS, PartSettings, part_path
from genrank.preparation.admission import DAY
from genrank.preparation.fitting import Fitted
from genrank.preparation.vocabulary import bucket_of, multi_codes
from genrank.schema import LogSchema

PARTS = ("train", "valid", "test")
EXPOSURES_PER_ROW_GROUP = 2**14  # a reader of one user reads a row group of each part


@dataclass(frozen=True, kw_only=True)
class BucketCounts:
    """Size of one bucket; `parts` in order of `PARTS`.

    `known`: exposures with a known label per binary task. `weights`: sums of the exposures' weights.
    """

    requests: int
    exposures: int
    parts: tuple[PartCounts, ...]
    known: tuple[dict[str, int], ...]
    weights: tuple[float, ...]


def write_parts(
    bucket: pa.Table,
    schema: LogSchema,
    fitted: Fitted,
    layout: FolderLayout,
    folder: Path,
    bucket_number: int,
    numbers: Mapping[tuple[int, int], int],
) -> None:
    """Writes one bucket's timelines, a part for each partition of its days: see docs/architecture.md.

    numbers: (first day of a partition, bucket) → the part's number, where there are others.
    """
    columns = pa.table(dict(_columns(bucket, schema, fitted)))
    user = array(bucket, "user")
    settings = PartSettings(num_buckets=layout.num_buckets, requests=schema.requests)
    for first_day, rows in part_rows(bucket, layout.days_per_part):
        path = part_path(folder / "timelines", first_day, bucket_number, numbers.get((first_day, bucket_number), 0))
        _write_part(user[rows], columns.take(pa.array(rows)).combine_chunks(), settings, path)


def part_rows(bucket: pa.Table, days_per_part: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Partition by partition its first day and the bucket's rows of it, in stored order."""
    stored = np.argsort(array(bucket, "place"), kind="stable")
    partition = array(bucket, "time")[stored] // (DAY * days_per_part)
    if not len(partition):
        return []
    first = partition.min()
    order = stored[np.argsort((partition - first).astype(np.int32), kind="stable")]
    counts = np.bincount(partition - first)
    ends = np.cumsum(counts)
    return [
        (int(first + number) * days_per_part, order[end - count : end])
        for number, (count, end) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True))
        if count
    ]


def _write_part(user: NDArray[np.int32], rows: pa.Table, settings: PartSettings, path: Path) -> None:
    starts = group_starts(user)
    offsets = pa.array(np.append(starts, len(user)).astype(np.int32))
    columns = {
        name: pa.ListArray.from_arrays(offsets, rows.column(name).combine_chunks()) for name in rows.column_names
    }
    table = pa.table({"user": pa.array(user[starts], pa.int32())} | columns)
    table = table.replace_schema_metadata(settings.metadata())
    users_per_group = max(1, len(starts) * EXPOSURES_PER_ROW_GROUP // max(1, len(user)))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Plain values under light compression are as small as dictionaries here, and half the time to write. Statistics of
    # users only: so that one user is found without reading the others.
    compression = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
    pq.write_table(table, path, row_group_size=users_per_group, write_statistics=["user"], **compression)


def _columns(bucket: pa.Table, schema: LogSchema, fitted: Fitted) -> list[tuple[str, pa.Array]]:
    """Flat columns (N) of the timelines, in the order of the contract; categories are codes."""
    size = bucket.num_rows
    plain = {
        "time": array(bucket, "time"),
        **({"known_at": array(bucket, "known_at")} if schema.known_later else {}),
        **({"weight": array(bucket, "weight")} if schema.weighted else {}),
        **({"request": array(bucket, "request_key")} if "request_key" in bucket.column_names else {}),
        "position": _or_constant(bucket, "position", np.int32, -1),
        "item": array(bucket, "item"),
        "target": target_of(bucket),
    }
    for task in schema.tasks:
        plain[f"task_{task.name}"] = array(bucket, f"task_{task.name}")
        if task.kind == "duration":
            plain[f"censored_{task.name}"] = _or_constant(bucket, f"censored_{task.name}", np.bool_, False)
    columns: list[tuple[str, pa.Array]] = [(name, pa.array(values)) for name, values in plain.items()]
    for part in schema.feedback:
        name = f"feedback_{part.name}"
        columns.append((name, pa.array(array(bucket, name), pa.int32())))
    for feature in schema.features:
        if feature.owner == "exposure":
            name = f"feature_{feature.name}"
            columns.append((name, _feature(bucket, name, fitted)))
            if feature.weights is not None:
                columns.append((name + WEIGHTS, bucket.column(name + WEIGHTS).combine_chunks()))
    columns += [(f"oracle_{task}", bucket.column(f"oracle_{task}").combine_chunks()) for task in schema.oracle]
    assert all(len(values) == size for _, values in columns)
    return columns


def _feature(bucket: pa.Table, name: str, fitted: Fitted) -> pa.Array:
    if name in fitted.boundaries:
        return pa.array(bucket_of(array(bucket, name), fitted.boundaries[name]))
    if not pa.types.is_list(bucket.schema.field(name).type):
        return pa.array(array(bucket, name), pa.int32())
    multi = multi_codes(bucket.column(name).combine_chunks(), fitted.vocabularies[name].values)
    return pa.ListArray.from_arrays(pa.array(multi.offsets), pa.array(multi.codes))


def target_of(bucket: pa.Table) -> NDArray[np.bool_]:
    """(N) whether an exposure is a target; all are if the log has no such column."""
    return _or_constant(bucket, "target", np.bool_, True)


def _or_constant(bucket: pa.Table, name: str, dtype: Any, constant: Any) -> NDArray[Any]:
    return array(bucket, name) if name in bucket.column_names else np.full(bucket.num_rows, constant, dtype)


def part_function(split: SplitTimes) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """The part of every time: 0 training, 1 validation, 2 test."""
    starts = np.array([split.valid_start, split.test_start])
    return lambda times: np.searchsorted(starts, times, side="right")


def count_bucket(bucket: pa.Table, schema: LogSchema, split: SplitTimes) -> BucketCounts:
    """Exposures, requests and positives of a bucket's parts; a request's part is that of its first exposure."""
    target = target_of(bucket)
    part = np.where(target, part_function(split)(array(bucket, "request_time")), -1)
    ordinal, requests = request_ordinals(array(bucket, "user"), array(bucket, "request"))
    tasks = {task.name: array(bucket, f"task_{task.name}") for task in schema.tasks if task.kind == "binary"}
    weight = _or_constant(bucket, "weight", np.float32, 1.0)
    parts, known, weights = [], [], []
    for number in range(len(PARTS)):
        here = part == number
        seen = np.zeros(requests, bool)
        seen[ordinal[here]] = True
        positives = {name: int((labels[here] == 1).sum()) for name, labels in tasks.items()}
        parts.append(PartCounts(exposures=int(here.sum()), requests=int(seen.sum()), positives=positives))
        known.append({name: int((labels[here] >= 0).sum()) for name, labels in tasks.items()})
        weights.append(float(weight[here].sum()))
    return BucketCounts(
        requests=requests, exposures=bucket.num_rows, parts=tuple(parts), known=tuple(known), weights=tuple(weights)
    )
