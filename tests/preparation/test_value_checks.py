"""Logs whose values can't be what their role says are refused in one line, or warned of."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import CLICK, SCHEMA, START, log, messages, prepare_log
from genrank.errors import LogError
from genrank.schema import Columns, Feature, Feedback, SideTable, SideTables, Task

ROWS = 60
COLUMNS = SCHEMA.columns
WATCHED = Task(name="watched", kind="duration", column="seconds", unit="s", censored="cut")


def refusal(folder: Path, rows: Any, **changes: Any) -> str:
    with pytest.raises(LogError) as caught:
        prepare_log(folder, rows, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(**columns: pa.Array) -> pa.Table:
    return pa.table(log(ROWS, **columns))


@pytest.mark.parametrize(("kind", "first"), [(pa.float64(), 2**53), (pa.float32(), 2**24)])
@pytest.mark.parametrize("role", ["user", "item", "request"])
def test_float_ids_that_may_be_several_are_refused(tmp_path: Path, role: str, kind: pa.DataType, first: int) -> None:
    ids = pa.array([float(first + 4 * (row % 5)) for row in range(ROWS)], kind)
    line = refusal(
        tmp_path,
        table(**{role: ids}),
        columns=Columns(user="user", item="item", time="time", request="request" if role == "request" else None),
    )
    assert f"columns.{role}: {role!r} holds floats" in line
    assert (
        f"60 of them so large, as {float(first)!r}, that neighbouring ids are one; write ids as integers or text"
        in line
    )


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_smaller_whole_floats_are_the_ids_that_they_were(tmp_path: Path, kind: pa.DataType) -> None:
    most = 2**24 - 1 if kind == pa.float32() else 2**53 - 1
    prepared = prepare_log(tmp_path, table(user=pa.array([float(most - row % 4) for row in range(ROWS)], kind)))
    assert set(prepared.table("users.parquet")["id"].to_pylist()[1:]) == {str(most - row) for row in range(4)}


def test_float_keys_of_a_side_table_that_may_be_several_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": [2.0**53, 2.0**53 + 2], "topic": ["a", "b"]}), tmp_path / "items.parquet")
    topic = Feature(name="topic", owner="item", kind="categorical", column="topic")
    rows = table(item=pa.array([2**53 + 2 * (row % 2) for row in range(ROWS)]))
    tables = SideTables(item=SideTable(path="items.parquet", key="item"))
    line = refusal(tmp_path, rows, tables=tables, features=(topic,))
    assert "tables.item.key: 'item' holds floats" in line


def test_float_categories_that_may_be_several_are_warned_of(tmp_path: Path) -> None:
    big = pa.array([2.0**60 + 256 * (row % 3) for row in range(ROWS)])
    author = Feature(name="author", owner="exposure", kind="categorical", column="author")
    prepared = prepare_log(
        tmp_path, table(author=big), features=(author,), feedback=(Feedback(name="to", column="author"),)
    )
    for role in ("feature 'author'", "feedback 'to'"):
        assert any(m.startswith(f"{role}: 60 floats in 'author' are so large") for m in messages(prepared.manifest))


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([[row % 4] for row in range(ROWS)]),
        pa.array([{"id": row % 4} for row in range(ROWS)]),
        pa.array([[("id", row % 4)] for row in range(ROWS)], pa.map_(pa.string(), pa.int64())),
    ],
    ids=["list", "struct", "map"],
)
def test_ids_and_categories_are_single_values(tmp_path: Path, ids: pa.Array) -> None:
    line = refusal(tmp_path / "user", table(user=ids))
    assert "columns.user: expected one value in each row of 'user'" in line
    assert "name a column of plain values, or write one" in line
    feature = Feature(name="device", owner="exposure", kind="categorical", column="device")
    line = refusal(tmp_path / "feature", table(device=ids), features=(feature,))
    assert "feature 'device': expected one value in each row of 'device'" in line
    line = refusal(tmp_path / "feedback", table(device=ids), feedback=(Feedback(name="to", column="device"),))
    assert "feedback 'to': expected one value in each row of 'device'" in line
    if not pa.types.is_list(ids.type):
        assert "columns.item: expected one value" in refusal(tmp_path / "item", table(item=ids))


@pytest.mark.parametrize("odd", [-0.5, 2.0, 0.3, -1.0])
def test_flags_are_true_or_false(tmp_path: Path, odd: float) -> None:
    flags = pa.array([odd if row == 7 else float(row % 2) for row in range(ROWS)])
    columns = Columns(user="user", item="item", time="time", target="flag")
    line = refusal(tmp_path / "target", table(flag=flags), columns=columns)
    assert (
        f"columns.target: expected 0, 1, true, false or nothing in column 'flag', found 1 other values such as {odd!r}"
        in line
    )
    line = refusal(tmp_path / "censored", table(cut=flags, seconds=pa.array([1.0] * ROWS)), tasks=(CLICK, WATCHED))
    assert "task 'watched', censored: expected 0, 1, true, false or nothing in column 'cut'" in line
    line = refusal(tmp_path / "label", table(click=flags))
    assert f"task 'click': expected 0 and 1 in column 'click', found 1 other values such as {odd!r}" in line


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64(), pa.float64()])
def test_flags_of_every_type_are_taken(tmp_path: Path, kind: pa.DataType) -> None:
    flags = pa.array([None if row == 0 else row % 3 > 0 for row in range(ROWS)]).cast(kind)
    prepared = prepare_log(
        tmp_path, table(flag=flags), columns=Columns(user="user", item="item", time="time", target="flag")
    )
    assert sum(row["target"] for row in prepared.rows()) == 1 + sum(row % 3 > 0 for row in range(1, ROWS))


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_times_just_before_a_second_are_of_the_one_before(tmp_path: Path, scale: int) -> None:
    unit = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}[scale]
    ticks = [(START + row + 1) * scale - 1 for row in range(ROWS)]
    prepared = prepare_log(tmp_path, table(time=pa.array(ticks, pa.timestamp(unit, "UTC"))))
    assert sorted(row["time"] for row in prepared.rows()) == [START + row for row in range(ROWS)]


def test_decimal_ids_are_the_numbers_that_requests_name(tmp_path: Path) -> None:
    prepared = prepare_log(
        tmp_path, table(user=pa.array([Decimal(row % 4) for row in range(ROWS)], pa.decimal128(10, 2)))
    )
    assert set(prepared.table("users.parquet")["id"].to_pylist()[1:]) == {"0", "1", "2", "3"}


def test_ids_in_bytes_are_text(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, table(user=pa.array([f"é{row % 4}".encode() for row in range(ROWS)])))
    assert set(prepared.table("users.parquet")["id"].to_pylist()[1:]) == {"é0", "é1", "é2", "é3"}


def test_numbers_beyond_32_bits_are_no_durations_and_no_oracle(tmp_path: Path) -> None:
    huge = pa.array([1e300 if row % 10 == 0 else 1.0 for row in range(ROWS)])
    prepared = prepare_log(
        tmp_path,
        table(seconds=huge),
        tasks=(CLICK, Task(name="watched", kind="duration", column="seconds", unit="s")),
        oracle={"click": "seconds"},
    )
    for row in prepared.rows():
        assert not np.isinf(row["task_watched"])
        assert not np.isinf(row["oracle_click"])
