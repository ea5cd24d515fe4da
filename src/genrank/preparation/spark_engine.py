"""Preparation on Spark: the same Ibis expressions, on a local master or a cluster.

Functions of single values run as DuckDB's macros on Arrow batches in Spark's Python workers, or in Spark's own SQL
where that gives the same (`preparation/spark_functions.py`). Text files are read and counted by DuckDB in the driver,
as they are without Spark. What is stored is a local checkpoint: it keeps the order of its rows, and needs no shared
disk.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrank.preparation.duckdb_engine import DuckDBEngine
from genrank.preparation.engine import BucketFunction, Column, Engine, Expression, import_ibis
from genrank.preparation.log_addresses import Address
from genrank.preparation.spark_errors import translated, unreachable
from genrank.preparation.spark_files import quoted, read_file
from genrank.preparation.spark_functions import define_functions
from genrank.preparation.spark_numbers import stored, with_numbers
from genrank.preparation.spark_session import open_session

Frame = Any  # a pyspark.sql.DataFrame


class SparkEngine(Engine):
    """The session of `master`, which is kept if there is one already, with Spark's settings `conf`.

    `scratch`: for text files on their way.

    Raises MissingExtraError without pyspark or Java.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        master: str | None = None,
        memory_limit: str | None = None,
        threads: int | None = None,
        conf: Mapping[str, str] | None = None,
    ) -> None:
        self.ibis = import_ibis()
        self.scratch = scratch
        self._limits = {"memory_limit": memory_limit, "threads": threads}
        self._parquet: list[Path] = []
        self._numbers = itertools.count()
        with self._guard():
            self._session, self._own = open_session(
                scratch, master=master, memory_limit=memory_limit, threads=threads, conf=conf
            )
            self._connection = self.ibis.pyspark.connect(self._session)
            define_functions(self._session)
        self.threads = self._session.sparkContext.defaultParallelism
        self._stored: list[tuple[str, Frame]] = []

    def close(self) -> None:
        """Drops what was stored, and stops the session if it is the engine's."""
        with self._guard():
            for name, frame in self._stored:
                self._session.catalog.dropTempView(name)
                frame.unpersist()
            if self._own:
                self._session.stop()

    def fetch(self, expression: Expression) -> pa.Table:
        """See Engine."""
        with self._guard():
            return self._frame(expression).toArrow().cast(expression.schema().to_pyarrow())

    def store(self, expression: Expression) -> Expression:
        """See Engine."""
        with self._guard():
            return self._table(stored(self._typed(expression)))

    def from_arrow(self, table: pa.Table) -> Expression:
        """See Engine."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        path = self.scratch / f"arrow-{next(self._numbers)}.parquet"
        pq.write_table(table, path)
        stored = self.store(self._read([path]))
        path.unlink()
        return stored

    def parquet(self, paths: list[Path], *, ordered: bool = False) -> Expression:
        """See Engine. There is no `READ_ORDER`. Every file is read in its order, and files one behind the other."""
        self._parquet += paths
        return self._read(paths)

    def elsewhere(self, addresses: Sequence[Address], wanted: Sequence[str]) -> Expression:
        """See Engine; Spark's file systems and catalogue read it."""
        from genrank.preparation.spark_addresses import read_addresses

        with self._guard(addresses):
            return self._table(read_addresses(self._session, addresses, wanted))

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
        with closing(self._embedded()) as embedded:
            options: dict[str, Any] = {"header": header, "separator": separator, "quote": quote}
            rows = embedded.text(paths, columns=columns, keep=keep, **options)
            path = self.scratch / f"text-{next(self._numbers)}.parquet"
            embedded.write(rows, path)
        stored = self.store(self._read([path]))
        path.unlink()
        return stored

    def looks_like(self, path: Path, names: Sequence[str], *, separator: str) -> dict[str, str]:
        """See Engine."""
        with closing(self._embedded()) as embedded:
            return embedded.looks_like(path, names, separator=separator)

    def place(self) -> Column:
        """The number of the row's partition, and of the row in it."""

        def monotonically_increasing_id() -> Any: ...

        return self.ibis.udf.scalar.builtin(monotonically_increasing_id, signature=((), "int64"))()

    def numbered(self, expression: Expression, order_by: Sequence[str], *, name: str, first: int) -> Expression:
        """See Engine; a sort in ranges, so that no task sees all rows and the driver a count per range."""
        with self._guard():
            return self._table(with_numbers(self._typed(expression), order_by, name=name, first=first))

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
        """See Engine; Spark's workers run the function, each on one bucket at a time."""
        from genrank.preparation.spark_buckets import map_in_arrow

        schema = expression.schema().to_pyarrow()
        with self._guard():
            results = map_in_arrow(
                self._frame(expression), key, function, num_buckets=num_buckets, order_by=order_by, schema=schema
            )
        while True:
            with self._guard():
                result = next(results, None)
            if result is None:
                return
            yield result

    def versions(self) -> dict[str, str]:
        """See Engine."""
        with closing(self._embedded()) as embedded:
            return embedded.versions() | {"spark": self._session.version}

    def _embedded(self) -> DuckDBEngine:
        return DuckDBEngine(self.scratch / "embedded", **self._limits)  # type: ignore[arg-type]

    def _frame(self, expression: Expression) -> Frame:
        return self._session.sql(self._connection.compile(expression))

    def _typed(self, expression: Expression) -> Frame:
        """The frame with the types that Ibis says it has; Spark's own functions may widen them."""
        from ibis.backends.pyspark.datatypes import PySparkType
        from pyspark.sql import functions as f

        schema, frame = expression.schema(), self._frame(expression)
        wanted = {
            name: frame.schema[name].dataType if kind.is_timestamp() else PySparkType.from_ibis(kind)
            for name, kind in schema.items()
        }
        columns = [f.col(quoted(name)).cast(kind).alias(name) for name, kind in wanted.items()]
        return frame.select(columns)

    def _table(self, frame: Frame) -> Expression:
        name = f"genrank_{id(self)}_{next(self._numbers)}"
        frame.createOrReplaceTempView(name)
        self._stored.append((name, frame))
        table = self._connection.table(name)
        return table.op().copy(schema=_with_zones(table.schema(), frame)).to_expr()

    def _read(self, paths: list[Path]) -> Expression:
        with self._guard():
            frames = [read_file(self._session, path, paths) for path in paths]
            return self._table(reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames))

    @contextmanager
    def _guard(self, addresses: Sequence[Address] = ()) -> Iterator[None]:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            yield
        except (PySparkException, Py4JError, ConnectionError, EOFError) as problem:
            unreached = unreachable(problem, addresses)
            raise unreached or translated(problem, self._parquet) from problem


def _with_zones(schema: Any, frame: Frame) -> Any:
    """The schema with times of a zone as such: Ibis tells them from others in no frame of Spark."""
    from pyspark.sql.types import TimestampType

    ibis = import_ibis()
    zoned = {field.name for field in frame.schema if isinstance(field.dataType, TimestampType)}
    return ibis.schema({name: "timestamp('UTC')" if name in zoned else kind for name, kind in schema.items()})
