"""The engine of log preparation: Ibis expressions on an embedded DuckDB that spills to disk.

Whatever is relational is an Ibis expression; `store` and `fetch` are the only ways to run one. So the expressions know
no DuckDB, and an engine on another Ibis backend needs this module only.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
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

    def text(self, paths: list[Path], *, text_columns: tuple[str, ...] = (), **options: Any) -> Expression:
        """The rows of delimited text files, stored so that they are parsed once.

        `text_columns` are kept as text (ids, "007"); the other types are detected. `options` are DuckDB's `read_csv`
        options, such as `delim`, `columns`, `header`.
        """
        names = [str(path) for path in paths]
        if "columns" in options:
            options = {"auto_detect": False, "header": False} | options
        with self._guard():
            if text_columns:
                present = self._connection.read_csv(names, **options).columns
                options["types"] = {name: "VARCHAR" for name in text_columns if name in present}
            return self.store(self._connection.read_csv(names, **options))

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


def _translated(problem: Exception) -> Exception:
    """DuckDB's error as one line of ours that says what to do."""
    text = re.sub(r"\s+", " ", str(problem).partition("\n\n")[0]).strip()
    if "No space left" in text or "max_temp_directory_size" in text:
        return OutputError(f"no space left on the disk while preparing; free some or choose another --out ({text})")
    if type(problem).__name__ == "OutOfMemoryException":
        return OutputError(f"the memory limit is too small; raise it with --memory-limit ({text})")
    return LogError(f"the log can't be read: {text}; mend or leave out the file or value named here")


def describe_versions() -> Mapping[str, str]:
    """Versions of the libraries that decide the bytes written."""
    import duckdb
    import numpy as np

    versions = {"ibis": import_ibis().__version__, "duckdb": duckdb.__version__}
    return versions | {"numpy": np.__version__, "pyarrow": pa.__version__}
