"""Days added to a prepared folder by Spark, as by DuckDB."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import Prepared, prepare_log
from genrank.preparation.extending import extend
from genrank.preparation.sources.files import files
from growing_logs import OPTIONS, SCHEMA, by_days, random_log

pytestmark = [
    pytest.mark.spark,
    pytest.mark.usefixtures("spark", "_collected"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # sockets of pyspark
]


@pytest.mark.spark_all
def test_days_are_added_alike(tmp_path: Path) -> None:
    parts, made = by_days(random_log(0), [3]), {}
    for engine in ("duckdb", "spark"):
        options = replace(OPTIONS, engine=engine)
        first = prepare_log(tmp_path / engine, parts[0], SCHEMA, options)
        log = tmp_path / engine / "more.parquet"
        pq.write_table(pa.table(parts[1]), log)
        manifest = extend(files([log], schema=SCHEMA, folder=log.parent), first.folder, options=options)
        made[engine] = Prepared(first.folder, manifest)
    assert made["spark"].bytes() == made["duckdb"].bytes()
    assert made["spark"].manifest.counts == made["duckdb"].manifest.counts
