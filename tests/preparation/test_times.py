"""Times of every unit and type are rounded down."""

from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrank.errors import LogError
from genrank.preparation.duckdb_engine import DuckDBEngine as Engine
from genrank.preparation.times import SCALE, seconds
from genrank.schema import Time

SECOND = 1_700_000_000
BEFORE = [SECOND * 10**9 - 1, SECOND * 10**9, SECOND * 10**9 + 999_999_999, -1, 0, 1]  # nanoseconds
SECONDS = [SECOND - 1, SECOND, SECOND, -1, 0, 0]


def read(folder: Path, values: pa.Array, time: Time) -> list[Any]:
    pq.write_table(pa.table({"ts": values}), folder / "times.parquet")
    with closing(Engine(folder / "spill", threads=1)) as engine:
        table = engine.parquet([folder / "times.parquet"])
        found: list[Any] = engine.fetch(table.select(seconds=seconds(table.ts, time)))["seconds"].to_pylist()
    return found


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["integer", "text", "decimal", "float", "timestamp", "timestamp with zone"])
def test_times_are_rounded_down_in_every_unit_and_type(tmp_path: Path, unit: str, kind: str) -> None:
    finer = 10**9 // SCALE[unit]
    numbers, wanted = [nanos // finer for nanos in BEFORE], SECONDS
    made = {
        "integer": lambda: pa.array(numbers, pa.int64()),
        "text": lambda: pa.array([str(number) for number in numbers]),
        "decimal": lambda: pa.array([Decimal(nanos) / finer for nanos in BEFORE], pa.decimal128(38, 9)),
        "timestamp": lambda: pa.array(numbers, pa.timestamp(unit)),
        "timestamp with zone": lambda: pa.array(numbers, pa.timestamp(unit, "Asia/Tokyo")),
        "float": lambda: pa.array([float(number) for number in numbers]),
    }[kind]()
    if kind == "float" and unit == "ns":
        made, wanted = pa.array([SECOND * 1e9 - 256.0, SECOND * 1e9, -0.5]), [SECOND - 1, SECOND, -1]
    assert read(tmp_path, made, Time(unit=unit)) == wanted


@pytest.mark.parametrize("values", [[1.999999, -0.5, 1700000000.9999998], ["1.999999", "-0.5", "1700000000.9999998"]])
def test_fractions_of_a_second_are_rounded_down(tmp_path: Path, values: list[Any]) -> None:
    assert read(tmp_path, pa.array(values), Time()) == [1, -1, SECOND]


def test_times_beyond_any_number_are_unreadable(tmp_path: Path) -> None:
    huge = pa.array([Decimal(10) ** 28, Decimal(-1), None], pa.decimal128(38, 9))
    assert read(tmp_path, huge, Time()) == [None, -1, None]
    least = pa.array([-(2**63), 2**63 - 1])
    assert read(tmp_path, least, Time(unit="ns")) == [-9_223_372_037, 9_223_372_036]
    assert read(tmp_path, pa.array([float("nan"), float("inf"), 1e300]), Time()) == [None, None, None]


def test_truth_values_are_no_times(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="expected numbers, timestamps or ISO text in 'ts', found boolean"):
        read(tmp_path, pa.array([True, False]), Time())
