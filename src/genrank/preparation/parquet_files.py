"""Errors of Parquet files, in plain words."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrank.errors import LogError

MAGIC = b"PAR1"


def parquet_columns(path: Path) -> list[str]:
    """Names of a file's columns. Raises LogError for one that can't be read or is no Parquet."""
    try:
        return pq.read_schema(path).names  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError, ValueError):
        raise LogError(f"{path}: {_kind(path)}; write or copy it again") from None


def check_columns(present: Mapping[str, Collection[str]], wanted: Sequence[str]) -> None:
    """Refuses files that lack a column which others have: its values would silently be unknown there."""
    for name in wanted:
        with_it = [path for path, columns in present.items() if name in columns]
        without = [path for path, columns in present.items() if name not in columns]
        if with_it and without:
            raise LogError(
                f"{without[0]}: there is no column {name!r}, which {with_it[0].rpartition('/')[2]} has "
                f"({len(without)} of {len(present)} files lack it); add the column, with empty values where they are "
                "unknown"
            )


def parquet_damage(path: Path) -> str | None:
    """What keeps a file from being read, found by reading all of it; None if it can be read."""
    try:
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            for column in file.schema_arrow.names:
                file.read_row_group(number, columns=[column])
    except (pa.ArrowException, OSError, ValueError):
        return _kind(path)
    return None


def _kind(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
            file.seek(max(0, size - len(MAGIC)))
            end = file.read()
    except OSError as unread:
        return f"can't be read ({unread.strerror or type(unread).__name__})"
    if not size:
        return "expected Parquet, found an empty file"
    if begin != MAGIC:
        return "expected Parquet, found another format with that name (if it is text, rename it to .csv)"
    if end != MAGIC:
        return "expected Parquet, found a file without its end, as if cut"
    return "expected Parquet, found a damaged file"
