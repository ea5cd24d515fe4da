"""Errors of Spark as our errors of one line, with a remedy."""

import re
from collections.abc import Sequence
from pathlib import Path

from genrank.errors import LogError, OutputError, shown
from genrank.preparation.duckdb_engine import unusable_value
from genrank.preparation.log_addresses import Address
from genrank.preparation.parquet_files import parquet_damage

OF_A_VALUE = ("ConversionException", "InvalidInputException", "OutOfRangeException")  # of DuckDB, in a worker
NO_CLASS = re.compile(r"ClassNotFoundException: (?:Class )?([\w.$]+)")
NO_SCHEME = re.compile(r'No FileSystem for scheme "([^"]+)"')
JAR = "give its jar, as in --spark-conf spark.jars.packages=GROUP:NAME:VERSION"


def unreachable(problem: Exception, addresses: Sequence[Address]) -> LogError | None:
    """The error for addresses that Spark can't reach, if that is the problem."""
    text = str(problem)
    if not addresses:
        return None
    address = addresses[0]
    if "TABLE_OR_VIEW_NOT_FOUND" in text or "REQUIRES_SINGLE_PART_NAMESPACE" in text:
        return LogError(
            f"{address}: no such table in Spark's catalogue; check its name, and the --spark-conf of its catalogue"
        )
    if "PATH_NOT_FOUND" in text:
        return LogError(f"{address}: no such file or folder; check the address")
    if scheme := NO_SCHEME.search(text):
        return LogError(f"{address}: Spark knows no files at {scheme[1]}://; correct the address, or {JAR}")
    if lacking := NO_CLASS.search(text):
        return LogError(f"{address}: Spark lacks {lacking[1]}; {JAR}")
    return None


def translated(problem: Exception, parquet: Sequence[Path]) -> Exception:
    """An error of Spark, or of the way to it. `parquet`: files that have been read."""
    text = str(problem)
    if "No space left on device" in text:
        return OutputError("no space left on the disk while preparing; free some space or choose another --out")
    if "OutOfMemoryError" in text:
        return OutputError("Spark's memory is too small; raise it with --memory-limit")
    for path in parquet:
        found = parquet_damage(path)
        if found is not None:
            return LogError(f"{path}: {found}; write or copy it again")
    if any(name in text for name in OF_A_VALUE):
        kind, _, said = text[min(place for name in OF_A_VALUE if (place := text.rfind(name)) >= 0) :].partition(":")
        return unusable_value(kind, said)
    if isinstance(problem, ConnectionError | EOFError) or type(problem).__name__ == "Py4JNetworkError":
        return OutputError("Spark has stopped while preparing; look for the reason in its log, and prepare again")
    reason = next((line.strip() for line in reversed(text.splitlines()) if "Exception" in line or "Error" in line), "")
    reason = reason or text.partition("\n")[0]
    return OutputError(f"Spark failed: {shown(reason)}; check --master and Spark's log, or use --engine duckdb")
