"""Delimited text files of any dialect, as rows of text: detects the separator, quote, encoding and header.

Only the dialect is detected, from a file's beginning; every row is then read in that dialect. The rows are counted
without the engine (`preparation/text_rows.py`), and the engine must read the same number. Types come later, from the
columns' roles (tidying), so that no value decides how others are read.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrank.errors import LogError, shown
from genrank.log_settings import CsvSettings
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.file_kinds import beginning
from genrank.preparation.text_rows import read_rows
from genrank.preparation.text_scan import Dialect

SEPARATORS = (",", "\t", ";", "|", "\x01")


def read_text(
    engine: Engine, paths: Sequence[Path], given: CsvSettings, wanted: Sequence[str]
) -> tuple[Expression, dict[Path, tuple[str, ...]]]:
    """The rows of all files with the columns of `wanted` that they have, as text, and each file's columns.

    `given` settings are taken, the others found out per file. Raises LogError for files that are no such text.
    """
    alike: dict[Dialect, list[Path]] = {}
    names: dict[Path, tuple[str, ...]] = {}
    encodings: dict[Path, str] = {}
    for path in paths:
        encodings[path], sample = beginning(path, given.encoding)
        dialect = (_without_names if given.columns else _dialect)(path, sample, given, wanted)
        names[path] = dialect.names
        alike.setdefault(dialect, []).append(path)
    parts = []
    for dialect, files in alike.items():
        keep = [name for name in dialect.names if name in wanted] or list(dialect.names)
        parts.append(read_rows(engine, files, dialect, keep=keep, encodings=encodings))
    present = [name for name in dict.fromkeys(wanted) if any(name in part.columns for part in parts)]
    whole = [_with_columns(engine, part, present) for part in parts]
    return (engine.ibis.union(*whole) if len(whole) > 1 else whole[0]), names


def guessed_dialect(sample: str) -> Dialect:
    """The dialect of a text of which no column is known: the one that makes the most columns of equally long rows."""
    tried = [(each, quote, _parsed(sample, each, quote)) for each in SEPARATORS for quote in ('"', "")]

    def merit(attempt: tuple[str, str, list[list[str]]]) -> tuple[bool, float]:
        header, *rows = attempt[2]
        alike = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        return len(header) > 1 and (alike > 0.5 or not rows), alike * len(header)

    separator, quote, rows = max(tried, key=merit)
    return Dialect(separator=separator, quote=quote, names=tuple(_stripped(rows[0])))


def read_published(
    engine: Engine, paths: Sequence[Path], columns: Mapping[str, str], *, separator: str, header: bool, quote: str = '"'
) -> Expression:
    """The rows of a published data set's files. `columns`: all of them, in their order, by the engine's type."""
    for path in paths:
        beginning(path, "utf-8")
    dialect = Dialect(separator=separator, quote=quote, names=tuple(columns), header=header, quote_given=True)
    return read_rows(engine, paths, dialect, types=columns)


def _with_columns(engine: Engine, part: Expression, names: Sequence[str]) -> Expression:
    null = engine.ibis.null("string")
    columns = {name: part[name] if name in part.columns else null for name in names}
    return part.select(**columns) if columns else part


def _dialect(path: Path, sample: str, given: CsvSettings, wanted: Sequence[str]) -> Dialect:
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
        found = shown(", ".join(names[:8]))
        before = _lines_before_names(sample, separators, wanted)
        remedy = (
            f"they are in line {before + 1}: take out what is before,"
            if before
            else "add a line of column names, or set csv.columns,"
        )
        raise LogError(
            f"{path}: expected columns such as {wanted[0]!r} in its first line, found {found} (separator "
            f"{separator!r}); {remedy} correct the schema's, or set [csv] separator or encoding"
        )
    for name in names:
        if names.count(name) > 1 and name in wanted:
            raise LogError(f"{path}: there are {names.count(name)} columns {name!r}; rename all but one")
    return Dialect(separator=separator, quote=quote, names=_unique(names), quote_given=given.quote is not None)


def _without_names(path: Path, sample: str, given: CsvSettings, wanted: Sequence[str]) -> Dialect:
    """The dialect of a file without a line of names: the separator that makes most rows as long as `csv.columns`."""
    names = given.columns
    separators = (given.separator,) if given.separator is not None else SEPARATORS
    quotes = (given.quote,) if given.quote is not None else ('"', "")
    tried = [(separator, quote, _parsed(sample, separator, quote)) for separator in separators for quote in quotes]
    separator, quote, rows = max(tried, key=lambda attempt: sum(len(row) == len(names) for row in attempt[2]))
    if not any(len(row) == len(names) for row in rows):
        raise LogError(
            f"{path}: expected rows of {len(names)} values, one for each of csv.columns, found {len(rows[0])} "
            f"(separator {separator!r}); name all columns in their order, or set [csv] separator"
        )
    if _stripped(rows[0]) == list(names):
        raise LogError(f"{path}: its first line holds the names in csv.columns; leave csv.columns out")
    if wanted and not set(names) & set(wanted):
        raise LogError(f"{path}: csv.columns names none of the schema's columns, such as {wanted[0]!r}; correct one")
    return Dialect(separator=separator, quote=quote, names=names, header=False, quote_given=given.quote is not None)


def _lines_before_names(sample: str, separators: Sequence[str], wanted: Sequence[str]) -> int:
    """How many lines there are before the first one that names most of the columns; 0 if there is none."""
    for number, line in enumerate(sample.splitlines()):
        names = max((set(_stripped(line.replace('"', "").split(separator))) for separator in separators), key=len)
        if 2 * len(names & set(wanted)) > len(set(wanted)):
            return number
    return 0


def _parsed(sample: str, separator: str, quote: str) -> list[list[str]]:
    """The sample's rows, without the last one, which may be cut."""
    options: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    lines = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, strict=True, **options)
    rows: list[list[str]] = []
    first = [sample.strip("\r\n").splitlines()[0]]  # where no row is whole
    try:
        rows += (row for row in lines if row)
    except csv.Error as problem:
        if "end of data" not in str(problem):  # which is where the sample was cut
            return [*(rows or [first]), []]  # a row unlike the header
    return rows[:-1] if len(rows) > 2 else rows or [first]


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
