"""A Parquet file as a frame of Spark, with the columns that DuckDB finds in it."""

from collections.abc import Mapping
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
    frame = session.read.parquet(literal(f"file:{path.absolute()}"))
    times = [field for field in schema if pa.types.is_timestamp(field.type) and field.type.unit == "ns"]
    frame = in_microseconds(frame, {field.name: field.type.tz is not None for field in times})
    for name, value in partition_values(path, paths).items():
        frame = frame.withColumn(name, f.lit(value))
    return frame


def in_microseconds(frame: Frame, columns: Mapping[str, bool]) -> Frame:
    """The frame with columns of nanoseconds, which Spark reads as whole numbers, as times: true for those of UTC."""
    from pyspark.sql import functions as f

    for name, zoned in columns.items():
        moment = f.expr(f"timestamp_micros(genrank_floor_division({quoted(name)}, 1000))")
        frame = frame.withColumn(name, moment if zoned else moment.cast("timestamp_ntz"))
    return frame


def quoted(name: str) -> str:
    """A column's name as Spark takes it literally."""
    return "`" + name.replace("`", "``") + "`"


def literal(address: str) -> str:
    """The address of a file as a pattern that Spark takes for this file only."""
    return "".join(f"\\{letter}" if letter in "*?[]{}\\" else letter for letter in address)
