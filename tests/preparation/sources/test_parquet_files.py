"""Parquet files that can't be read are named in our words, whenever it is found out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import SCHEMA, log
from genrank.errors import LogError
from genrank.preparation.duckdb_engine import DuckDBEngine as Engine
from genrank.preparation.sources.files import files, read_table


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "scratch", threads=1)
    yield made
    made.close()


def refusal(engine: Engine, *paths: Path) -> str:
    with pytest.raises(LogError) as caught:
        engine.fetch(read_table(engine, paths, SCHEMA, None))
    message = str(caught.value)
    assert "\n" not in message
    for word in ("DuckDB", "Arrow", "Thrift", "magic", "TProtocol", "footer", "snappy", "Exception"):
        assert word not in message
    return message


def written(path: Path) -> Path:
    pq.write_table(pa.table(log(2000)), path, row_group_size=500)
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "an empty file"),
        (lambda content: content[: len(content) // 2], "without its end, as if cut"),
        (lambda content: content[:-1], "without its end, as if cut"),
        (lambda content: b"user,item,time,click\nu1,i1,1,1\n", "rename it to .csv"),
        (lambda content: content[:40] + b"\xff" * 900 + content[940:], "a damaged file"),
        (lambda content: content[:-100] + b"\xff" * 92 + content[-8:], "a damaged file"),
        (lambda content: b"PAR1PAR1", "a damaged file"),
    ],
)
def test_a_file_that_is_damaged_is_named(engine: Engine, tmp_path: Path, damage: object, words: str) -> None:
    whole, broken = written(tmp_path / "a.parquet"), written(tmp_path / "b.parquet")
    broken.write_bytes(damage(broken.read_bytes()))  # type: ignore[operator]
    line = refusal(engine, whole, broken)
    assert f"{broken}: expected Parquet" in line
    assert words in line
    assert "write or copy it again" in line


def test_a_file_that_vanishes_is_named(engine: Engine, tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.parquet"), written(tmp_path / "b.parquet")
    rows = read_table(engine, [first, second], SCHEMA, None)
    second.unlink()
    with pytest.raises(LogError, match=r"b\.parquet: can't be read \(No such file or directory\)"):
        engine.fetch(rows)


def test_names_with_the_signs_of_patterns_are_names(engine: Engine, tmp_path: Path) -> None:
    odd = written(tmp_path / "l[o]g*?.parquet")
    assert engine.fetch(read_table(engine, [odd], SCHEMA, None)).num_rows == 2000


def test_folders_are_read_whole_or_refused(tmp_path: Path) -> None:
    (tmp_path / "logs" / "x.csv").mkdir(parents=True)
    (tmp_path / "logs" / "x.csv" / "part.CSV").write_text("user,item,time,click\n")
    assert files([tmp_path / "logs"], schema=SCHEMA).description["files"] == ["part.CSV"]
    with pytest.raises(LogError, match=r"x\.csv: expected a file, found a folder"):
        files([tmp_path / "logs" / "*.csv"], schema=SCHEMA)
    (tmp_path / "logs" / "day=1").symlink_to(tmp_path / "logs" / "x.csv")
    with pytest.raises(LogError, match="day=1: expected a folder, found a link"):
        files([tmp_path / "logs"], schema=SCHEMA)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(LogError, match=r"log\.csv: expected a file, found something else"):
        files([tmp_path / "log.csv"], schema=SCHEMA)
