"""Logs that Spark alone can reach: Parquet files at an address, and tables of its catalogue.

Their rows are read once, with the columns that the schema names, and stored on the executors' disks; those of several
files in the order of files and rows, by a sort in ranges.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from genrank.errors import LogError
from genrank.preparation.log_addresses import Address
from genrank.preparation.parquet_files import check_columns
from genrank.preparation.spark_files import in_microseconds, literal, quoted
from genrank.preparation.spark_footers import columns_of
from genrank.preparation.spark_numbers import stored
from genrank.preparation.spark_partitions import partition_values

Frame = Any
PATH, FILE, ROW = "genrank_path", "genrank_file", "genrank_row_of_file"
TYPES = {"int": "bigint", "date": "date"}  # of values in folders' names; else text


def read_addresses(session: Any, addresses: Sequence[Address], wanted: Sequence[str]) -> Frame:
    """The rows of the files at `addresses`, or of one table, stored. `wanted`: columns to keep, if all are there."""
    table = addresses[0].table
    frame = session.table(table) if table is not None else _files(session, addresses, wanted)
    if FILE in frame.columns:
        frame = frame.repartitionByRange(FILE, ROW).sortWithinPartitions(FILE, ROW).drop(FILE, ROW)
    if set(wanted) <= set(frame.columns):
        frame = frame.select([quoted(name) for name in wanted])
    return stored(frame)


def _files(session: Any, addresses: Sequence[Address], wanted: Sequence[str]) -> Frame:
    """The rows of Parquet files, with the number of their file and theirs in it; folders' names have columns, too."""
    from pyspark.sql import functions as f

    session.sparkContext._jsc.hadoopConfiguration().setIfUnset("fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
    places = [unquote(each) if each.startswith("file:") else str(each) for each in addresses]
    listed = session.read.format("binaryFile").option("recursiveFileLookup", "true")
    listed = listed.option("pathGlobFilter", "*.{parquet,pq}").load(places).select("path", "_metadata.file_path")
    files = sorted({tuple(row) for row in listed.collect()}, key=lambda file: Path(file[0]).parts)
    if not files:
        raise LogError(f"{addresses[0]}: no .parquet files there; text files are read by paths of this machine only")
    names = [name for name, _ in files]
    footers = columns_of(session, names)
    paths = [Path(name) for name in names]
    folders = [partition_values(path, paths) for path in paths]
    check_columns({name: [*found, *folders[0]] for name, found in zip(names, footers, strict=True)}, wanted)
    frame = session.read.option("mergeSchema", "true").parquet(*map(literal, names))
    frame = in_microseconds(frame, _nanoseconds(footers)).drop(*folders[0])
    frame = frame.withColumns({PATH: f.col("_metadata.file_path"), ROW: f.col("_metadata.row_index")})
    rows = [
        (address, number, *folder.values())
        for number, ((_, address), folder) in enumerate(zip(files, folders, strict=True))
    ]
    kinds = [f"{quoted(name)} {_type([folder[name] for folder in folders])}" for name in folders[0]]
    numbers = session.createDataFrame(rows, ", ".join([f"{PATH} string", f"{FILE} bigint", *kinds]))
    return frame.join(f.broadcast(numbers), PATH).drop(PATH)


def _nanoseconds(footers: Sequence[dict[str, str]]) -> dict[str, bool]:
    """Columns of times in nanoseconds → whether they are times of UTC."""
    types = [pair for found in footers for pair in found.items() if "(TIMESTAMP(NANOS" in pair[1]]
    return {name: "(TIMESTAMP(NANOS,true" in kind for name, kind in types}


def _type(values: Sequence[Any]) -> str:
    kind = next((type(value).__name__ for value in values if value is not None), "str")
    return TYPES.get(kind, "string")
