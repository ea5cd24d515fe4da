"""A Parquet file as a frame of Spark, with the columns that DuckDB finds in it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrank.errors import LogError
from genrank.preparation.spark_partitions import partition_values

Frame = Any


def read_file(session: Any, path: Path, paths: list[Path]) -> Frame:
    """The rows of `path` in their order, one of the files `paths` that are read together.

    Nanoseconds become microseconds, rounded down. The names and values of partitions in the path are columns.
    """
    from pyspark.sql import functions as f

    schema = pq.read_schema(path)
    for field in schema:
        if pa.types.is_time(field.type) or pa.types.is_float16(field.type) or pa.types.is_duration(field.type):
            raise LogError(
                f"{path}: Spark can't read column {field.name!r} ({field.type}); cast it, or use --engine duckdb"
            )
    frame = session.read.parquet(_literal(path))
    for field in schema:
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            moment = f.expr(f"timestamp_micros(genrank_floor_division(`{field.name.replace('`', '``')}`, 1000))")
            frame = frame.withColumn(field.name, moment if field.type.tz else moment.cast("timestamp_ntz"))
    for name, value in partition_values(path, paths).items():
        frame = frame.withColumn(name, f.lit(value))
    return frame


def _literal(path: Path) -> str:
    """The path as one that Spark takes for this file only."""
    escaped = "".join(f"\\{letter}" if letter in "*?[]{}\\" else letter for letter in str(path.absolute()))
    return f"file:{escaped}"
