"""Logs named by addresses: files through Spark's file systems as the same files by their paths, and tables by name."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from both_engines import outcome
from exposure_logs import SCHEMA, START, log
from genrank.cli import main
from genrank.errors import ConfigError, LogError
from genrank.preparation.log_addresses import Address, address_of, split_addresses
from genrank.preparation.prepare import PrepareOptions
from genrank.preparation.sources.files import files
from genrank.preparation.spark_engine import SparkEngine
from genrank.schema import Feature, SideTable, SideTables, Split

OF_SPARK = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # sockets of pyspark
]


def write_days(folder: Path) -> Path:
    """A log in folders of days, whose rows are told apart by their place only, with times in nanoseconds."""
    for day in range(3):
        table = pa.table(log(90, time=[START] * 60 + [START + 9] * 30)).slice(30 * day, 30)
        moments = [datetime(2023, 11, 14) + timedelta(seconds=second - START) for second in table["time"].to_pylist()]
        table = table.set_column(table.column_names.index("time"), "time", pa.array(moments, pa.timestamp("ns")))
        for part, (begin, length) in enumerate(((0, 10), (10, 20))):
            path = folder / f"day=2024-01-0{day + 1}" / f"slot={day * 7}" / f"part {part}[x].parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.slice(begin, length), path, row_group_size=4)
    (folder / "_SUCCESS").write_text("")
    return folder


def settings(folder: Path) -> Any:
    """A schema with values of folders' names, and items at an address."""
    pq.write_table(
        pa.table({"item": [f"i{row}" for row in range(12)], "kind": [f"k{row % 3}" for row in range(12)]}),
        folder / "items.parquet",
    )
    features = [Feature(name=name, owner="exposure", kind="categorical", column=name) for name in ("day", "slot")]
    kind = Feature(name="kind", owner="item", kind="categorical", column="kind")
    items = SideTable(path=(folder / "items.parquet").as_uri(), key="item")
    split = Split(valid_fraction=0, test_fraction=0)
    return replace(SCHEMA, features=(*features, kind), tables=SideTables(item=items), split=split)


@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=OF_SPARK)])
def test_files_at_an_address_are_those_of_their_path(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "spark":
        request.getfixturevalue("spark")
        request.getfixturevalue("_collected")
    days, schema = write_days(tmp_path / "a log"), settings(tmp_path)
    by_path = replace(schema, tables=SideTables(item=SideTable(path="items.parquet", key="item")))
    expected = outcome(files([days], schema=by_path, folder=tmp_path), tmp_path / "by-path", "duckdb")
    found = outcome(files([days.as_uri()], schema=schema, folder=tmp_path), tmp_path / "by-address", engine)
    different = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    assert different == {"manifest: schema", "manifest: schema_hash", "manifest: source"}
    assert {"vocab/day.parquet", "vocab/slot.parquet", "items.parquet"} <= set(found)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SparkEngine]:
    for name in ("spark", "_collected"):
        request.getfixturevalue(name)
    with closing(SparkEngine(tmp_path / "scratch", threads=2)) as made:
        yield made


class TestSpark:
    """What Spark reads, and what it says of addresses that it can't reach."""

    pytestmark = OF_SPARK

    def test_a_table_is_read_by_its_name(self, engine: SparkEngine, tmp_path: Path) -> None:
        pq.write_table(pa.table(log(60)), tmp_path / "log.parquet")
        expected = outcome(files([tmp_path / "log.parquet"], schema=SCHEMA), tmp_path / "by-path", "duckdb")
        rows = engine._session.read.parquet(f"file:{tmp_path / 'log.parquet'}")
        rows.write.option("path", str(tmp_path / "shown")).saveAsTable("shown_in_tests")
        try:
            found = outcome(files(["table:shown_in_tests"], schema=SCHEMA), tmp_path / "by-name", "spark")
        finally:
            engine._session.sql("DROP TABLE shown_in_tests")
        assert {name for name in expected if expected[name] != found[name]} == {"manifest: source"}
        assert found["manifest: source"]["files"] == ["table:shown_in_tests"]

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("file:///no/such/folder", "no such file or folder"),
            ("table:nowhere.shown", "no such table in Spark's catalogue"),
            ("s4://bucket/log", "Spark knows no files at s4://"),
            ("s3://bucket/log", "Spark lacks org.apache.hadoop.fs.s3a.S3AFileSystem; give its jar"),
            ("table:delta.`/tmp`", "no such table in Spark's catalogue"),
        ],
    )
    def test_what_cannot_be_reached_is_said_in_a_line(self, engine: SparkEngine, address: str, said: str) -> None:
        with pytest.raises(LogError) as problem:
            engine.elsewhere([Address(address)], ["user"])
        assert str(problem.value).startswith(f"{address}: {said}")
        assert "\n" not in str(problem.value)

    def test_files_of_other_formats_columns_and_types_are_refused(self, engine: SparkEngine, tmp_path: Path) -> None:
        def said(folder: str, **tables: Any) -> str:
            (tmp_path / folder).mkdir()
            for name, table in tables.items():
                path = tmp_path / folder / f"{name}.parquet"
                path.write_text(table) if isinstance(table, str) else pq.write_table(pa.table(table), path)
            with pytest.raises(LogError) as problem:
                engine.elsewhere([Address((tmp_path / folder).as_uri())], ["user"])
            return str(problem.value)

        assert "no .parquet files there" in said("empty")
        assert "expected Parquet" in said("text", one="no Parquet at all")
        assert "there is no column 'user', which b.parquet has (1 of 2" in said("lack", a={"x": [1]}, b={"user": ["u"]})
        times = pa.array([1], pa.time64("us"))
        assert "Spark can't read column 'at'" in said("times", one={"user": ["u"], "at": times})


def test_addresses_are_of_one_kind(tmp_path: Path) -> None:
    one, other = Address("s3://bucket/a"), Address("table:db.shown")
    assert split_addresses([one, one]) == ([], [one, one])
    for places in ([one, tmp_path], [one, other], [other, other]):
        with pytest.raises(LogError, match="give one kind only"):
            split_addresses(places)
    assert address_of("logs/table:x") is None
    assert address_of("C:\\logs") is None


def test_duckdb_reads_files_of_this_machine_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text('name = "t"\n[columns]\nuser = "user"\nitem = "item"\ntime = "time"\n')
    assert main(["prepare", "s3://bucket/log", "--schema", str(schema), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "s3://bucket/log: DuckDB reads files of this machine only; prepare with --engine spark" in line
    assert not (tmp_path / "out").exists()


def test_settings_of_spark_are_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it must be KEY=VALUE"):
        PrepareOptions(engine="spark", spark_conf=("spark.executor.memory",))
    with pytest.raises(ValueError, match="set engine to 'spark'"):
        PrepareOptions(spark_conf=("spark.executor.memory=8g",))


@pytest.mark.spark
@pytest.mark.usefixtures("spark", "_collected")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_settings_reach_spark_or_are_refused(tmp_path: Path) -> None:
    made = {"spark.sql.shuffle.partitions": "3"}
    with closing(SparkEngine(tmp_path / "scratch", conf=made)) as engine:
        assert engine._session.conf.get("spark.sql.shuffle.partitions") == "3"
    for late in ("spark.jars.packages", "spark.sql.ansi.enabled"):
        with pytest.raises(ConfigError, match=late):
            SparkEngine(tmp_path / "scratch", conf={late: "true"})
