"""Timelines and feature columns from a prepared folder's Parquet files: what needs Arrow, which Timelines doesn't."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.requests import request_times
from genrank.data.timelines import Timelines
from genrank.errors import DataError
from genrank.schema import DataSpec, FeatureSpec

WEIGHTS = ":weights"  # behind the name of a multi-valued feature: the column of its values' weights


def load_timelines(folder: Path, spec: DataSpec) -> Timelines:
    """A prepared folder's timelines: the columns that `spec` names. Raises DataError where a file can't be read."""
    paths = sorted((folder / "timelines").glob("bucket=*/*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no timelines/bucket=*/*.parquet; run genrank prepare again")
    try:
        table = pa.concat_tables([_read(path, spec) for path in paths])
        timelines = timelines_of(table, spec)
        return replace(timelines, statistics=_statistics(folder, timelines.num_exposures, spec))
    except (pa.ArrowException, OSError, KeyError, ValueError) as problem:
        raise DataError(f"{folder}: timelines can't be read ({problem}); run genrank prepare again") from None


def timelines_of(table: pa.Table, spec: DataSpec) -> Timelines:
    """Timelines from a table with one row per user and list columns."""
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    flat = {name: _flatten(column) for name, column in columns.items() if name != "user"}
    durations = [task.name for task in spec.tasks if task.kind == "duration"]
    oracle = [name for name in table.column_names if name.startswith("oracle_")]
    return Timelines(
        users=columns["user"].to_numpy(zero_copy_only=False).astype(np.int32),
        offsets=_offsets(columns["time"]),
        time=_array(flat["time"], np.int64),
        request=_array(flat["request"], np.int32),
        position=_array(flat["position"], np.int32),
        item=_array(flat["item"], np.int32),
        target=_array(flat["target"], np.bool_),
        tasks={
            t.name: _array(flat[f"task_{t.name}"], np.int8 if t.kind == "binary" else np.float32) for t in spec.tasks
        },
        censored={name: _array(flat[f"censored_{name}"], np.bool_) for name in durations},
        feedback={f.name: _array(flat[f"feedback_{f.name}"], np.int32) for f in spec.feedback},
        features=feature_columns(spec.of("exposure"), flat, prefix="feature_"),
        statistics=np.zeros((len(flat["time"]), len(spec.statistics)), np.float16),
        oracle={name.removeprefix("oracle_"): _array(flat[name], np.float32) for name in oracle},
        known_at=_array(flat["known_at"], np.int64) if spec.known_later else None,
        weight=_array(flat["weight"], np.float32) if spec.weighted else None,
        request_time=request_times(
            np.repeat(np.arange(len(columns["time"])), np.diff(_offsets(columns["time"]))),
            _array(flat["request"], np.int32),
            _array(flat["time"], np.int64),
        ),
    )


def feature_columns(
    specs: Sequence[FeatureSpec], columns: Mapping[str, pa.Array], *, prefix: str = ""
) -> dict[str, Any]:
    """Feature columns from Arrow: int32 indices, or Jagged int32 for multi-valued ones. Embeddings are left out."""
    loaded: dict[str, Any] = {}
    for spec in specs:
        if spec.kind == "multi":
            column = columns[prefix + spec.name]
            weights = None
            if spec.weighted:
                weights = _array(_flatten(columns[prefix + spec.name + WEIGHTS]), np.float32)
            loaded[spec.name] = Jagged(_array(_flatten(column), np.int32), _offsets(column), weights)
        elif spec.kind != "embedding":
            loaded[spec.name] = _array(columns[prefix + spec.name], np.int32)
    return loaded


def _read(path: Path, spec: DataSpec) -> pa.Table:
    """The columns of one file that the spec asks for."""
    file = pq.ParquetFile(path)
    wanted = {"user", "time", "known_at", "weight", "request", "position", "item", "target"}
    wanted |= {f"{prefix}_{task.name}" for prefix in ("task", "censored") for task in spec.tasks}
    wanted |= {f"feedback_{part.name}" for part in spec.feedback}
    wanted |= {f"feature_{feature.name}{end}" for feature in spec.of("exposure") for end in ("", WEIGHTS)}
    names = file.schema_arrow.names
    return file.read(columns=[name for name in names if name in wanted or name.startswith("oracle_")])


def _statistics(folder: Path, num_rows: int, spec: DataSpec) -> NDArray[np.float16]:
    if not spec.statistics:
        return np.zeros((num_rows, 0), np.float16)
    paths = sorted((folder / "statistics").glob("bucket=*.npy"))
    parts = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    whole = np.concatenate(parts) if parts else np.zeros((num_rows, 0), np.float16)
    if whole.shape != (num_rows, len(spec.statistics)):
        expected = (num_rows, len(spec.statistics))
        raise DataError(
            f"{folder}/statistics: expected {expected} numbers, found {whole.shape}; run genrank prepare again"
        )
    return whole


def _offsets(column: pa.Array) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = np.asarray(column.offsets.to_numpy(), dtype=np.int64)
    relative: NDArray[np.int64] = offsets - offsets[0]
    return relative


def _flatten(column: pa.Array) -> pa.Array:
    return column.flatten()


def _array(column: pa.Array, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False), dtype=dtype)
