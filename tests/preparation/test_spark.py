"""Spark prepares every log as DuckDB does: the same files, byte for byte, the same warnings and errors.

One log with every type of value and one refusal are compared in every run; `make test-spark` compares all.
"""

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from both_engines import same, same_files
from exposure_logs import CLICK, SCHEMA, START, log
from genrank.log_settings import CsvSettings, Join, ListSettings
from genrank.preparation.sources.public_data import published
from genrank.schema import Feature, Feedback, SideTable, SideTables, Split, Statistics, Task, Time

pytestmark = [
    pytest.mark.spark,
    pytest.mark.usefixtures("spark", "_collected"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # sockets of pyspark
]
CASES = Path(__file__).parents[3] / "shared" / "cases"
COLUMNS = SCHEMA.columns


def feature(owner: str, name: str, kind: str, **options: Any) -> Feature:
    return Feature(name=name, owner=owner, kind=kind, column=name, **options)  # type: ignore[arg-type]


def every_type(size: int = 60) -> pa.Table:
    """A log with a column of every type that a role takes, nulls and odd values among them."""
    rows = range(size)
    begin = datetime(2023, 3, 25, 23, 30, tzinfo=UTC)  # a night before the clocks change
    moments = [begin + timedelta(minutes=7 * row, microseconds=row * 1001) for row in rows]
    floats = [None, float("nan"), 0.1, -0.0, 1e30, 7.0, float("inf"), 2.5]
    return pa.table(
        log(size)
        | {
            "time": pa.array([each.replace(tzinfo=None) for each in moments], pa.timestamp("ns")),
            "request": [f"r{row // 3 % 7}" if row % 11 else None for row in rows],
            "position": pa.array([None if row % 9 == 0 else row % 3 + 0.5 for row in rows], pa.float32()),
            "dwell": pa.array([None, -1.0, float("nan"), 3.25, 1e39, 90.0] * (size // 6), pa.float64()),
            "done": [row % 2 == 0 if row % 5 else None for row in rows],
            "real": pa.array([floats[row % 8] for row in rows], pa.float64()),
            "single": pa.array([0.1 * (row % 7) for row in rows], pa.float32()),
            "money": pa.array([Decimal(row % 5) + Decimal("0.50") for row in rows], pa.decimal128(9, 2)),
            "flag": [None if row % 6 == 0 else row % 2 == 1 for row in rows],
            "day": [date(2024, 1, 1 + row % 4) for row in rows],
            "moment": pa.array([moments[row % 5] for row in rows], pa.timestamp("us", "UTC")),
            "naive": pa.array([moments[row % 5].replace(tzinfo=None) for row in rows], pa.timestamp("us")),
            "bytes": [f"b{row % 3}é".encode() for row in rows],
            "large": pa.array([2**63 + row % 4 for row in rows], pa.uint64()),
            "words": pa.array([f"w{row % 4}" for row in rows]).dictionary_encode(),
            "tags": [[f"t{row % 7}", None, f"t{row % 3}", " "] if row % 4 else None for row in rows],
            "numbers": pa.array([[float(row % 3), 0.5, float("nan")] for row in rows], pa.list_(pa.float64())),
            "whole": pa.array([[row % 3, 2**60 + row % 2, None] for row in rows], pa.list_(pa.int64())),
            "topics": [[f"t{row % 5}", "u"] for row in rows],
            "strength": pa.array([[0.25, float(row % 3)] for row in rows], pa.list_(pa.float32())),
            "split": [f"a|b{row % 3}||c" for row in rows],
        }
    )


def test_values_of_every_type(tmp_path: Path) -> None:
    pq.write_table(every_type(), tmp_path / "log.parquet", row_group_size=9)
    names = ("real", "money", "flag", "day", "moment", "naive", "bytes", "large", "words", "single")
    features = [feature("exposure", name, "categorical") for name in names]
    features += [
        replace(feature("exposure", name, "numeric"), name=f"{name}_number") for name in ("real", "single", "money")
    ]
    features += [feature("exposure", name, "multi") for name in ("tags", "numbers", "whole")]
    features += [feature("exposure", "split", "multi", separator="|")]
    features += [feature("exposure", "topics", "multi", weights="strength")]
    dwell = Task(name="dwell", kind="duration", column="dwell", censored="done", maximum=60.0)
    schema = replace(
        SCHEMA,
        columns=replace(COLUMNS, request="request", position="position"),
        tasks=(CLICK, dwell),
        features=tuple(features),
        time=Time(zone="Europe/Berlin"),
    )
    found = same_files([tmp_path / "log.parquet"], schema, tmp_path)
    assert "vocab/moment.parquet" in found


def item_table(folder: Path) -> SideTables:
    items = pa.table(
        {
            "item": pa.array([float(row) for row in range(12)]),
            "kind": [f"k{row % 3}" if row % 4 else None for row in range(12)],
            "tags": [[f"t{row % 3}", "t9"] for row in range(12)],
            "price": pa.array([row * 0.1 if row % 5 else None for row in range(12)], pa.float32()),
            "vector": pa.array([[row, 0.5] for row in range(12)], pa.list_(pa.float32())),
        }
    )
    pq.write_table(items, folder / "items.parquet")
    (folder / "users.csv").write_text("user,town\n" + "".join(f"u{row},T{row % 2}\n" for row in range(5)))
    return SideTables(item=SideTable(path="items.parquet", key="item"), user=SideTable(path="users.csv", key="user"))


@pytest.mark.spark_all
def test_side_tables_embeddings_statistics_and_text_of_another_dialect(tmp_path: Path) -> None:
    lines = [
        f"{row % 97:04d};u{row % 4};{row * 7 % 10};2024-01-0{1 + row % 9}T10:{row % 60:02d}:00+0{row % 3}:00;"
        f'{("1", "0", "NULL", "t", "0,0")[row % 5]};"1.23{row % 4},5"'
        for row in range(200)
    ]
    text = "request;user;item;time;click;price\n" + "\n".join(lines) + "\n"
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    features = (
        *(
            feature("item", "kind", "categorical"),
            feature("item", "tags", "multi"),
            feature("item", "price", "numeric"),
        ),
        *(feature("item", "vector", "embedding"), feature("user", "town", "categorical")),
        replace(feature("exposure", "price", "numeric"), name="paid"),
    )
    schema = replace(
        SCHEMA,
        columns=replace(COLUMNS, request="request"),
        features=features,
        tables=item_table(tmp_path),
        csv=CsvSettings(decimal=","),
        statistics=Statistics(enabled=True),
    )
    found = same_files([tmp_path / "log.csv.gz"], schema, tmp_path)
    assert "embeddings/vector.npy" in found
    assert any(name.startswith("statistics/") and "/bucket=0001/" in name for name in found)
    assert "grouped" not in found
    assert any("were read as" in each["message"] for each in found["manifest: warnings"])


@pytest.mark.spark_all
def test_folders_of_partitions_keep_the_order_of_files_and_rows(tmp_path: Path) -> None:
    whole = pa.table(log(90, time=[START] * 60 + [START + 9] * 30))  # their place in the log tells them apart
    for day in range(3):
        folder = tmp_path / "logs" / f"day=2024-01-0{day + 1}" / f"hour={day * 7}"
        folder.mkdir(parents=True)
        for part, length in ((0, 10), (1, 20)):
            table = whole.slice(30 * day + 10 * part, length)
            pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=4)
    features = tuple(feature("exposure", name, "categorical") for name in ("day", "hour"))
    schema = replace(SCHEMA, features=features, split=Split(valid_fraction=0, test_fraction=0))
    found = same_files([tmp_path / "logs"], schema, tmp_path)
    assert found["manifest: counts"]["exposures"] == 2 * 20  # pairs of user and item, at two times
    assert {"vocab/day.parquet", "vocab/hour.parquet"} <= set(found)


@pytest.mark.spark_all
@pytest.mark.parametrize("separator", [None, "|"])
def test_lists_per_request(separator: str | None, tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "user": [f"u{row % 3}" for row in range(30)],
        "item": [["a", "b", "a" if row % 2 else "c"] if row % 10 else [] for row in range(30)],
        "time": [START + 100 * (row // 2) for row in range(30)],
        "clicked": [["a", "a", "x"] if row % 3 else ["b"] if row % 2 else None for row in range(30)],
        "slot": [[1, 2, 3] if row % 10 else [] for row in range(30)],
        "read": [float(row) for row in range(30)],
    }
    if separator is not None:
        for name in ("item", "clicked", "slot"):
            joined = [None if each is None else separator.join(map(repr, each)) for each in rows[name]]
            rows[name] = [each and f"[ {each}]" for each in joined]
    pq.write_table(pa.table(rows), tmp_path / "log.parquet", row_group_size=7)
    read = Task(name="read", kind="duration", column="read")
    follows = {"slot": "item"} if separator else {"slot": "item", "read": "clicked"}
    schema = replace(
        SCHEMA,
        tasks=(replace(CLICK, column="clicked"), read),
        features=(feature("exposure", "slot", "categorical"),),
        lists=ListSettings(acted=("clicked",), follows=follows, separator=separator),
    )
    found = same_files([tmp_path / "log.parquet"], schema, tmp_path)
    assert any(each["message"].startswith("lists: ") for each in found["manifest: warnings"])


@pytest.mark.spark_all
def test_rows_of_actions_are_joined(tmp_path: Path) -> None:
    rows = []
    for row in range(90):
        shown = {"user": f"u{row % 4}", "item": row * 7 % 10, "time": START + 40 * row, "type": "shown", "how": None}
        rows.append(shown)
        if row % 3 == 0:
            rows.append(shown | {"time": shown["time"] + 10.5 * (row % 7), "type": "click", "how": f"h{row % 2}"})
        if row % 15 == 3:
            rows.append(shown | {"user": "u9", "type": "click"})
        if row % 5 == 0:
            rows.append(shown | {"time": shown["time"] + 5, "type": "like"})
    made = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table(made), tmp_path / "log.parquet", row_group_size=11)
    tasks = (replace(CLICK, column="click"), replace(CLICK, name="like", column="like"))
    schema = replace(
        SCHEMA,
        tasks=tasks,
        feedback=(Feedback(name="how", column="how"),),
        join=Join(within="10m", event="type", exposure="shown"),
    )
    found = same_files([tmp_path / "log.parquet"], schema, tmp_path)
    assert any(each["message"].startswith("join: 6 ") for each in found["manifest: warnings"])


@pytest.mark.spark_all
def test_features_without_a_side_table_are_those_of_the_first_exposure(tmp_path: Path) -> None:
    columns = log(
        60,
        time=[f"{START + row // 8 * 8}.{row % 8}" for row in range(60)],
        kind=[f"k{row % 11}" for row in range(60)],
        tags=[[f"t{row % 5}"] if row % 7 else None for row in range(60)],
    )
    pq.write_table(pa.table(columns), tmp_path / "log.parquet", row_group_size=5)
    features = (feature("item", "kind", "categorical"), feature("item", "tags", "multi"))
    same_files([tmp_path / "log.parquet"], replace(SCHEMA, features=features), tmp_path)


REFUSED: dict[str, dict[str, Any]] = {
    "labels of another kind": {"click": [row % 4 for row in range(60)]},
    "text for labels": {"click": ["yes", "no"] * 30},
    "times of another unit": {"time": [(START + row) * 1000 for row in range(60)]},
    "times that are none": {"time": ["soon"] * 60},
    "lists for users": {"user": [["u"]] * 60},
    "float ids that are too large": {"item": [float(2**53 + row) for row in range(60)]},
    "bytes that are no text": {"user": [b"\xff"] * 60},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "text for labels" else pytest.mark.spark_all) for name in sorted(REFUSED)],
)
def test_refusals(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(log(60, **REFUSED[name])), tmp_path / "log.parquet")
    found = same_files([tmp_path / "log.parquet"], SCHEMA, tmp_path)
    assert list(found) in (["LogError"], ["SchemaError"])


@pytest.mark.spark_all
def test_a_damaged_parquet_file_is_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(log(5000)), path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[100:4000] = bytes(3900)
    path.write_bytes(data)
    assert "damaged" in same_files([path], SCHEMA, tmp_path)["LogError"]


@pytest.mark.realdata
@pytest.mark.spark_all
@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("*/")))
def test_cases(name: str, tmp_path: Path) -> None:
    schema = CASES / name / "schema.toml"
    if not schema.exists():
        pytest.skip("this case leaves the schema to the reader")
    same_files(sorted((CASES / name).glob("log.*")), schema, tmp_path)


def _sources() -> dict[str, Callable[[Path], Any]]:
    """Source → what writes a small release of it: those of the sources' own tests."""
    found = {}
    for name, function in (
        ("mind", "write"),
        ("kuairand", "write"),
        ("taobao", "write"),
        ("sequences", "write"),
        ("movielens", "write_1m"),
    ):
        path = Path(__file__).parent / "sources" / f"test_{name}.py"
        spec = importlib.util.spec_from_file_location(f"written_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[name] = getattr(module, function)
    return found


@pytest.mark.spark_all
@pytest.mark.parametrize("name", ["kuairand", "mind", "movielens", "sequences", "taobao"])
def test_public_data_sets(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    _sources()[name](folder)
    assert "items.parquet" in same(published(name, folder), tmp_path)


@pytest.mark.realdata
@pytest.mark.spark_all
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ml-100k", "movielens"),
        ("ml-latest-small", "movielens"),
        ("mind-small-sample", "mind"),
        ("kuairand-27k-subset", "kuairand"),
        ("amazon-beauty", "sequences"),
    ],
)
def test_real_data_sets(folder: str, name: str, real_data: Path, spark: Any, tmp_path: Path) -> None:
    conf = spark.sparkContext._jsc.sc().conf()  # of sessions to come; the fixture's partitions would be thousands
    tiny = conf.get("spark.sql.files.maxPartitionBytes")
    conf.set("spark.sql.files.maxPartitionBytes", "1000000")
    try:
        same(published(name, real_data / folder), tmp_path)
    finally:
        conf.set("spark.sql.files.maxPartitionBytes", tiny)
