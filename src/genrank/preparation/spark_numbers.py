"""Frames stored on the executors' disks, and numbers of rows in an order that no single task sorts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Frame = Any  # a pyspark.sql.DataFrame
ROW_BITS = 33  # of monotonically_increasing_id: the row in its partition; those above are the partition's number


def stored(frame: Frame) -> Frame:
    """The frame computed once, with its partitions and the order of their rows."""
    from pyspark import StorageLevel

    return frame.localCheckpoint(storageLevel=StorageLevel.DISK_ONLY)


def with_numbers(frame: Frame, order_by: Sequence[str], *, name: str, first: int) -> Frame:
    """The rows in order of columns `order_by`, which tell them apart, with numbers from `first` in int column `name`.

    Partitions are ranges of that order. A row's number is its number in its partition, behind all earlier partitions'
    rows, whose counts (one per partition) are all that the driver sees.
    """
    from pyspark.sql import functions as f

    ranges = stored(frame.repartitionByRange(*order_by).sortWithinPartitions(*order_by))
    sizes = np.zeros(ranges.rdd.getNumPartitions(), np.int64)
    for partition, count in ranges.groupBy(f.spark_partition_id()).count().collect():
        sizes[partition] = count
    before = f.lit(first + np.cumsum(sizes) - sizes)
    row = f.monotonically_increasing_id().bitwiseAND(2**ROW_BITS - 1)
    number = f.element_at(before, f.spark_partition_id() + 1) + row
    return ranges.withColumn(name, number.cast("int"))
