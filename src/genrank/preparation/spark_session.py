"""The Spark session of preparation: checks Java, and sets Spark to compute the same as DuckDB."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrank.errors import ConfigError, MissingExtraError
from genrank.preparation.duckdb_engine import half_of_memory

JAVA = 17  # the oldest that Spark 4 runs on
REMEDY = "install one, such as by apt-get install openjdk-17-jre-headless, and set JAVA_HOME if it is not on the path"
COMPUTING = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # what can't be cast is null, as by try_cast
    "spark.sql.legacy.sizeOfNull": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # spark_files makes times of them
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
LOGGING = """rootLogger.level = fatal
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %p %c{1}: %m%n
"""  # a job that fails is told in one line of ours


def check_spark() -> None:
    """Raises MissingExtraError without pyspark, or a Java that it runs on."""
    try:
        import pyspark  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "preparing on Spark needs pyspark, which is not installed; pip install 'genrank[spark]'"
        ) from None
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    if shutil.which(java) is None:
        raise MissingExtraError(f"preparing on Spark needs Java {JAVA} or later, found none ({java}); {REMEDY}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        version = found[1] if found else "one that doesn't start"
        raise MissingExtraError(f"preparing on Spark needs Java {JAVA} or later, found {version} ({java}); {REMEDY}")


def open_session(
    scratch: Path,
    *,
    master: str | None,
    memory_limit: str | None,
    threads: int | None,
    conf: Mapping[str, str] | None = None,
) -> tuple[Any, bool]:
    """A session of the process's Spark, or of a new one on `master` (None: this machine); and whether it is new.

    conf: Spark's settings. Raises ConfigError for those that preparation needs otherwise, or that come too late.
    """
    check_spark()
    from pyspark import SparkContext
    from pyspark.errors import AnalysisException
    from pyspark.sql import SparkSession

    conf = conf or {}
    for name in set(conf) & set(COMPUTING):
        raise ConfigError(f"{name}: preparation sets it to {COMPUTING[name]}; leave it out")

    new = SparkContext._active_spark_context is None
    if new:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need what this environment has
        if _is_local(master):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        session = _new_session(scratch, master=master, memory_limit=memory_limit, threads=threads, conf=conf)
    else:
        session = SparkSession.builder.getOrCreate().newSession()  # with settings and names of its own
        for name, value in conf.items():
            try:
                session.conf.set(name, value)
            except AnalysisException:
                raise ConfigError(
                    f"{name}: this process has a Spark already, which can't take it; set it where that Spark begins"
                ) from None
    for name, value in COMPUTING.items():
        session.conf.set(name, value)
    return session, new


def _new_session(
    scratch: Path, *, master: str | None, memory_limit: str | None, threads: int | None, conf: Mapping[str, str]
) -> Any:
    from pyspark.sql import SparkSession

    cores = threads or os.cpu_count() or 1
    builder = SparkSession.builder.appName("genrank prepare").master(master or f"local[{cores}]")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.driver.maxResultSize": "0",  # a bucket is as large as it is
        "spark.driver.memory": _for_java(memory_limit or half_of_memory()),
    }
    scratch.mkdir(parents=True, exist_ok=True)
    logging = scratch / "log4j2.properties"
    logging.write_text(LOGGING)
    settings["spark.driver.extraJavaOptions"] = f"-Dlog4j2.configurationFile={logging.absolute().as_uri()}"
    if _is_local(master):
        settings |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": str(scratch),
            "spark.sql.warehouse.dir": str(scratch),
            "spark.sql.shuffle.partitions": str(max(2, 2 * cores)),
        }
    for name, value in (settings | dict(conf)).items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def _is_local(master: str | None) -> bool:
    return master is None or master.startswith("local")


def _for_java(size: str) -> str:
    """A size such as 4GB or 0.5 GiB as Java's options have it, in whole mebibytes."""
    number, unit = re.fullmatch(r"([0-9.]+) ?([KMGT])i?B", size).groups()  # type: ignore[union-attr]
    return f"{max(512, int(float(number) * 1024 ** ('KMGT'.index(unit) - 1)))}m"
