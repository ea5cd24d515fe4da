"""The embedded engine: Ibis expressions on a DuckDB of one process, which spills to disk."""

import os
import re
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrank.errors import LogError, OutputError, shown
from genrank.preparation.engine import READ_ORDER, BucketFunction, Column, Engine, Expression, import_ibis
from genrank.preparation.log_addresses import Address
from genrank.preparation.parquet_files import parquet_damage
from genrank.preparation.value_functions import FUNCTIONS

LONGEST_LINE = 2**24  # bytes of a text file's row; text_scan refuses shorter ones
ROWS_OF_A_TABLE = 2**20  # up to so many, passes over a table are faster than a file for each bucket; ours
OPEN_FILES = 256  # at most; of a bucket there may be several, one after the other
ROWS_BUFFERED = 2**22  # of all buckets, before they are written; ours

RowsOfBucket = Callable[[int], Expression]


class DuckDBEngine(Engine):
    """A DuckDB database, deleted when closed. `scratch`: its folder for data above `memory_limit`, such as "4GB"."""

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
            for function in FUNCTIONS.values():
                self._connection.raw_sql(function.macro)
        self._num_tables = 0
        self._parquet: list[Path] = []

    def close(self) -> None:
        """Closes the database."""
        self._connection.disconnect()

    def fetch(self, expression: Expression) -> pa.Table:
        """The rows of an expression, in memory."""
        with self._guard():
            return self._connection.to_pyarrow(expression)

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

    def parquet(self, paths: list[Path], *, ordered: bool = False) -> Expression:
        """See Engine; `READ_ORDER` is there unless a column hides DuckDB's number of a file or row."""
        self._parquet += paths
        with self._guard():
            rows = self._connection.read_parquet([_literal(path) for path in paths], union_by_name=True)
            if not ordered or {"file_index", "file_row_number"} & set(rows.columns):
                return rows
            self._num_tables += 1
            view, names = f"ordered_{self._num_tables}", ", ".join(_quoted(_literal(path)) for path in paths)
            self._connection.raw_sql(
                f"CREATE TEMP VIEW {view} AS SELECT *, file_index::BIGINT * {2**40} + file_row_number AS {READ_ORDER} "
                f"FROM read_parquet([{names}], union_by_name = true)"
            )
            return self._connection.table(view)

    def elsewhere(self, addresses: Sequence[Address], wanted: Sequence[str]) -> Expression | None:
        """None: see Engine."""
        return None

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
        """See Engine."""
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

    def write(self, expression: Expression, path: Path) -> None:
        """Writes the rows as Parquet, in their order."""
        with self._guard():
            self._connection.to_parquet(expression, path)

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

    def place(self) -> Column:
        """The number of the row."""
        return self.ibis.row_number()

    def numbered(self, expression: Expression, order_by: Sequence[str], *, name: str, first: int) -> Expression:
        """See Engine."""
        number = self.ibis.row_number().over(order_by=[expression[column] for column in order_by]) + first
        return self.store(expression.mutate(number.cast("int32").name(name)))

    def map_buckets(
        self,
        expression: Expression,
        key: str,
        function: BucketFunction,
        *,
        num_buckets: int,
        num_rows: int,
        order_by: Sequence[str],
    ) -> Iterator[tuple[pa.Table, Any]]:
        """See Engine; threads run the function, on at most as many buckets at a time."""
        workers = min(self.threads, 4)  # each holds a bucket in memory
        pending: deque[Future[tuple[pa.Table, Any]]] = deque()
        split = self._split_files if num_rows > ROWS_OF_A_TABLE else self._split_table
        with split(expression, key, num_buckets) as rows_of, ThreadPoolExecutor(max_workers=workers) as pool:
            for number in range(num_buckets):
                pending.append(pool.submit(function, number, self.fetch(rows_of(number).order_by(list(order_by)))))
                if len(pending) >= workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    @contextmanager
    def _split_table(self, expression: Expression, key: str, num_buckets: int) -> Iterator[RowsOfBucket]:
        """The rows of each bucket, by a pass over all of them."""
        rows = self.store(expression)
        yield lambda number: rows.filter(rows[key] % num_buckets == number)

    @contextmanager
    def _split_files(self, expression: Expression, key: str, num_buckets: int) -> Iterator[RowsOfBucket]:
        """The rows of each bucket, in files that one pass over all of them writes."""
        folder = self.scratch / "buckets"
        folder.mkdir(parents=True)
        buffered = max(ROWS_BUFFERED // num_buckets, 2048)
        with self._guard():
            self._connection.raw_sql(f"SET partitioned_write_flush_threshold = {buffered}")
            self._connection.raw_sql(f"SET partitioned_write_max_open_files = {min(num_buckets, OPEN_FILES)}")
            split = expression.mutate(genrank_bucket=expression[key] % num_buckets)
            self._connection.to_parquet(split, folder, partition_by="genrank_bucket", parquet_version="v2")

        def rows_of(number: int) -> Expression:
            files = sorted((folder / f"genrank_bucket={number}").glob("*.parquet"))
            if not files:
                return self.ibis.memtable(expression.schema().to_pyarrow().empty_table())
            with self._guard():
                return self._connection.read_parquet([_literal(path) for path in files], hive_partitioning=False)

        yield rows_of
        shutil.rmtree(folder)

    def versions(self) -> dict[str, str]:
        """See Engine."""
        import duckdb
        import numpy as np

        versions = {"ibis": self.ibis.__version__, "duckdb": duckdb.__version__}
        return versions | {"numpy": np.__version__, "pyarrow": pa.__version__}

    @contextmanager
    def _guard(self) -> Iterator[None]:
        import duckdb

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between releases of Ibis and DuckDB, not ours
            try:
                yield
            except duckdb.Error as problem:
                raise _translated(problem, self._parquet) from problem


def half_of_memory() -> str:
    """Half of this machine's memory, as DuckDB writes it; 4GB if it is unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "4GB"
    return f"{max(total // 2**21, 256)}MiB"


def _translated(problem: Exception, parquet: Sequence[Path]) -> Exception:
    """DuckDB's error as our error of one line, with a remedy."""
    text = str(problem)
    if "No space left" in text or "max_temp_directory_size" in text:
        return OutputError("no space left on the disk while preparing; free some space or choose another --out")
    if type(problem).__name__ == "OutOfMemoryException":
        return OutputError("the memory limit is too small; raise it with --memory-limit")
    for path in parquet:
        found = parquet_damage(path)
        if found is not None:
            return LogError(f"{path}: {found}; write or copy it again")
    return unusable_value(type(problem).__name__, text)


def unusable_value(kind: str, text: str) -> LogError:
    """The error for a value that DuckDB can't use; `kind` and `text` of DuckDB's."""
    value = re.search(r"'([^']*)'", text.partition("\n")[0])
    return LogError(
        f"the log can't be read: a value{f' ({shown(value[1])})' if value else ''} can't be used as its column is "
        f"({kind}); correct or remove the value, or name another column"
    )


def _quoted(text: str) -> str:
    """The text as a constant in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _literal(path: Path) -> str:
    """The path as a pattern that fits this path only."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
