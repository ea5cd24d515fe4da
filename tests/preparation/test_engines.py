"""What every engine does alike: values, buckets, the order of rows; and what Spark says that can't run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import SCHEMA, log
from genrank.cli import main
from genrank.errors import ConfigError, LogError, MissingExtraError
from genrank.preparation import value_functions as values
from genrank.preparation.engine import BucketFunction, Engine
from genrank.preparation.engines import check_engine, open_engine
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.preparation.spark_partitions import partition_values

OF_SPARK = (
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
)
TOTALS = pa.schema([("bucket", pa.int64()), ("rows", pa.int64()), ("sum", pa.int64())])


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=OF_SPARK)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "spark":
        request.getfixturevalue("spark")
        request.getfixturevalue("_collected")
    made = open_engine(request.param, tmp_path / "scratch", master=None, memory_limit="1GB", threads=2)
    with closing(made):
        yield made


def test_texts_numbers_and_times_are_read_alike(engine: Engine) -> None:
    texts = [
        "1_000",
        "1e3",
        " 7 ",
        "0x10",
        "nan",
        "1d",
        "-0",
        None,
        "9" * 30,
        "2023-03-26T02:30:00",
        "2023-11-15 8:1:2",
    ]
    table = engine.from_arrow(pa.table({"row": range(len(texts)), "x": texts}))
    found = engine.fetch(
        table.select(
            "row",
            number=values.number_of(table.x),
            whole=values.whole_of(table.x),
            berlin=values.epoch_of_text(table.x, "Europe/Berlin"),
            utc=values.epoch_of_text(table.x, None),
            found=values.matches(table.x, r"^\s*\d+\s*$"),
            parts=values.split(table.x, "-"),
            listed=values.listed(table.x, "_"),
        ).order_by("row")
    ).to_pydict()
    assert str(found["number"][:7]) == "[1000.0, 1000.0, 7.0, None, nan, None, -0.0]"
    assert found["whole"][:7] == [1000, 1000, 7, 16, None, None, 0]
    assert (found["number"][8], found["whole"][8]) == (1e30, None)
    summer = int(datetime.fromisoformat("2023-03-26T03:30:00+02:00").timestamp())  # 02:30 is left out by the clocks
    assert found["berlin"][9] == summer
    assert found["utc"][9] == summer + 3600
    assert found["found"] == [False, False, True, False, False, False, False, None, True, False, False]
    assert found["parts"][6] == ["", "0"]
    assert found["listed"][0] == ["1", "000"]


def test_rows_keep_the_order_in_which_they_are_stored(engine: Engine) -> None:
    table = engine.from_arrow(pa.table({"x": range(5000)}))
    placed = engine.store(table.filter(table.x % 3 == 0).order_by(-table.x))
    found = engine.fetch(placed.select(placed.x, place=engine.place()).order_by("place"))
    assert found["x"].to_pylist() == list(range(4998, -1, -3))


def test_rows_are_numbered_in_an_order_of_any_columns(engine: Engine) -> None:
    days = [row * 7919 % 11 - 5 for row in range(3000)]
    texts = [("ä", "Z", "z", "aa", "a", "")[row % 6] + str(row * 31 % 3000) for row in range(3000)]
    table = engine.from_arrow(pa.table({"row": range(3000), "day": days, "text": texts}))
    numbered = engine.numbered(table.filter(table.row % 5 != 0), ("day", "text"), name="number", first=7)
    for rows in (
        numbered,
        engine.store(numbered.filter(numbered.row % 2 == 0).union(numbered.filter(numbered.row % 2 == 1))),
    ):
        found = engine.fetch(rows.order_by("number"))
        assert found["number"].type == pa.int32()
        assert found["number"].to_pylist() == list(range(7, 7 + 2400))
        kept = [row for row in range(3000) if row % 5]
        assert found["row"].to_pylist() == sorted(kept, key=lambda row: (days[row], texts[row].encode()))
    none = engine.numbered(table.filter(table.row < 0), ("day", "text"), name="number", first=1)
    assert engine.fetch(none).num_rows == 0


@pytest.mark.spark
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.usefixtures("spark", "_collected")
def test_spark_numbers_rows_in_several_partitions(tmp_path: Path) -> None:
    """No task may see all rows, as it would where a window has no partitions."""
    from genrank.preparation.spark_engine import SparkEngine

    with closing(SparkEngine(tmp_path / "scratch", threads=2)) as engine:
        engine._session.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
        engine._session.conf.set("spark.sql.shuffle.partitions", "5")
        table = engine.from_arrow(pa.table({"x": [row * 7 % 1000 for row in range(1000)]}))
        frame = engine._frame(engine.numbered(table, ("x",), name="number", first=1))
        assert frame.rdd.getNumPartitions() == 5
        assert max(frame.rdd.glom().map(len).collect()) < 500
        assert all(row.number == row.x + 1 for row in frame.collect())


def totals(plus: int) -> BucketFunction:
    """One row of each bucket and a note; made here so that it is pickled whole: workers have no tests."""
    schema = TOTALS

    def total(number: int, rows: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        xs = rows["x"].to_pylist()
        if not xs:
            return schema.empty_table(), {"bucket": number}
        return pa.table([[number], [len(xs)], [sum(xs) + plus]], schema=schema), {"bucket": number, "first": xs[0]}

    return total


def test_an_error_of_the_users_values_is_told_as_it_is(engine: Engine) -> None:
    def refusing(number: int, rows: pa.Table) -> tuple[pa.Table, None]:  # pickled whole: see totals
        if number == 3:
            raise LogError("bucket 3: expected other values; change them")
        return rows, None

    table = engine.from_arrow(pa.table({"user": range(40)}))
    mapped = engine.map_buckets(table, "user", refusing, num_buckets=5, num_rows=40, order_by=["user"])
    with pytest.raises(LogError, match=r"^bucket 3: expected other values; change them$"):
        list(mapped)


@pytest.mark.parametrize("num_rows", [3000, 3_000_000])  # said to be so many: a table, and files of each bucket
def test_a_function_sees_every_bucket_whole_alone_and_in_order(engine: Engine, num_rows: int) -> None:
    users = [row % 7 if row % 7 != 2 else 9 for row in range(3000)]
    table = engine.from_arrow(pa.table({"user": users, "x": range(3000)}))
    table = table.mutate(less=-table.x)
    mapped = engine.map_buckets(table, "user", totals(1), num_buckets=5, num_rows=num_rows, order_by=["user", "less"])
    found = [(rows.to_pylist(), note) for rows, note in mapped]
    for bucket in range(5):
        mine = sorted((user, -x) for x, user in enumerate(users) if user % 5 == bucket)
        total = [{"bucket": bucket, "rows": len(mine), "sum": 1 - sum(less for _, less in mine)}] if mine else []
        assert found[bucket] == (total, {"bucket": bucket} | ({"first": -mine[0][1]} if mine else {}))
    assert len(found) == 5
    assert found[2][0] == []


def test_partitions_are_typed_by_all_of_their_values() -> None:
    paths = [Path(f"/a/day=2024-01-0{n}/hour={n}/name=x%20{n}/code={'n' * n}/p.parquet") for n in (1, 2)]
    assert partition_values(paths[0], paths) == {
        "day": datetime(2024, 1, 1).date(),
        "hour": 1,
        "name": "x 1",
        "code": "n",
    }
    assert partition_values(paths[0], [*paths, Path("/a/p.parquet")]) == {}


def test_an_unknown_engine_or_a_master_without_spark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="engine is 'dask'; it must be one of duckdb, spark"):
        PrepareOptions(engine="dask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="master is 'local', but the engine is 'duckdb'"):
        PrepareOptions(master="local")
    import genrank

    with pytest.raises(ConfigError, match="dask"):
        genrank.prepare(tmp_path, out=tmp_path / "out", schema=SCHEMA, engine="dask")


def java(folder: Path, version: str) -> Path:
    """A program that says it is Java of a version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(("version", "found"), [("11.0.2", "found 11"), ("1.8.0_1", "found 8"), (None, "found none")])
def test_java_is_missing_or_too_old(
    version: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark")
    home = tmp_path / "none" if version is None else java(tmp_path / "java", version)
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(MissingExtraError, match=f"needs Java 17 or later, {found}") as problem:
        prepare(files([], schema=SCHEMA), out=tmp_path / "out", options=PrepareOptions(engine="spark"))
    assert "JAVA_HOME" in str(problem.value)
    assert not (tmp_path / "out").exists()


def test_a_java_of_17_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.setenv("JAVA_HOME", str(java(tmp_path / "java", "17.0.1")))
    check_engine("spark")


def test_pyspark_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    pq.write_table(pa.table(log()), tmp_path / "log.parquet")
    (tmp_path / "schema.toml").write_text('name = "t"\n[columns]\nuser = "user"\nitem = "item"\ntime = "time"\n')
    out = tmp_path / "out"
    flags = ["--schema", str(tmp_path / "schema.toml"), "--out", str(out), "--engine", "spark"]
    assert main(["prepare", str(tmp_path / "log.parquet"), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'genrank[spark]'" in line
    assert not out.exists()


DYING = """
import functools, os, signal, sys
from pathlib import Path
from dataclasses import replace
from genrank.errors import OutputError
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.preparation.spark_engine import SparkEngine
from exposure_logs import SCHEMA

source = files([sys.argv[1]], schema=SCHEMA)

def kill(engine):
    os.kill(engine._session.sparkContext._gateway.proc.pid, signal.SIGKILL)
    engine._session.sparkContext._gateway.proc.wait()

def buckets(engine, *arguments, **options):
    for number, result in enumerate(SparkEngine.map_buckets(engine, *arguments, **options)):
        if number == 2:
            kill(engine)
        yield result

def read(engine, schema):
    found = source.read(engine, schema)
    if sys.argv[3] == "reading":
        kill(engine)
    engine.map_buckets = functools.partial(buckets, engine)
    return found

try:
    prepare(replace(source, read=read), out=Path(sys.argv[2]), options=PrepareOptions(engine="spark", threads=1))
except OutputError as problem:
    print("refused:", problem)
"""


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("moment", ["reading", "fetching"])
def test_a_spark_that_dies_leaves_nothing_behind(moment: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(log()), tmp_path / "log.parquet")
    folder = Path(__file__).parents[1]
    path = os.pathsep.join([str(folder), str(folder.parent / "src")])
    command = [sys.executable, "-c", DYING, str(tmp_path / "log.parquet"), str(tmp_path / "out"), moment]
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.startswith("refused: Spark has stopped while preparing"), done.stdout + done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["log.parquet"]
