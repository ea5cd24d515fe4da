"""What preparation refuses: one line that says how to fix it, and nothing left behind."""

import builtins
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import CLICK, SCHEMA, START, log, messages, prepare_log
from genrank.errors import ConfigError, InputError, LogError, MissingExtraError, OutputError, SchemaError
from genrank.preparation import writing
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.preparation.sources.public_data import published
from genrank.schema import Feature, SideTable, SideTables, Split, Task, Time

COLUMNS = SCHEMA.columns
PRICE = Feature(name="price", owner="exposure", kind="numeric", column="price")
VECTOR = Feature(name="vector", owner="item", kind="embedding", column="vector")


def refused(folder: Path, error: type[InputError], words: list[str], act: Callable[[], Any]) -> None:
    """`act` raises `error` in one line with all the words, and leaves nothing new in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {path for path in folder.rglob("*") if path.name != "log.parquet"}
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert {path for path in folder.rglob("*") if path.name != "log.parquet"} == before


@pytest.mark.parametrize(
    ("columns", "changes", "error", "words"),
    [
        ({}, {"columns": replace(COLUMNS, item="itm")}, SchemaError, ["columns.item", "'itm'", "did you mean 'item'?"]),
        ({}, {"tasks": (replace(CLICK, column="clicks"),)}, SchemaError, ["task 'click'", "did you mean 'click'?"]),
        ({"click": ["yes"] * 60}, {}, LogError, ["task 'click'", "numbers", "'click'", "'yes'", "cast"]),
        ({"price": ["1", "1,5"] * 30}, {"features": (PRICE,)}, LogError, ["feature 'price'", "'1,5'"]),
        ({"click": [2, 0] * 30}, {}, LogError, ["task 'click'", "30 other values such as 2", "threshold"]),
        ({"click": [0.5] * 60}, {}, LogError, ["task 'click'", "such as 0.5"]),
        ({"click": [0] * 60}, {}, LogError, ["task 'click'", "training part", "0 positives among 48"]),
        ({"click": [1] * 60}, {}, LogError, ["task 'click'", "48 positives among 48"]),
        (
            {"time": [(START + row) * 1000 for row in range(60)]},
            {},
            LogError,
            ["looks like milliseconds", "[time] unit = 'ms'"],
        ),
        (
            {"time": [(START + row) * 1_000_000 for row in range(60)]},
            {},
            LogError,
            ["looks like microseconds", "[time] unit = 'us'"],
        ),
        ({}, {"time": Time(unit="ms")}, LogError, ["looks like seconds", "[time] unit = 's'"]),
        ({"time": [START * 2] * 60}, {}, LogError, ["future", "2071", "unit"]),
        ({"time": ["yesterday"] * 60}, {}, LogError, ["columns.time", "'yesterday'", "ISO"]),
        ({"time": [True] * 60}, {}, LogError, ["columns.time", "boolean"]),
        ({"user": pa.nulls(60, pa.string())}, {}, LogError, ["no row", "60 with no user", "[columns]"]),
        ({"time": [START] * 60}, {}, LogError, ["training part has no exposures", "split.valid_start"]),
        (
            {},
            {"split": Split(valid_start="2020-01-01", test_start="2020-02-01")},
            LogError,
            ["training part", "2020-09-13"],
        ),
        ({}, {"split": Split(valid_start=START + 5, test_start=START + 99)}, LogError, ["test part", "no exposures"]),
        ({}, {"split": Split(valid_start="soon", test_start="later")}, ConfigError, ["split.valid_start", "'soon'"]),
        (
            {"price": ["a,b"] * 60},
            {"features": (Feature(name="price", owner="exposure", kind="multi", column="price"),)},
            LogError,
            ["expected lists", "separator"],
        ),
    ],
)  # fmt: skip
def test_logs_that_make_no_sense_are_refused(
    tmp_path: Path, columns: dict, changes: dict, error: type[InputError], words: list[str]
) -> None:
    refused(tmp_path, error, words, lambda: prepare_log(tmp_path, log(**columns), **changes))


def test_a_validation_part_that_nobody_asked_for_may_be_empty(tmp_path: Path) -> None:
    counts = prepare_log(tmp_path, log(), split=Split(valid_fraction=0, test_fraction=0.2)).manifest.counts
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (48, 0, 12)


def test_one_class_in_the_test_part_is_a_warning(tmp_path: Path) -> None:
    columns = log(click=[row % 2 for row in range(54)] + [0] * 6)
    warnings = messages(prepare_log(tmp_path, columns).manifest)
    assert warnings == (
        "task 'click': 0 positives among 6 exposures with a label in the test part, so it can't be measured there",
    )


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    empty = pa.table(log()).slice(0, 0)
    refused(tmp_path, LogError, ["no rows"], lambda: prepare_log(tmp_path, empty))


def side_table(folder: Path, **columns: Any) -> SideTables:
    pq.write_table(pa.table(columns), folder / "items.parquet")
    return SideTables(item=SideTable(path="items.parquet", key="item"))


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [1.0, float("nan")]], ["feature 'vector'", "item 'i1'", "finite"]),
        ([[1.0, 2.0], [1.0]], ["vectors of 2 numbers", "found 1 for item 'i1'"]),
        ([None, None], ["no item of the log has a vector"]),
    ],
)
def test_bad_embeddings_name_their_row(tmp_path: Path, vectors: list, words: list[str]) -> None:
    tables = side_table(tmp_path, item=["i0", "i1"], vector=pa.array(vectors, pa.list_(pa.float64())))
    refused(tmp_path, LogError, words, lambda: prepare_log(tmp_path, log(), tables=tables, features=(VECTOR,)))


def test_an_npy_of_another_length_than_its_table_is_refused(tmp_path: Path) -> None:
    tables = side_table(tmp_path, item=["i0", "i1"])
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    feature = Feature(name="vector", owner="item", kind="embedding", file="v.npy")
    words = ["shape (2, dim)", "(3, 2)"]
    refused(tmp_path, LogError, words, lambda: prepare_log(tmp_path, log(), tables=tables, features=(feature,)))


def test_a_missing_embedding_file_is_named(tmp_path: Path) -> None:
    tables = side_table(tmp_path, item=["i0", "i1"])
    feature = Feature(name="vector", owner="item", kind="embedding", file="none.npy")
    words = ["none.npy", "relative"]
    refused(tmp_path, SchemaError, words, lambda: prepare_log(tmp_path, log(), tables=tables, features=(feature,)))


def test_a_side_table_with_a_repeated_key_is_refused(tmp_path: Path) -> None:
    tables = side_table(tmp_path, item=["i0", "i1", "i1"])
    words = ["one row per item", "'i1'"]
    refused(tmp_path, LogError, words, lambda: prepare_log(tmp_path, log(), tables=tables))


@pytest.mark.parametrize(
    ("feature", "error", "words"),
    [
        (Feature(name="f", owner="item", kind="categorical", column="colr"), SchemaError, ["item table", "'color'"]),
        (Feature(name="f", owner="item", kind="numeric", column="color"), LogError, ["feature 'f'", "'red'"]),
    ],
)
def test_side_columns_are_checked_before_the_work(
    tmp_path: Path, feature: Feature, error: type[InputError], words: list[str]
) -> None:
    tables = side_table(tmp_path, item=["i0"], color=["red"])
    refused(tmp_path, error, words, lambda: prepare_log(tmp_path, log(), tables=tables, features=(feature,)))


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.txt", "folder"])
def test_files_that_are_missing_name_themselves(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "log.txt").write_text("x")
    refused(tmp_path, LogError, [name], lambda: files([tmp_path / name], schema=SCHEMA))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.parquet", b"not parquet at all", ["log.parquet", "expected Parquet, found another format"]),
        ("log.csv", b"", ["log.csv", "empty"]),
        ("log.csv", b"user,item,time,click\n", ["no rows"]),
        ("log.csv", b"user,item,click\nu,i,1\n", ["columns.time", "'time'"]),
    ],
)
def test_damaged_and_empty_files_are_refused(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    source = files([tmp_path / name], schema=SCHEMA)
    refused(tmp_path, InputError, words, lambda: prepare(source, out=tmp_path / "out"))


def test_a_parquet_file_damaged_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.parquet"
    rng = np.random.default_rng(0)
    pq.write_table(pa.table(log(6000, user=[str(n) for n in rng.integers(0, 2**60, 6000)])), path)
    content = bytearray(path.read_bytes())
    content[20 : len(content) // 2] = bytes(len(content) // 2 - 20)
    path.write_bytes(content)
    source = files([path], schema=SCHEMA)
    refused(tmp_path, LogError, ["found a damaged file"], lambda: prepare(source, out=tmp_path / "out"))


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    refused(tmp_path, OutputError, ["not empty", "another name"], lambda: prepare_log(tmp_path, log()))
    assert (out / "precious.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.pq, "write_table", full)
    (tmp_path / "log.csv").write_text(
        "user,item,time,click\n" + "".join(f"u{n % 3},i{n % 5},{START + n},{n % 2}\n" for n in range(60))
    )
    source = files([tmp_path / "log.csv"], schema=SCHEMA)
    refused(tmp_path, OutputError, ["No space left"], lambda: prepare(source, out=tmp_path / "out"))


def test_a_memory_limit_that_is_too_small_says_so(tmp_path: Path) -> None:
    options = PrepareOptions(memory_limit="1MB", threads=1)
    words = ["memory limit", "--memory-limit"]
    refused(tmp_path, OutputError, words, lambda: prepare_log(tmp_path, log(20_000), options=options))


@pytest.mark.parametrize("options", [{"memory_limit": "lots"}, {"threads": 0}, {"num_buckets": 0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="it must be"):
        PrepareOptions(**options)


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    refused(tmp_path, ConfigError, ["did you mean 'movielens'?"], lambda: published("movielenz", tmp_path))


def test_without_ibis_the_extra_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("ibis"):
            raise ModuleNotFoundError("No module named 'ibis'", name="ibis")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(tmp_path, MissingExtraError, ["pip install 'genrank[prepare]'"], lambda: prepare_log(tmp_path, log()))


def test_a_task_with_one_class_is_left_out_where_the_source_allows_it(tmp_path: Path) -> None:
    pq.write_table(pa.table(log(never=[0] * 60)), tmp_path / "log.parquet")
    schema = replace(SCHEMA, tasks=(CLICK, Task(name="never", kind="binary", column="never")))
    source = replace(files([tmp_path / "log.parquet"], schema=schema), optional_tasks=("click", "never"))
    manifest = prepare(source, out=tmp_path / "out")
    assert [task.name for task in manifest.spec.tasks] == ["click"]
    assert messages(manifest) == ("task 'never' is left out: training has one class only",)
