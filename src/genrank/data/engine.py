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

from genrank.errors import LogError, MissingExtraError, OutputError

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
            self._connection.raw_sql("SET enable_progress_bar = false")  # it would write over our own output
        self._num_tables = 0

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

    def from_arrow(self, table: pa.Table) -> Expression:
        """An Arrow table, as a table of the engine."""
        return self.store(self.ibis.memtable(table))

    def parquet(self, paths: list[Path]) -> Expression:
        """The rows of Parquet files; columns are matched by name."""
        with self._guard():
            return self._connection.read_parquet([str(path) for path in paths], union_by_name=True)

    def text(
        self,
        paths: list[Path],
        *,
        text_columns: tuple[str, ...] = (),
        keep: Sequence[str] | None = None,
        **options: Any,
    ) -> Expression:
        """The rows of delimited text files, stored so that they are parsed once.

        `text_columns` are kept as text (ids, "007"); the other types are detected. `keep`: of the columns, those to
        store. `options` are DuckDB's `read_csv` options, such as `delim`, `columns`, `header`.
        """
        names = [str(path) for path in paths]
        if "columns" in options:
            options = {"auto_detect": False, "header": False} | options
        with self._guard():
            if text_columns:
                present = self._connection.read_csv(names, **options).columns
                options["types"] = {name: "VARCHAR" for name in text_columns if name in present}
            rows = self._connection.read_csv(names, **options)
            return self.store(rows if keep is None else rows.select(*keep))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        import duckdb

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between releases of Ibis and DuckDB, not ours
            try:
                yield
            except duckdb.Error as problem:
                raise _translated(problem) from problem


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


def _translated(problem: Exception) -> Exception:
    """DuckDB's error as one line of ours that says what to do."""
    text = re.sub(r"\s+", " ", str(problem).partition("\n\n")[0]).strip()
    if "No space left" in text or "max_temp_directory_size" in text:
        return OutputError(f"no space left on the disk while preparing; free some or choose another --out ({text})")
    if type(problem).__name__ == "OutOfMemoryException":
        return OutputError(f"the memory limit is too small; raise it with --memory-limit ({text})")
    explained = _explained_csv(str(problem))
    if explained is not None:
        return LogError(explained)
    return LogError(f"the log can't be read: {text}; mend or leave out the file or value named here")


def _explained_csv(text: str) -> str | None:
    """What is wrong in a text file, and in which line of it; None for an error that is no such thing."""
    line, file = re.search(r"CSV Error on Line: (\d+)", text), re.search(r"^\s*file = (.+)$", text, re.MULTILINE)
    name = Path(file[1]).name if file else "the log"
    where = f"{name}, line {line[1]}" if line else name
    length = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if length:
        row = re.search(r"^Original Line: (.*)$", text, re.MULTILINE)
        found = f" ({row[1][:80]!r})" if row else ""
        return (
            f"{where}: expected {length[1]} values, one for each column name, found {length[2]}{found}; mend or take "
            "out the line, or set [csv] separator or quote"
        )
    if "unicode" in text and "utf-8" in text.lower():
        return f"{where}: not UTF-8; set [csv] encoding, as in latin-1, cp1252, gb18030"
    if "unterminated quote" in text:
        return f"{where}: expected a closing quote, found none; mend the value, or set [csv] quote ('' for none)"
    if "CSV Parser state machine" in text:
        return (
            f"{where}: expected equal line ends and balanced quotes, found others; write it again, or set [csv] quote"
        )
    return None


def describe_versions() -> Mapping[str, str]:
    """Versions of the libraries that decide the bytes written."""
    import duckdb
    import numpy as np

    versions = {"ibis": import_ibis().__version__, "duckdb": duckdb.__version__}
    return versions | {"numpy": np.__version__, "pyarrow": pa.__version__}
