"""Delimited text files of any dialect, as rows of text: what their separator, quote and encoding are, and their header.

Types come later, from the columns' roles (tidying), so that no value decides how others are read.
"""

import codecs
import csv
import gzip
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from genrank.data.engine import Engine, Expression
from genrank.errors import LogError
from genrank.reading import Csv

SAMPLE = 2**16  # bytes at a file's beginning by which it is judged
SEPARATORS = (",", "\t", ";", "|", "\x01")
ENCODINGS = "as in latin-1, cp1252, gb18030"
BINARY = {b"PAR1": "Parquet", b"PK\x03\x04": "a zip or Excel file", b"\x1f\x8b": "gzip without .gz in its name"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file's rows are written. `names`: of its columns, each there once."""

    separator: str
    quote: str
    names: tuple[str, ...]


def read_text(
    engine: Engine, paths: Sequence[Path], given: Csv, wanted: Sequence[str]
) -> tuple[Expression, dict[Path, tuple[str, ...]]]:
    """The rows of all files with the columns of `wanted` that they have, as text, and each file's columns.

    `given` settings are taken, the others found out per file. Raises LogError for files that are no such text.
    """
    alike: dict[Dialect, list[Path]] = {}
    names: dict[Path, tuple[str, ...]] = {}
    for number, path in enumerate(paths):
        encoding, sample = _beginning(path, given.encoding)
        dialect = _dialect(path, sample, given, wanted)
        names[path] = dialect.names
        if encoding != "utf-8" or _mixes_line_ends(sample):
            path = _rewritten(path, encoding, engine.scratch / f"text-{number}")
        alike.setdefault(dialect, []).append(path)
    parts = [_rows(engine, files, dialect, wanted) for dialect, files in alike.items()]
    present = [name for name in dict.fromkeys(wanted) if any(name in part.columns for part in parts)]
    whole = [_with_columns(engine, part, present) for part in parts]
    return (engine.ibis.union(*whole) if len(whole) > 1 else whole[0]), names


def _rows(engine: Engine, files: list[Path], dialect: Dialect, wanted: Sequence[str]) -> Expression:
    keep = [name for name in dialect.names if name in wanted] or list(dialect.names)
    return engine.text(
        files,
        columns=dict.fromkeys(dialect.names, "VARCHAR"),
        keep=keep,
        header=True,
        delim=dialect.separator,
        quote=dialect.quote,
        escape=dialect.quote,
    )


def _with_columns(engine: Engine, part: Expression, names: Sequence[str]) -> Expression:
    null = engine.ibis.null("string")
    columns = {name: part[name] if name in part.columns else null for name in names}
    return part.select(**columns) if columns else part


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _beginning(path: Path, given: str | None) -> tuple[str, str]:
    """The file's encoding, and its first lines."""
    try:
        with closing(_open(path)) as file:
            head = file.read(SAMPLE)
    except (OSError, EOFError) as problem:
        raise LogError(f"{path}: can't be read ({problem}); check its permissions, or write or copy it again") from None
    for magic, kind in BINARY.items():
        if head.startswith(magic):
            raise LogError(f"{path}: expected text, found {kind}; rename it, or export it as CSV")
    encoding = codecs.lookup(given).name if given else _encoding(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=False)
    except UnicodeDecodeError as problem:
        line = head[: problem.start].count(b"\n") + 1
        raise LogError(f"{path}, line {line}: not {encoding}; set [csv] encoding, {ENCODINGS}") from None
    if "\0" in text:
        raise LogError(f"{path}: expected text, found zero bytes; set [csv] encoding, {ENCODINGS}, or write it again")
    if not text.strip("\ufeff\r\n "):
        raise LogError(f"{path}: the file is empty; expected a line of column names and one line per row")
    return encoding, text.removeprefix("\ufeff")


def _encoding(head: bytes) -> str:
    """By the byte order mark, or for UTF-16 without one by its zero bytes; else UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head and head[first::2].count(0) > 0.8 * len(head[first::2]):
            return name
    return "utf-8"


def _dialect(path: Path, sample: str, given: Csv, wanted: Sequence[str]) -> Dialect:
    """The separator with which the header has most of the wanted columns, and most rows are as long as the header."""
    separators = (given.separator,) if given.separator is not None else SEPARATORS
    quotes = (given.quote,) if given.quote is not None else ('"', "")
    tried = [(separator, quote, _parsed(sample, separator, quote)) for separator in separators for quote in quotes]

    def merit(attempt: tuple[str, str, list[list[str]]]) -> tuple[int, float]:
        header, *rows = attempt[2]
        alike = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        return len(set(_stripped(header)) & set(wanted)), alike

    separator, quote, rows = max(tried, key=merit)  # of equal ones the first
    names = _stripped(rows[0])
    if wanted and not set(names) & set(wanted):
        found = ", ".join(repr(name) for name in names[:8])
        raise LogError(
            f"{path}: expected columns such as {wanted[0]!r} in its first line, found {found} (separator "
            f"{separator!r}); add a line of column names, correct the schema's, or set [csv] separator or encoding"
        )
    for name in names:
        if names.count(name) > 1 and name in wanted:
            raise LogError(f"{path}: the column {name!r} is there {names.count(name)} times; rename all but one")
    return Dialect(separator=separator, quote=quote, names=_unique(names))


def _parsed(sample: str, separator: str, quote: str) -> list[list[str]]:
    """The sample's rows, without the last one, which may be cut."""
    options: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    lines = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, strict=True, **options)
    rows: list[list[str]] = []
    try:
        rows += (row for row in lines if row)
    except csv.Error as problem:
        if "end of data" not in str(problem):  # which is where the sample was cut
            return [*(rows or [[sample.splitlines()[0]]]), []]  # a row unlike the header
    return rows[:-1] if len(rows) > 2 else rows


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names]


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Names that the engine tells apart: it knows no case, and needs one for every column."""
    taken: set[str] = set()
    unique = []
    for number, name in enumerate(names):
        fresh = name or f"column_{number}"
        while fresh.lower() in taken:
            fresh += "_"
        taken.add(fresh.lower())
        unique.append(fresh)
    return tuple(unique)


def _mixes_line_ends(sample: str) -> bool:
    return 0 < sample.count("\r\n") < sample.count("\n")


def _rewritten(path: Path, encoding: str, folder: Path) -> Path:
    """A copy in UTF-8 with equal line ends, which is what the engine reads."""
    folder.mkdir(parents=True)
    copy = folder / path.name.removesuffix(".gz")
    try:
        with (
            closing(_open(path)) as file,
            io.TextIOWrapper(file, encoding=encoding) as source,
            copy.open("w", encoding="utf-8", newline="\n") as target,
        ):
            while block := source.read(2**20):
                target.write(block)
    except UnicodeError as problem:
        raise LogError(f"{path}: not {encoding} ({problem}); set [csv] encoding, {ENCODINGS}") from None
    return copy
