"""One function of every bucket's rows, run by Spark's workers, whose results reach the driver bucket by bucket."""

import pickle
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.errors import InputError
from genrank.preparation.engine import BucketFunction
from genrank.preparation.spark_numbers import stored

BUCKET = "genrank_bucket"
RESULT = "bucket int, note binary, rows binary"  # a note, or the user's error; behind it rows as streams of Arrow
ROWS_SENT = 2**18  # at a time
IDS_PER_PARTITION = 64  # tried until every partition has one: of n partitions one stays without by n·e⁻⁶⁴


def map_in_arrow(
    frame: Any, key: str, function: BucketFunction, *, num_buckets: int, order_by: Sequence[str], schema: pa.Schema
) -> Iterator[tuple[pa.Table, Any]]:
    """The function's results on the rows of `frame`, of `schema`, in order of bucket. See Engine.map_buckets.

    One shuffle makes every bucket a partition. Each is arranged by the worker that has it, and stored there as rows
    that hold a stream of Arrow; the driver fetches one partition after the other, and the next one meanwhile.
    """
    from pyspark.sql import functions as f

    ids = f.lit(_ids_of_partitions(frame.sparkSession, num_buckets))
    numbered = frame.withColumn(BUCKET, (f.col(key) % num_buckets).cast("int"))
    spread = numbered.repartition(num_buckets, f.element_at(ids, f.col(BUCKET) + 1)).sortWithinPartitions(*order_by)

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        rows = pa.Table.from_batches(parts)
        number = rows[BUCKET][0].as_py()
        try:
            table, note = function(number, rows.drop_columns(BUCKET).cast(schema))
        except InputError as problem:
            yield _sent(number, pickle.dumps(problem), None)
            return
        yield _sent(number, pickle.dumps(note), None)
        for begin in range(0, table.num_rows, ROWS_SENT):
            yield _sent(number, None, _stream(table.slice(begin, ROWS_SENT)))

    return _results(stored(spread.mapInArrow(work, RESULT)), function, num_buckets, schema)


def _ids_of_partitions(session: Any, num_partitions: int) -> NDArray[np.int64]:
    """For every partition a number that Spark's hash puts into it."""
    from pyspark.sql import functions as f

    tried = session.range(IDS_PER_PARTITION * num_partitions).select("id", f.pmod(f.hash("id"), f.lit(num_partitions)))
    found = {partition: number for number, partition in tried.collect()}
    return np.array([found[partition] for partition in range(num_partitions)], np.int64)


def _sent(number: int, note: bytes | None, rows: bytes | None) -> pa.RecordBatch:
    columns = [pa.array([number], pa.int32()), pa.array([note], pa.binary()), pa.array([rows], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, ["bucket", "note", "rows"])


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _results(
    sent: Any, function: BucketFunction, num_buckets: int, schema: pa.Schema
) -> Iterator[tuple[pa.Table, Any]]:
    """Bucket by bucket what the workers sent; a bucket without rows is the driver's."""
    number = 0
    for bucket, rows in groupby(sent.toLocalIterator(prefetchPartitions=True), attrgetter("bucket")):
        for empty in range(number, bucket):
            yield function(empty, schema.empty_table())
        first, *parts = rows
        note = pickle.loads(first.note)  # noqa: S301, a note of our own workers
        if isinstance(note, InputError):
            raise note
        tables = [pa.ipc.open_stream(part.rows).read_all() for part in parts]
        yield (pa.concat_tables(tables) if tables else function(bucket, schema.empty_table())[0]), note
        number = bucket + 1
    for empty in range(number, num_buckets):
        yield function(empty, schema.empty_table())
