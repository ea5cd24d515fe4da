"""The engines by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from genrank.preparation.engine import Engine, EngineName, import_ibis

ENGINES: tuple[EngineName, ...] = get_args(EngineName)


def check_engine(name: EngineName) -> None:
    """Raises MissingExtraError where the engine lacks a package or program."""
    import_ibis()
    if name == "spark":
        from genrank.preparation.spark_session import check_spark

        check_spark()


def open_engine(
    name: EngineName,
    scratch: Path,
    *,
    master: str | None,
    memory_limit: str | None,
    threads: int | None,
    spark_conf: Mapping[str, str] | None = None,
) -> Engine:
    """The engine `name`. `master`: of Spark, as in local[2] or spark://host:7077; None: this machine."""
    if name == "spark":
        from genrank.preparation.spark_engine import SparkEngine

        return SparkEngine(scratch, master=master, memory_limit=memory_limit, threads=threads, conf=spark_conf)
    from genrank.preparation.duckdb_engine import DuckDBEngine

    return DuckDBEngine(scratch, memory_limit=memory_limit, threads=threads)
