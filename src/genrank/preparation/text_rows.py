"""The rows of delimited text files in the engine: all of them, or an error that names file and line.

Plain files the engine reads as they are. Any other is written anew in plain form first (preparation/text_records.py),
where what is wrong is found; so is one that the engine refuses, or of which it reads more or fewer rows than counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from genrank.errors import LogError, shown
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.file_kinds import as_utf8, unreadable
from genrank.preparation.text_records import records, write_plain
from genrank.preparation.text_scan import Dialect, plain_rows

NUMBERS = ("BIGINT", "DOUBLE")


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file of the user's (`name`), its content in UTF-8, and how many rows it has. `copy`: in plain form, if any."""

    name: Path
    content: Path
    folder: Path  # for copies
    rows: int = 0
    copy: Path | None = None


def read_rows(
    engine: Engine,
    paths: Sequence[Path],
    dialect: Dialect,
    *,
    keep: Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
    encodings: Mapping[Path, str] | None = None,
) -> Expression:
    """The columns `keep` of all rows of files of one dialect, in their order, stored in the engine.

    `types`: column → the engine's type, text where none is given; `encodings`: file → Python's name, else UTF-8. Raises
    LogError, with file and line, for what isn't as the dialect says.
    """
    reading = _Reading(engine, dialect, keep or dialect.names, types or {})
    engine.scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="text-", dir=engine.scratch) as folder:
        return reading.read([reading.look(path, (encodings or {}).get(path, "utf-8"), Path(folder)) for path in paths])


class _Reading:
    def __init__(self, engine: Engine, dialect: Dialect, keep: Sequence[str], types: Mapping[str, str]) -> None:
        self.engine, self.dialect, self.keep, self.types = engine, dialect, keep, types

    def look(self, path: Path, encoding: str, folder: Path) -> _File:
        """The file in UTF-8, and its rows counted."""
        utf8 = as_utf8(path, encoding, _new(folder))
        try:
            rows = plain_rows(utf8, self.dialect)
        except OSError as problem:
            raise unreadable(path, problem) from None
        file = _File(name=path, content=utf8, folder=folder)
        return self._anew(file) if rows is None else replace(file, rows=rows)

    def read(self, files: list[_File]) -> Expression:
        """The rows of all files, as many as were counted."""
        try:
            rows = self._in_engine(files)
            if self._count(rows) == sum(file.rows for file in files):
                return rows
        except LogError:
            pass  # the reader of records says what is wrong, and where
        files = [file if file.copy else self._anew(file) for file in files]
        for file in files:
            self._check_numbers(file)
        names = ", ".join(str(file.name) for file in files[:3])
        expected = sum(file.rows for file in files)
        try:
            rows = self._in_engine(files)
        except LogError:
            raise LogError(f"{names}: can't be read; export it once more as CSV, or as Parquet") from None
        if self._count(rows) != expected:
            raise LogError(f"{names}: expected {expected:,} rows, found {self._count(rows):,}; export it as Parquet")
        return rows

    def _anew(self, file: _File) -> _File:
        copy = _new(file.folder)
        try:
            rows = write_plain(file.name, file.content, self.dialect, self.keep, copy)
        except OSError as problem:
            raise unreadable(file.name, problem) from None
        return replace(file, rows=rows, copy=copy)

    def _in_engine(self, files: list[_File]) -> Expression:
        dialect = self.dialect.plainest
        return self.engine.text(
            [file.copy or file.content for file in files],
            columns={name: self.types.get(name, "VARCHAR") for name in dialect.names},
            keep=self.keep,
            header=dialect.header,
            separator=dialect.separator,
            quote=dialect.quote,
        )

    def _count(self, rows: Expression) -> int:
        return int(self.engine.row(rows.aggregate(rows=rows.count()))["rows"])

    def _check_numbers(self, file: _File) -> None:
        """Refuses a value that is no number in a column of numbers."""
        numbers = [(self.dialect.names.index(name), name) for name in self.keep if self.types.get(name) in NUMBERS]
        for row in records(file.name, file.content, self.dialect) if numbers else ():
            for place, name in numbers:
                if row.values[place] and not _is_number(row.values[place]):
                    raise LogError(
                        f"{file.name}, line {row.line}: expected a number in column {name!r}, found "
                        f"{shown(row.values[place])}; correct or remove the line"
                    )


def _new(folder: Path) -> Path:
    return folder / f"{len(list(folder.iterdir()))}.csv"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
