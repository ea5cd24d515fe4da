import gzip
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import SCHEMA, START, Prepared, log, prepare_log
from genrank.errors import ConfigError, LogError, SchemaError
from genrank.log_settings import CsvSettings
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files

TOML = """
name = "tiny"
[columns]
user = "user"
item = "item"
time = "time"
[[tasks]]
name = "click"
kind = "binary"
column = "click"
[tables.item]
path = "side/items.csv"
key = "id"
[[features]]
name = "shelf"
owner = "item"
kind = "categorical"
column = "shelf"
"""


def lines(rows: range, delimiter: str = ",", header: bool = True) -> str:
    columns = log()
    head = [delimiter.join(columns)] if header else []
    return "\n".join([*head, *(delimiter.join(str(c[row]) for c in columns.values()) for row in rows)]) + "\n"


def prepared(folder: Path, paths: list[Path]) -> Prepared:
    out = folder / "prepared"
    return Prepared(out, prepare(files(paths, schema=SCHEMA), out=out))


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "folder", "pattern", "several"])
def test_text_files_of_every_kind_equal_parquet(tmp_path: Path, kind: str) -> None:
    expected = prepare_log(tmp_path / "expected", log()).rows()
    name = tmp_path / "logs" / {"tsv": "a.tsv", "csv.gz": "a.csv.gz"}.get(kind, "a.csv")
    name.parent.mkdir()
    if kind == "csv.gz":
        name.write_bytes(gzip.compress(lines(range(60)).encode()))
    elif kind in ("csv", "tsv"):
        name.write_text(lines(range(60), "\t" if kind == "tsv" else ","))
    else:
        name.write_text(lines(range(20)))
        (name.parent / "b.csv").write_text(lines(range(20, 60)))
        (name.parent / "_SUCCESS").write_text("")
    given = {"folder": [name.parent], "pattern": [name.parent / "*.csv"], "several": [name, name.parent / "b.csv"]}
    assert prepared(tmp_path, given.get(kind, [name])).rows() == expected


def test_ids_of_text_files_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        lines(range(60)).replace("i", "00").replace("00tem,t00me,cl00ck", "item,time,click")
    )
    assert prepared(tmp_path, [tmp_path / "a.csv"]).table("items.parquet")["id"].to_pylist()[1] == "000"


def test_parquet_files_are_matched_by_column_name(tmp_path: Path) -> None:
    columns = log()
    pq.write_table(pa.table({n: v[:30] for n, v in columns.items()}), tmp_path / "a.parquet")
    pq.write_table(pa.table({n: columns[n][30:] for n in reversed(list(columns))}), tmp_path / "b.parquet")
    made = prepared(tmp_path, [tmp_path])
    assert made.rows() == prepare_log(tmp_path / "one", columns).rows()
    assert made.manifest.source == {"kind": "files", "files": ["a.parquet", "b.parquet"], "rows": 60}


def test_side_tables_are_beside_the_schema_and_keep_what_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / "items.csv").write_text("id,shelf\ni0,front\ni1,front\nnew,back\n")
    (tmp_path / "schema.toml").write_text(TOML)
    (tmp_path / "a.csv").write_text(lines(range(60)))
    source = files([tmp_path / "a.csv"], schema=tmp_path / "schema.toml")
    made = Prepared(tmp_path / "out", prepare(source, out=tmp_path / "out"))
    assert made.vocabulary("shelf") == [("front", 1, 2)]
    assert made.table("items.parquet")["id"].to_pylist()[:4] == [None, "i0", "i1", "new"]  # before what is only shown


def test_settings_override_the_schema(tmp_path: Path) -> None:
    pq.write_table(pa.table(log()), tmp_path / "a.parquet")
    source = files([tmp_path / "a.parquet"], schema=SCHEMA).with_settings(["split.test_fraction=0.5"])
    assert prepare(source, out=tmp_path / "out").counts.test.exposures == 30
    with pytest.raises(ConfigError, match="did you mean 'test_fraction'"):
        source.with_settings(["split.test_fractoin=0.5"])


def test_a_time_that_cannot_be_read_is_dropped_and_counted(tmp_path: Path) -> None:
    text = lines(range(60)) + "".join(f"u1,i1,{START + 60 + n},0\n" for n in range(30_000)) + "u1,i1,soon,0\n"
    (tmp_path / "a.csv").write_text(text)
    made = prepared(tmp_path, [tmp_path / "a.csv"])
    assert made.manifest.dropped["unreadable time"] == 1
    assert made.manifest.counts.exposures == 30_060


def test_mixed_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines(range(60)))
    pq.write_table(pa.table(log()), tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"one format, found \.csv, \.parquet"):
        prepared(tmp_path, [tmp_path])


def test_a_missing_side_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "schema.toml").write_text(TOML)
    (tmp_path / "a.csv").write_text(lines(range(60)))
    with pytest.raises(LogError, match=r"items\.csv"):
        prepare(files([tmp_path / "a.csv"], schema=tmp_path / "schema.toml"), out=tmp_path / "out")


def test_a_wrong_key_of_a_side_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,shelf\ni0,front\n")
    text = TOML.replace("side/", "").replace('key = "id"', 'key = "item_id"')
    (tmp_path / "schema.toml").write_text(text)
    (tmp_path / "a.csv").write_text(lines(range(60)))
    with pytest.raises(SchemaError, match=r"tables\.item\.key.*'item_id'"):
        prepare(files([tmp_path / "a.csv"], schema=tmp_path / "schema.toml"), out=tmp_path / "out")


def test_a_schema_may_be_given_as_a_value(tmp_path: Path) -> None:
    pq.write_table(pa.table(log()), tmp_path / "a.parquet")
    renamed = replace(SCHEMA, name="renamed")
    assert prepare(files([tmp_path / "a.parquet"], schema=renamed), out=tmp_path / "out").schema == renamed


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_files_without_a_line_of_names_are_read_by_the_names_of_the_schema(tmp_path: Path, separator: str) -> None:
    named, bare = tmp_path / "named", tmp_path / "bare"
    for folder, header in ((named, True), (bare, False)):
        folder.mkdir()
        (folder / "a.csv").write_text(lines(range(60), separator, header))
    schema = replace(SCHEMA, csv=CsvSettings(columns=tuple(log())))
    out = tmp_path / "out"
    made = Prepared(out, prepare(files([bare / "a.csv"], schema=schema), out=out))
    assert made.rows() == prepared(named, [named / "a.csv"]).rows()


@pytest.mark.parametrize(
    ("columns", "header", "said"),
    [
        (("user", "item", "time"), False, r"expected rows of 3 values, one for each of csv\.columns, found 4"),
        (("user", "item", "time", "click"), True, r"its first line holds the names in csv\.columns"),
        (("a", "b", "c", "d"), False, r"csv\.columns names none of the schema's columns, such as 'user'"),
    ],
)
def test_names_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, columns: tuple[str, ...], header: bool, said: str
) -> None:
    (tmp_path / "a.csv").write_text(lines(range(60), header=header))
    schema = replace(SCHEMA, csv=CsvSettings(columns=columns))
    with pytest.raises(LogError, match=said):
        prepare(files([tmp_path / "a.csv"], schema=schema), out=tmp_path / "out")


def test_a_name_may_be_given_to_one_column_only() -> None:
    with pytest.raises(ValueError, match=r"csv\.columns has the name 'a', empty or twice"):
        CsvSettings(columns=("a", "a"))
