"""Timelines from a prepared folder's Parquet files. Separate from Timelines because only this needs Arrow.

    timelines/day=YYYY-MM-DD/bucket=NNNN/part-K.parquet    rows in stored order (data/arranging.py), lists per user
    statistics/day=YYYY-MM-DD/bucket=NNNN/part-K.npy       (rows of the part, columns) float16

A bucket's parts are joined on reading: over all days, requests are numbered and rows ordered by their known times. The
day is the first one of the part's partition. Format 3 has one part per bucket,
`bucket=NNNN/part-0.parquet`, whose rows are in order already.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.arranging import arrange, array, drop_duplicates, in_stored_order, take
from genrank.data.groups import group_starts
from genrank.data.requests import request_times
from genrank.data.timelines import Timelines, joined_and_freed
from genrank.data.vocabulary_files import IndexReader
from genrank.errors import DataError
from genrank.log_settings import RequestSettings
from genrank.schema import DataSpec, FeatureSpec

WEIGHTS = ":weights"  # suffix of a multi-valued feature's name: the column of the weights of its values
SETTINGS = b"genrank"  # in a part's metadata; format 3 has none
EPOCH = date(1970, 1, 1).toordinal()
ROW = "place_in_files"  # while a bucket is joined: the place of a row's statistics


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """Settings of the folder, stored in each part: `num_buckets`, and those that assign rows to requests."""

    num_buckets: int
    requests: RequestSettings

    @classmethod
    def of(cls, schema: pa.Schema) -> "PartSettings | None":
        """Those of a file's schema; None for format 3."""
        found = (schema.metadata or {}).get(SETTINGS)
        if found is None:
            return None
        values = json.loads(found)
        return cls(num_buckets=values.pop("num_buckets"), requests=RequestSettings(**values))

    def metadata(self) -> dict[bytes, str]:
        """What a file's schema has of it."""
        requests = {"gap_seconds": self.requests.gap_seconds, "max_gap_seconds": self.requests.max_gap_seconds}
        return {SETTINGS: json.dumps({"num_buckets": self.num_buckets} | requests)}


def part_path(folder: Path, first_day: int, bucket: int, number: int = 0) -> Path:
    """Where a part lies, below `timelines` or, with another ending, `statistics`; `first_day` since the epoch."""
    return folder / f"day={date.fromordinal(EPOCH + first_day)}" / f"bucket={bucket:04d}" / f"part-{number}.parquet"


def num_buckets(folder: Path) -> int:
    """The number of buckets of users. DataError if there are no timelines."""
    path = next((folder / "timelines").glob("**/*.parquet"), None)
    if path is None:
        raise DataError(f"{folder}: no timelines/day=*/bucket=*/*.parquet; run genrank prepare again")
    try:
        settings = PartSettings.of(pq.read_schema(path))
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{path}: can't be read ({problem}); run genrank prepare again") from None
    return settings.num_buckets if settings is not None else len(list((folder / "timelines").glob("bucket=*")))


def load_timelines(folder: Path, spec: DataSpec) -> Timelines:
    """A prepared folder's timelines: the columns that `spec` names. Raises DataError if a file can't be read."""
    return load_buckets(folder, range(num_buckets(folder)), spec)


def load_buckets(folder: Path, numbers: Iterable[int], spec: DataSpec) -> Timelines:
    """The timelines of the users of some buckets, one bucket behind another."""
    reader = IndexReader(folder)
    parts = [load_parts(folder, _parts(folder, number), spec, reader) for number in numbers]
    names = next((part.oracle for part in parts if len(part.users)), {})
    oracle = {name: np.concatenate([part.oracle[name] for part in parts if len(part.users)]) for name in names}
    whole = replace(joined_and_freed(parts), oracle=oracle)
    pa.default_memory_pool().release_unused()
    return whole


def bucket_rows(folder: Path) -> list[int]:
    """How many rows each bucket's files have, from their footers: at least as many as it has exposures."""
    try:
        return [sum(map(_num_rows, _parts(folder, number))) for number in range(num_buckets(folder))]
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{folder}: timelines can't be read ({problem}); run genrank prepare again") from None


def _num_rows(path: Path) -> int:
    found = pq.read_metadata(path)
    groups = [found.row_group(group) for group in range(found.num_row_groups)]
    columns = [group.column(column) for group in groups for column in range(found.num_columns)]
    return sum(column.num_values for column in columns if column.path_in_schema.partition(".")[0] == "time")


def users_of(folder: Path) -> NDArray[np.int32]:
    """The rows of users.parquet that have exposures, in the order in which `load_timelines` has them. DataError."""
    found = [np.zeros(0, np.int32)]
    try:
        for number in range(num_buckets(folder)):
            parts = [pq.ParquetFile(path).read(["user"]).column(0).to_numpy() for path in _parts(folder, number)]
            found.append(np.unique(np.concatenate([found[0], *parts])))
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{folder}: timelines can't be read ({problem}); run genrank prepare again") from None
    return np.concatenate(found)


def load_parts(
    folder: Path, paths: Sequence[Path], spec: DataSpec, reader: IndexReader, *, user: int | None = None
) -> Timelines:
    """The timelines in a bucket's parts, which are in order of days and of number.

    user: of this one only (row of users.parquet), who may not be there, without statistics and the oracle's columns.
    DataError.
    """
    if not paths:
        return _nobody(spec)
    try:
        table, settings = _read_parts(paths, spec, user)
        total = table.num_rows
        if settings is not None:
            if len({path.parent for path in paths}) < len(paths):  # late rows, or the rest of a partition
                table = drop_duplicates(in_stored_order(table), but=ROW)[0]
            elif len(paths) > 1:
                table = take(table, np.argsort(array(table, "user"), kind="stable"))
            table = arrange(table, settings.requests).table
        statistics = _statistics(folder, paths, array(table, ROW), total, spec) if user is None else None
        return _timelines(table, spec, reader, statistics)
    except (pa.ArrowException, OSError, KeyError, ValueError) as problem:
        raise DataError(f"{folder}: timelines can't be read ({problem}); run genrank prepare again") from None


def _nobody(spec: DataSpec) -> Timelines:
    empty = Timelines.empty(spec, 0)
    return replace(empty, users=empty.users[:0], offsets=empty.offsets[:1])


def _parts(folder: Path, bucket: int) -> list[Path]:
    paths = [*folder.glob(f"timelines/day=*/bucket={bucket:04d}/part-*.parquet")]
    paths += folder.glob(f"timelines/bucket={bucket:04d}/part-*.parquet")
    return parts_in_order(paths)


def parts_in_order(paths: Iterable[Path]) -> list[Path]:
    """The parts of a bucket in order of days, and of number."""
    return sorted(paths, key=lambda path: (path.parts[-3], int(path.stem.partition("-")[2])))


def parts_of(folder: Path, bucket: int) -> list[tuple[int, Path]]:
    """(first day since the epoch, path) of a bucket's parts in order of days, and of number; not of format 3."""
    return [(first_day_of(path.parent.parent.name), path) for path in _parts(folder, bucket)]


def first_day_of(name: str) -> int:
    """Days since the epoch, of a folder `day=YYYY-MM-DD`."""
    return date.fromisoformat(name.partition("=")[2]).toordinal() - EPOCH


def part_table(path: Path, names: Sequence[str], *, user: int | None = None) -> pa.Table:
    """A part with a row per exposure: the columns of the given names that it has; of one user if given."""
    with pq.ParquetFile(path) as file:
        there = [name for name in file.schema_arrow.names if name in names]
        wanted = list(dict.fromkeys(["user", "time", *there]))
        lists = file.read(wanted) if user is None else _row_of(file, wanted, user)
    lists = lists.combine_chunks()
    columns = {name: lists.column(name).combine_chunks() for name in there if name != "user"}
    lengths = np.diff(_offsets(lists.column("time").combine_chunks()))
    users = np.repeat(_array(lists.column("user"), np.int32), lengths)
    return pa.table({"user": pa.array(users)} | {name: column.flatten() for name, column in columns.items()})


def _row_of(file: pq.ParquetFile, names: Sequence[str], user: int) -> pa.Table:
    """The row of one user, if there is one. The other columns are read only where it is."""
    about = file.metadata
    groups = [group for group in range(about.num_row_groups) if _may_hold(about.row_group(group).column(0), user)]
    users = file.read_row_groups(groups, columns=["user"], use_threads=False).column(0).to_numpy()
    row = np.flatnonzero(users == user)
    if not len(row):
        return file.schema_arrow.empty_table().select(names)
    # Taken, hence copied: a slice would keep the whole row group in memory.
    return file.read_row_groups(groups, columns=list(names), use_threads=False).take(pa.array(row))


def _may_hold(users: pq.ColumnChunkMetaData, user: int) -> bool:
    found = users.statistics
    return found is None or not found.has_min_max or found.min <= user <= found.max


def _read_parts(paths: Sequence[Path], spec: DataSpec, user: int | None) -> tuple[pa.Table, PartSettings | None]:
    """A row per exposure of all parts, and the parts' settings; None for format 3, which has arranged rows."""
    schema = pq.read_schema(paths[0])
    names = _wanted(schema.names, spec, oracle=user is None)
    table = pa.concat_tables([part_table(path, names, user=user) for path in paths]).combine_chunks()
    return table.append_column(ROW, pa.array(np.arange(table.num_rows))), PartSettings.of(schema)


def _timelines(
    table: pa.Table, spec: DataSpec, reader: IndexReader, statistics: NDArray[np.float16] | None
) -> Timelines:
    """Timelines from arranged rows, with indices for codes."""
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    user = _array(columns["user"], np.int32)
    starts = group_starts(user)
    offsets = np.append(starts, len(user))
    request = _array(columns["request"], np.int32)
    durations = [task.name for task in spec.tasks if task.kind == "duration"]
    oracle = [name for name in table.column_names if name.startswith("oracle_")]
    if "request_time" in columns:
        times = _array(columns["request_time"], np.int64)
    else:
        ordinal = np.repeat(np.arange(len(starts)), np.diff(offsets))
        times = request_times(ordinal, request, _array(columns["time"], np.int64))
    none = np.zeros((len(user), len(spec.statistics)), np.float16)
    return Timelines(
        users=user[starts],
        offsets=offsets.astype(np.int64),
        time=_array(columns["time"], np.int64),
        request=request,
        position=_array(columns["position"], np.int32),
        item=_array(columns["item"], np.int32),
        target=_array(columns["target"], np.bool_),
        tasks={
            t.name: _array(columns[f"task_{t.name}"], np.int8 if t.kind == "binary" else np.float32) for t in spec.tasks
        },
        censored={name: _array(columns[f"censored_{name}"], np.bool_) for name in durations},
        feedback={
            f.name: reader.indices(f.name, f.size, _array(columns[f"feedback_{f.name}"], np.int32))
            for f in spec.feedback
        },
        features=feature_columns(spec.of("exposure"), columns, reader, prefix="feature_"),
        statistics=none if statistics is None else statistics,
        oracle={name.removeprefix("oracle_"): _array(columns[name], np.float32) for name in oracle},
        known_at=_array(columns["known_at"], np.int64) if spec.known_later else None,
        weight=_array(columns["weight"], np.float32) if spec.weighted else None,
        request_time=times,
    )


def feature_columns(
    specs: Sequence[FeatureSpec], columns: Mapping[str, pa.Array], reader: IndexReader, *, prefix: str = ""
) -> dict[str, Any]:
    """Feature columns from Arrow: int32 indices, or Jagged int32 for multi-valued ones. Embeddings are left out."""
    loaded: dict[str, Any] = {}
    for spec in specs:
        if spec.kind == "embedding":
            continue
        column = columns[prefix + spec.name]
        if spec.kind == "multi":
            weights = None
            if spec.weighted:
                weights = _array(columns[prefix + spec.name + WEIGHTS].flatten(), np.float32)
            codes = Jagged(_array(column.flatten(), np.int32), _offsets(column), weights)
            loaded[spec.name] = reader.lists(spec.name, spec.size, codes)
        elif spec.kind == "categorical":
            loaded[spec.name] = reader.indices(spec.name, spec.size, _array(column, np.int32))
        else:
            loaded[spec.name] = _array(column, np.int32)
    return loaded


def _wanted(names: Sequence[str], spec: DataSpec, *, oracle: bool) -> list[str]:
    """The columns of a file that the spec names."""
    wanted = {"user", "time", "known_at", "weight", "request", "position", "item", "target"}
    wanted |= {f"{prefix}_{task.name}" for prefix in ("task", "censored") for task in spec.tasks}
    wanted |= {f"feedback_{part.name}" for part in spec.feedback}
    wanted |= {f"feature_{feature.name}{end}" for feature in spec.of("exposure") for end in ("", WEIGHTS)}
    return [name for name in names if name in wanted or (oracle and name.startswith("oracle_"))]


def _statistics(
    folder: Path, paths: Sequence[Path], rows: NDArray[np.int64], total: int, spec: DataSpec
) -> NDArray[np.float16] | None:
    """The statistics of the given rows, of a bucket's `total` rows; None if there are none."""
    if not spec.statistics:
        return None
    stored = [statistics_path(folder, path) for path in paths]
    for path in stored:
        if not path.is_file():
            raise DataError(f"{path}: missing; run genrank prepare again")
    files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in stored]
    expected = (total, len(spec.statistics))
    for found in ((sum(map(len, files)), *file.shape[1:]) for file in files):
        if found != expected:
            raise DataError(
                f"{folder}/statistics: expected {expected} numbers, found {found}; run genrank prepare again"
            )
    begins = np.cumsum([0, *map(len, files)])
    order = np.argsort(rows, kind="stable")
    taken = np.empty((len(rows), len(spec.statistics)), np.float16)
    for file, begin, places in zip(
        files, begins, np.split(order, np.searchsorted(rows[order], begins[1:])), strict=False
    ):
        taken[places] = file[rows[places] - begin]  # from file to place, without a copy of the whole bucket
    return taken


def statistics_path(folder: Path, part: Path) -> Path:
    """The file of the statistics of a part's rows."""
    below = part.relative_to(folder / "timelines")
    if len(below.parts) == 2:  # format 3
        return folder / "statistics" / f"{below.parts[0]}.npy"
    return (folder / "statistics" / below).with_suffix(".npy")


def _offsets(column: pa.Array) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = np.asarray(column.offsets.to_numpy(), dtype=np.int64)
    relative: NDArray[np.int64] = offsets - offsets[0]
    return relative


def _array(column: pa.Array, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False), dtype=dtype)
