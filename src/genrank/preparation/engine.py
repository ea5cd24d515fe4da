"""The engine of log preparation: Ibis expressions on an embedded DuckDB that spills to disk.

Whatever is relational is an Ibis expression; `store` and `fetch` are the only ways to run one. So the expressions know
no DuckDB, and an engine on another Ibis backend needs this module only.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from genrank.errors import LogError, MissingExtraError, OutputError, shown
from genrank.preparation.parquet_files import parquet_damage

LONGEST_LINE = 2**24  # bytes of a text file's row; text_scan refuses shorter ones
Expression = Any  # an ibis.Table; Ibis has no types that mypy could check
Column = Any  # an ibis.Column


class Engine:
    """A DuckDB of its own, gone when closed. `scratch`: where it spills what exceeds `memory_limit`, as in "4GB"."""

    def __init__(self, scratch: Path, *, memory_limit: str | None = None, threads: int | None = None) -> None:
        self.ibis = import_ibis()
        self.scratch = scratch
        self.threads = threads or os.cpu_count() or 1
        settings = {
            "temp_directory": str(scratch),
            "memory_limit": memory_limit or half_of_memory(),
            "disabled_optimizers": "statistics_propagation",
        }
        with self._guard():
            self._connection = self.ibis.duckdb.connect(":memory:", threads=self.threads, **settings)
            self._hide_progress_bar()
        self._num_tables = 0
        self._parquet: list[Path] = []

    def close(self) -> None:
        """Closes the database."""
        self._connection.disconnect()

    def fetch(self, expression: Expression) -> pa.Table:
        """The rows of an expression, in memory."""
        with self._guard():
            return self._connection.to_pyarrow(expression)

    def row(self, expression: Expression) -> dict[str, Any]:
        """The only row of an aggregation, as plain values."""
        values: dict[str, Any] = self.fetch(expression).to_pylist()[0]
        return values

    def store(self, expression: Expression) -> Expression:
        """The expression computed once, as a table of the engine."""
        self._num_tables += 1
        with self._guard():
            return self._connection.create_table(f"stored_{self._num_tables}", expression, temp=True)

    def _hide_progress_bar(self) -> None:
        """It would write over our own output. In Jupyter without ipywidgets it is off, and can't be touched."""
        if self._connection.raw_sql("SELECT current_setting('enable_progress_bar')").fetchone()[0]:
            self._connection.raw_sql("SET enable_progress_bar = false")

    def from_arrow(self, table: pa.Table) -> Expression:
        """An Arrow table, as a table of the engine."""
        return self.store(self.ibis.memtable(table))

    def parquet(self, paths: list[Path]) -> Expression:
        """The rows of Parquet files; columns are matched by name. They are read whenever the expression is used."""
        self._parquet += paths
        with self._guard():
            return self._connection.read_parquet([_literal(path) for path in paths], union_by_name=True)

    def text(
        self,
        paths: Sequence[Path],
        *,
        columns: Mapping[str, str],
        keep: Sequence[str],
        header: bool,
        separator: str,
        quote: str,
    ) -> Expression:
        """The columns `keep` of delimited text files, stored so that they are parsed once.

        Called by `preparation/text_rows.py` only, which counts the rows.

        `columns`: all of a file's, by DuckDB type. Nothing is found out or passed over: a row that isn't so is an
        error, but for one with an empty value more.
        """
        options: dict[str, Any] = {
            "auto_detect": False,
            "columns": dict(columns),
            "header": header,
            "skip": 0,
            "delim": separator,
            "quote": quote,
            "escape": quote,
            "comment": "",
            "strict_mode": True,
            "null_padding": False,
            "ignore_errors": False,
            "max_line_size": LONGEST_LINE,
            "hive_partitioning": False,
        }
        with self._guard():
            rows = self._connection.read_csv([_literal(path) for path in paths], **options)
            return self.store(rows.select(*keep))

    def looks_like(self, path: Path, names: Sequence[str], *, separator: str) -> dict[str, str]:
        """The DuckDB type that each column of a text file looks like, by its first rows; text if none."""
        known = {"int64": "BIGINT", "float64": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE"}
        try:
            with self._guard():
                first = self._connection.read_csv(_literal(path), delim=separator, header=True, skip=0, quote='"')
        except LogError:
            return dict.fromkeys(names, "VARCHAR")
        found = {name: str(kind) for name, kind in first.schema().items()}
        return {name: known.get(found.get(name, ""), "VARCHAR") for name in names}

    @contextmanager
    def _guard(self) -> Iterator[None]:
        import duckdb

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between releases of Ibis and DuckDB, not ours
            try:
                yield
            except duckdb.Error as problem:
                raise _translated(problem, self._parquet) from problem


def import_ibis() -> ModuleType:
    """The ibis module. Raises MissingExtraError if it or DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401
        import ibis
    except ImportError as problem:
        raise MissingExtraError(
            f"preparing logs needs Ibis and DuckDB ({problem.name} is missing); pip install 'genrank[prepare]'"
        ) from None
    module: ModuleType = ibis
    return module


def half_of_memory() -> str:
    """Half of this machine's memory, as DuckDB writes it; 4GB where it can't be told."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "4GB"
    return f"{max(total // 2**21, 256)}MiB"


def from_zone(local: Column, zone: str | None) -> Column:
    """Timestamps by the clocks of `zone` (None: UTC) as moments."""
    if zone is None:
        return local
    ibis = import_ibis()

    def timezone(zone: str, local: ibis.expr.datatypes.Timestamp()):  # type: ignore[no-untyped-def, valid-type]
        ...

    return ibis.udf.scalar.builtin(timezone, signature=((str, "timestamp"), "timestamp('UTC')"))(zone, local)


def parsed_time(text: Column, pattern: str) -> Column:
    """Timestamps in text of one pattern, as in %d.%m.%Y; null where it doesn't fit."""

    def try_strptime(text, pattern):  # type: ignore[no-untyped-def]
        ...

    return import_ibis().udf.scalar.builtin(try_strptime, signature=((str, str), "timestamp"))(text, pattern)


def with_offset(text: Column) -> Column:
    """Moments in ISO text that names its zone, as in 2023-11-15T11:15:00+08:00; null where it can't be read."""
    plain = text.re_replace(r"\s+([+-]\d\d(:?\d\d)?)$", r"\1").re_replace(r"([+-]\d\d)(\d\d)$", r"\1:\2")
    return plain.try_cast("timestamp('UTC')")


def text_of_bytes(data: Column) -> Column:
    """Bytes as the text that they are in UTF-8; the engine fails on others."""

    def decode(data):  # type: ignore[no-untyped-def]
        ...

    return import_ibis().udf.scalar.builtin(decode, signature=(("binary",), "string"))(data)


def floor_division(number: Column, divisor: int) -> Column:
    """Whole numbers divided and rounded down, without the floats that the engine's own division goes through."""

    def divide(number, divisor):  # type: ignore[no-untyped-def]  # rounds towards zero
        ...

    divided = import_ibis().udf.scalar.builtin(divide, signature=(("int64", "int64"), "int64"))
    quotient = divided(number, divisor)
    return (number % divisor < 0).ifelse(quotient - 1, quotient)


def microseconds(moment: Column) -> Column:
    """A timestamp of nanoseconds as one of microseconds, rounded down, which a cast doesn't."""
    ibis = import_ibis()

    def epoch_ns(moment):  # type: ignore[no-untyped-def]
        ...

    def make_timestamp(microseconds):  # type: ignore[no-untyped-def]
        ...

    nanoseconds = ibis.udf.scalar.builtin(epoch_ns, signature=((moment.type(),), "int64"))(moment)
    made = ibis.udf.scalar.builtin(make_timestamp, signature=(("int64",), "timestamp"))
    return made(floor_division(nanoseconds, 1000))


def _translated(problem: Exception, parquet: Sequence[Path]) -> Exception:
    """DuckDB's error as one line of ours that says what to do."""
    text = str(problem)
    if "No space left" in text or "max_temp_directory_size" in text:
        return OutputError("no space left on the disk while preparing; free some or choose another --out")
    if type(problem).__name__ == "OutOfMemoryException":
        return OutputError("the memory limit is too small; raise it with --memory-limit")
    for path in parquet:
        found = parquet_damage(path)
        if found is not None:
            return LogError(f"{path}: {found}; write or copy it again")
    value = re.search(r"'([^']*)'", text.partition("\n")[0])
    return LogError(
        f"the log can't be read: a value{f' ({shown(value[1])})' if value else ''} can't be used as its column is "
        f"({type(problem).__name__}); correct or remove the value, or name another column"
    )


def _literal(path: Path) -> str:
    """The path as a pattern that fits this path only."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def describe_versions() -> Mapping[str, str]:
    """Versions of the libraries that decide the bytes written."""
    import duckdb
    import numpy as np

    versions = {"ibis": import_ibis().__version__, "duckdb": duckdb.__version__}
    return versions | {"numpy": np.__version__, "pyarrow": pa.__version__}
