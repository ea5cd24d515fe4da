"""The engine of log preparation runs Ibis expressions, embedded (DuckDB) or on a cluster (Spark).

All relational steps are Ibis expressions; `store` and `fetch` are the only ways to run one. Anything that the engines
would compute differently, such as the text of a number, is a function of `preparation/value_functions.py`, which every
engine defines alike; `place` is the place of a row in the log.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pyarrow as pa

from genrank.errors import MissingExtraError
from genrank.preparation.log_addresses import Address

Expression = Any  # an ibis.Table; Ibis has no types that mypy could check
Column = Any  # an ibis.Column
EngineName = Literal["duckdb", "spark"]
READ_ORDER = "genrank_order"  # a column that grows from row to row as they were read, where an engine has it
BucketFunction = Callable[[int, pa.Table], tuple[pa.Table, Any]]  # of a bucket's number and rows: rows, and a note


class Engine(ABC):
    """Tables and expressions on them. `scratch`: a folder for data that memory can't hold; `threads`: their number."""

    ibis: ModuleType
    scratch: Path
    threads: int

    @abstractmethod
    def close(self) -> None:
        """Frees everything stored."""

    @abstractmethod
    def fetch(self, expression: Expression) -> pa.Table:
        """The rows of an expression, in memory."""

    def row(self, expression: Expression) -> dict[str, Any]:
        """The only row of an aggregation, as plain values."""
        values: dict[str, Any] = self.fetch(expression).to_pylist()[0]
        return values

    @abstractmethod
    def store(self, expression: Expression) -> Expression:
        """The expression computed once, as a table of the engine."""

    @abstractmethod
    def from_arrow(self, table: pa.Table) -> Expression:
        """An Arrow table, as a table of the engine."""

    @abstractmethod
    def parquet(self, paths: list[Path], *, ordered: bool = False) -> Expression:
        """The rows of Parquet files; columns are matched by name. They are read whenever the expression is used.

        ordered: with the column `READ_ORDER`, if the engine has one at no cost.
        """

    @abstractmethod
    def elsewhere(self, addresses: Sequence[Address], wanted: Sequence[str]) -> Expression | None:
        """The rows of Parquet files at addresses, or of one table; if all columns `wanted` are there, only those.

        None where the engine reads files of this machine only. Raises LogError for what can't be reached.
        """

    @abstractmethod
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

        `columns`: all columns of a file, with DuckDB types. Nothing is guessed or skipped: any other row is an error,
        except one with an additional empty value.
        """

    @abstractmethod
    def looks_like(self, path: Path, names: Sequence[str], *, separator: str) -> dict[str, str]:
        """The DuckDB type that each column of a text file looks like, by its first rows; text if none."""

    @abstractmethod
    def place(self) -> Column:
        """The place of a row in the log, for a selection of rows as they were read: int64, growing from row to row.

        Where there is a column `READ_ORDER`, that is cheaper: it lets rows be read in any order.
        """

    @abstractmethod
    def numbered(self, expression: Expression, order_by: Sequence[str], *, name: str, first: int) -> Expression:
        """The rows, stored, and their numbers as int32 column `name`: from `first`, in order of the columns `order_by`,
        which tell all rows apart and hold no nulls.
        """

    @abstractmethod
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
        """`function` of every bucket's rows, in order of bucket: those whose integer `key` is the bucket's number
        modulo `num_buckets`, in the order of the columns `order_by`.

        The expression, of about `num_rows` rows, is computed once. The function gives rows, of equal columns for every
        bucket, and a small note; it sees no other bucket, and may run elsewhere, so that both it and the note must be
        picklable. Memory holds a few buckets.
        """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the libraries on which the written bytes depend."""


def own_columns(rows: Expression) -> list[str]:
    """The columns that a user knows."""
    return [name for name in rows.columns if name != READ_ORDER]


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
