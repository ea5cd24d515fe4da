"""The rows of a delimited text file, strictly one by one: errors with their line, and a copy in a plain form.

This reads every dialect at about ten times the cost of the engine, so it is used only for files that aren't plain to
`preparation/text_scan.py`, and for those that the engine refuses.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from genrank.errors import LogError, shown
from genrank.preparation.file_kinds import ENCODINGS
from genrank.preparation.text_scan import LONGEST_ROW, Dialect

REMEDY = "correct or remove the line, or set [csv] separator or quote"
NO_QUOTE = "set [csv] quote ('' for none)"
BATCH = 10_000  # rows written at a time
UNREADABLE = "surrogateescape"  # bytes that aren't text are an error in the columns to read only


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """A row, and the line of the file in which it begins, from 1."""

    line: int
    values: Sequence[str]


def write_plain(name: Path, path: Path, dialect: Dialect, keep: Sequence[str], target: Path) -> int:
    """Writes `path` (UTF-8) anew, as plain as can be, in `dialect.plainest`; returns how many rows it has.

    Raises LogError, in which the file is called `name`, for the first line that isn't right; values that are no text
    are right in columns other than `keep`.
    """
    places = [dialect.names.index(column) for column in keep]
    rows = records(name, path, dialect)
    num_rows = 0
    with target.open("w", encoding="utf-8", errors=UNREADABLE, newline="") as file:
        write = _writer(file, dialect.plainest)
        if dialect.header:
            write([dialect.names])
        while batch := list(islice(rows, BATCH)):
            _check_text(name, batch, places)
            write(row.values for row in batch)
            num_rows += len(batch)
    return num_rows


def _writer(file: IO[str], dialect: Dialect) -> Callable[[Iterable[Sequence[str]]], object]:
    if dialect.quote:
        options: dict[str, Any] = {"quotechar": dialect.quote, "quoting": csv.QUOTE_ALL, "lineterminator": "\n"}
        return csv.writer(file, delimiter=dialect.separator, **options).writerows
    return lambda rows: file.writelines(dialect.separator.join(row) + "\n" for row in rows)


def records(name: Path, path: Path, dialect: Dialect) -> Iterator[Numbered]:
    """The rows of a UTF-8 file, each with all columns of the dialect; empty lines are none, nor is the header."""
    header: list[str] | None = None
    with path.open(encoding="utf-8-sig", errors=UNREADABLE, newline="") as file:
        lines = _Lines(name, file)
        for row in _rows(lines, dialect):
            first, raw = lines.taken()
            if not row:
                continue
            if dialect.header and header is None:
                header = row
                continue
            if len(row) != len(dialect.names):
                raise _ragged(lines, first, raw, row, dialect)
            if _same_names(row, header):
                raise LogError(f"{name}, line {first}: the column names again; {_SEVERAL}")
            if len(raw) > 1 and not dialect.quote_given and _reads_as_lines(raw, dialect):
                raise _ambiguous(name, first, raw)
            yield Numbered(line=first, values=row)


class _Lines:
    """The lines of a file one by one, and which of them the reader took for a row."""

    def __init__(self, name: Path, file: IO[str]) -> None:
        self.name, self._file = name, file
        self.number = 0
        self._raw: list[str] = []
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(LONGEST_ROW):
            self.number += 1
            if "\0" in line:
                raise LogError(
                    f"{self.name}, line {self.number}: expected text, found a zero byte; correct or remove the line, "
                    f"or set [csv] encoding, {ENCODINGS}"
                )
            self._raw.append(line)
            self._length += len(line)
            if self._length >= LONGEST_ROW:
                raise LogError(
                    f"{self.name}, line {self.begin}: expected a row of at most {LONGEST_ROW:,} characters, found a "
                    f"longer one: is a quote not closed? Correct or remove the line, or {NO_QUOTE}"
                )
            yield line

    @property
    def begin(self) -> int:
        """The line in which the row that is being read begins."""
        return self.number - max(len(self._raw), 1) + 1

    def taken(self) -> tuple[int, list[str]]:
        """The first line's number and all lines of the row that was read; the next row begins after them."""
        first, raw = self.begin, self._raw
        self._raw, self._length = [], 0
        return first, raw

    def at_end(self) -> bool:
        """Whether the line read last is the file's last."""
        place = self._file.read(1)
        return not place


def _rows(lines: _Lines, dialect: Dialect) -> Iterator[list[str]]:
    if not dialect.quote:
        for line in lines:
            text = line.rstrip("\r\n")
            yield text.split(dialect.separator) if text else []
        return
    limit = csv.field_size_limit(LONGEST_ROW)
    try:
        yield from csv.reader(lines, delimiter=dialect.separator, quotechar=dialect.quote, strict=True)
    except csv.Error as problem:
        raise _misquoted(lines, str(problem)) from None
    finally:
        csv.field_size_limit(limit)


def _misquoted(lines: _Lines, problem: str) -> LogError:
    if "end of data" in problem:
        return LogError(
            f"{lines.name}, line {lines.begin}: expected a closing quote, found none up to the file's end; correct the "
            f"value (is the file cut?), or {NO_QUOTE}"
        )
    return LogError(
        f"{lines.name}, line {lines.number}: expected a separator or the line's end after a closing quote, found "
        f"something else (the row begins in line {lines.begin}); write quotes inside of values twice, or {NO_QUOTE}"
    )


_SEVERAL = "are these several files one after the other? Give them as files of their own, or take out the line"


def _ragged(lines: _Lines, first: int, raw: list[str], row: list[str], dialect: Dialect) -> LogError:
    expected = len(dialect.names)
    what = f"expected {expected} values, one for each column name, found {len(row)}"
    where = f"{lines.name}, line {first}: {what} ({shown(''.join(raw).strip())})"
    names = {name.strip() for name in row} & set(dialect.names)
    if dialect.header and 2 * len(names) > expected:
        return LogError(f"{where}, which are column names; {_SEVERAL}")
    if len(row) < expected and lines.at_end():
        return LogError(
            f"{where} in the last line; is the file cut, or is that a footer? {REMEDY[0].upper()}{REMEDY[1:]}"
        )
    return LogError(f"{where}; {REMEDY}")


def _same_names(row: list[str], header: list[str] | None) -> bool:
    return header is not None and row[-1].strip() == header[-1].strip() and _stripped(row) == _stripped(header)


def _stripped(row: list[str]) -> list[str]:
    return [value.strip("\ufeff ") for value in row]


def _reads_as_lines(raw: list[str], dialect: Dialect) -> bool:
    """Whether a row of several lines would be as many rows if quotes were no quotes: both can be meant."""
    return len(dialect.names) > 1 and all(line.count(dialect.separator) == len(dialect.names) - 1 for line in raw)


def _ambiguous(name: Path, first: int, raw: list[str]) -> LogError:
    return LogError(
        f"{name}, lines {first} to {first + len(raw) - 1}: one value from a quote to the next, or {len(raw)} rows? Set "
        "[csv] quote ('\"' for one value, '' for rows), or correct the quotes"
    )


def _check_text(name: Path, batch: list[Numbered], places: list[int]) -> None:
    for row in batch:
        values = "".join([row.values[place] for place in places])
        if not values.isascii():
            try:
                values.encode()
            except UnicodeEncodeError:
                raise LogError(f"{name}, line {row.line}: not UTF-8; set [csv] encoding, {ENCODINGS}") from None
