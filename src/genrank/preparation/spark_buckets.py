"""One function of every bucket's rows, run by Spark's workers."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrank.preparation.engine import BucketFunction

BUCKET, NOTE = "genrank_bucket", "genrank_note"


def map_in_arrow(
    frame: Any, key: str, function: BucketFunction, *, num_buckets: int, order_by: Sequence[str], schema: pa.Schema
) -> Callable[[int], tuple[pa.Table, Any]]:
    """The function's results on the rows of `frame`, as a function of the bucket's number. See Engine.map_buckets.

    schema: of the frame. The note travels in a row of its own, before the others.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as f
    from pyspark.sql.pandas.types import from_arrow_schema

    found = function(0, schema.empty_table())[0].schema
    numbered = frame.withColumn(BUCKET, (f.col(key) % num_buckets).cast("int"))
    spread = numbered.repartition(num_buckets, BUCKET).sortWithinPartitions(BUCKET, *order_by)

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        rows = pa.Table.from_batches(parts)
        for number in pc.unique(rows[BUCKET]).to_pylist():
            bucket = rows.filter(pc.equal(rows[BUCKET], number)).drop_columns(BUCKET).cast(schema)
            table, note = function(number, bucket)
            first = pa.table({field.name: pa.nulls(1, field.type) for field in found}, schema=found)
            table = pa.concat_tables([first, table.cast(found)])
            notes = pa.array([pickle.dumps(note), *[None] * (table.num_rows - 1)], pa.binary())
            numbers = pa.array([number] * table.num_rows, pa.int32())
            yield from table.append_column(NOTE, notes).append_column(BUCKET, numbers).combine_chunks().to_batches()

    sent = found.append(pa.field(NOTE, pa.binary())).append(pa.field(BUCKET, pa.int32()))
    mapped = spread.mapInArrow(work, from_arrow_schema(sent, prefer_timestamp_ntz=True)).persist(StorageLevel.DISK_ONLY)

    def of(number: int) -> tuple[pa.Table, Any]:
        table = mapped.filter(f.col(BUCKET) == number).drop(BUCKET).toArrow()
        if not table.num_rows:
            return function(number, schema.empty_table())
        is_note = pc.is_valid(table[NOTE])
        note = pickle.loads(table[NOTE].filter(is_note)[0].as_py())  # noqa: S301, a note of our own workers
        return table.filter(pc.invert(is_note)).drop_columns(NOTE).cast(found), note

    return of
