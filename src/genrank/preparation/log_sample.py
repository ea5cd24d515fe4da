"""The first rows of a log in any format, for `genrank schema`, which never reads a whole file.

At most MAX_ROWS rows and MAX_BYTES bytes of the first file are read, so a log of any size takes seconds.
"""

import codecs
import zlib
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from genrank.errors import LogError, shown
from genrank.preparation.file_kinds import beginning, opened, unreadable
from genrank.preparation.parquet_files import parquet_columns
from genrank.preparation.sources.files import PARQUET, expanded
from genrank.preparation.text_files import guessed_dialect
from genrank.preparation.text_scan import Dialect

MAX_ROWS = 200_000
MAX_BYTES = 64 * 2**20
MAX_VALUES = 4_000_000  # of all columns; wide logs have fewer rows in the sample
READ_ROWS = 8192  # of Parquet at a time
GUESSED_ENCODINGS = ("cp1252", "latin-1")  # of what is no UTF-8; any bytes are latin-1


@dataclass(frozen=True, kw_only=True)
class LogSample:
    """Rows from the beginning of a log's first file. Columns of text files are all text."""

    path: Path
    rows: pa.Table
    encoding: str | None = None  # a guess that the schema must give; None: found out by `prepare` as well
    skipped: int = 0  # rows of another length than the header
    repeated: tuple[str, ...] = ()  # names that several columns have, none of which are in `rows`


def sample_log(paths: Sequence[Path]) -> LogSample:
    """The beginning of the first file in `paths` (files, folders or patterns).

    Raises LogError for what is missing, empty, binary or damaged, has no line of column names, or has no rows.
    """
    path = next(file for each in paths for file in expanded(each))
    found = _parquet(path) if path.suffix.lower() in PARQUET else _text(path)
    if not found.rows.num_rows:
        raise LogError(f"{path}: the log has no rows; give one with exposures")
    most = max(1000, MAX_VALUES // max(found.rows.num_columns, 1))
    return replace(found, rows=found.rows.slice(0, min(most, MAX_ROWS)))


def _parquet(path: Path) -> LogSample:
    names = parquet_columns(path)
    batches, rows, size = list[pa.RecordBatch](), 0, 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(READ_ROWS):
                batches.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows >= MAX_ROWS or size >= MAX_BYTES:
                    break
            table = pa.Table.from_batches(batches, schema=batches[0].schema if batches else file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise LogError(f"{path}: can't be read ({reason}); write or copy it again") from None
    repeated = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
    return LogSample(path=path, rows=table.drop_columns(list(repeated)), repeated=repeated)


def _text(path: Path) -> LogSample:
    text, encoding = _decoded(path)
    dialect = guessed_dialect(text[: 2**16])
    _check_header(path, dialect)
    rows, skipped = _parsed(path, text, dialect)
    names = list(dialect.names)
    repeated = tuple(dict.fromkeys(name for name in names if names.count(name) > 1 or not name))
    kept = [place for place, name in enumerate(names) if name not in repeated]
    rows = rows.select([str(place) for place in kept]).rename_columns([names[place] for place in kept])
    return LogSample(
        path=path, rows=rows, encoding=encoding, skipped=skipped, repeated=tuple(name for name in repeated if name)
    )


def _decoded(path: Path) -> tuple[str, str | None]:
    """The sample's whole lines, and the encoding if it is a guess."""
    for given in (None, *GUESSED_ENCODINGS[:-1]):
        with suppress(LogError):
            return _lines(path, beginning(path, given)[0]), given
    last = GUESSED_ENCODINGS[-1]
    return _lines(path, beginning(path, last)[0]), last


def _lines(path: Path, encoding: str) -> str:
    try:
        with closing(opened(path)) as file:
            data = file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as problem:
        raise unreadable(path, problem) from None
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, final=False).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise LogError(f"{path}: not {encoding}; write it in UTF-8, or set [csv] encoding") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise LogError(f"{path}, line {line}: expected text, found zero bytes; write it again")
    if len(data) < MAX_BYTES:
        return text
    end = max(text.rfind("\n"), text.rfind("\r")) + 1
    if not end:
        raise LogError(f"{path}: no line ends within the first {MAX_BYTES // 2**20} MB; expected one line per row")
    return text[:end]


def _check_header(path: Path, dialect: Dialect) -> None:
    names = dialect.names
    if len(names) == 1:
        raise LogError(
            f"{path}: expected several columns separated by comma, tab, semicolon or |, found {shown(names[0])} in the "
            "first line; export it with one of these"
        )
    numbers = [name for name in names if name.replace(".", "").replace("-", "").isdigit()]
    if numbers:
        raise LogError(
            f"{path}: expected a line of column names, found {shown(', '.join(names[:8]))}; add such a line, or see "
            "genrank prepare --source for published data sets"
        )


def _parsed(path: Path, text: str, dialect: Dialect) -> tuple[pa.Table, int]:
    """The rows as text in columns named by their number, and how many were of another length than the header."""
    skipped = 0

    def skip(_: pcsv.InvalidRow) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    data = text.encode()
    names = [str(place) for place in range(len(dialect.names))]
    try:
        rows = pcsv.read_csv(
            pa.BufferReader(data),
            read_options=pcsv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
            parse_options=pcsv.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote or False,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowException as problem:
        reason = " ".join(str(problem).split())[:200]
        raise LogError(f"{path}: can't be read with the separator {dialect.separator!r} ({reason})") from None
    return rows.slice(1), skipped  # the first is the header
