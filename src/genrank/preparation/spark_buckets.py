"""One function of every bucket's rows, run by Spark's workers."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrank.preparation.engine import BucketFunction

BUCKET = "genrank_bucket"


def map_in_arrow(
    frame: Any, key: str, function: BucketFunction, *, num_buckets: int, schema: pa.Schema
) -> Callable[[int], pa.Table]:
    """The function's results on the rows of `frame`, as a function of the bucket's number. See Engine.map_buckets."""
    from pyspark import StorageLevel
    from pyspark.sql import functions as f
    from pyspark.sql.pandas.types import from_arrow_schema

    numbered = frame.withColumn(BUCKET, (f.col(key) % num_buckets).cast("int"))
    spread = numbered.repartition(num_buckets, BUCKET)

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        rows = pa.Table.from_batches(parts)
        for number in pc.unique(rows[BUCKET]).to_pylist():
            bucket = rows.filter(pc.equal(rows[BUCKET], number)).drop_columns(BUCKET)
            found = function(number, bucket).cast(schema)
            found = found.append_column(BUCKET, pa.array([number] * found.num_rows, pa.int32()))
            yield from found.combine_chunks().to_batches()

    result = from_arrow_schema(schema.append(pa.field(BUCKET, pa.int32())), prefer_timestamp_ntz=True)
    mapped = spread.mapInArrow(work, result).persist(StorageLevel.DISK_ONLY)

    def of(number: int) -> pa.Table:
        return mapped.filter(f.col(BUCKET) == number).drop(BUCKET).toArrow().cast(schema)

    return of
