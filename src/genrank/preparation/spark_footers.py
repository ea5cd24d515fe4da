"""What Parquet files at any address say of their columns, read by Spark's own file systems and credentials."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genrank.errors import LogError

AT_A_TIME = 16
UNREADABLE = ("(TIME(", "(FLOAT16", "(INTERVAL")  # Parquet's types that Spark has none for


def columns_of(session: Any, paths: Sequence[str]) -> list[dict[str, str]]:
    """Of every file, column → its type in Parquet's words. LogError for no Parquet, and for types that Spark lacks."""
    with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
        return list(pool.map(lambda path: _columns(session, path), paths))


def _columns(session: Any, path: str) -> dict[str, str]:
    from py4j.protocol import Py4JJavaError

    java = session._jvm.org.apache
    try:
        settings = session.sparkContext._jsc.hadoopConfiguration()
        source = java.parquet.hadoop.util.HadoopInputFile.fromPath(java.hadoop.fs.Path(path), settings)
        reader = java.parquet.hadoop.ParquetFileReader.open(source)
    except Py4JJavaError as problem:
        if "is not a Parquet file" not in str(problem):
            raise
        raise LogError(f"{path}: expected Parquet, found a damaged or another file; write or copy it again") from None
    try:
        fields = reader.getFooter().getFileMetaData().getSchema().getFields()
        found = {field.getName(): field.toString() for field in fields}
    finally:
        reader.close()
    for name, kind in found.items():
        if any(each in kind for each in UNREADABLE):
            raise LogError(f"{path}: Spark can't read column {name!r} ({kind}); cast it")
    return found
