"""What `genrank schema` proposes for logs of known kinds; where the roles are found, `prepare` takes it as it is."""

import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from case_logs import Row, rows, written
from genrank.cli import main
from genrank.config import build
from genrank.data.manifest import Manifest
from genrank.documents import parse_toml
from genrank.errors import LogError
from genrank.preparation import log_sample
from genrank.preparation.proposing import propose_schema
from genrank.schema import LogSchema

PLAIN = rows()
CASES = Path(__file__).parents[3] / "shared" / "cases"


def proposed(path: Path) -> LogSchema:
    """The proposal, whose needed roles must be found."""
    found = propose_schema([path])
    assert not found.missing
    return build(LogSchema, parse_toml(found.text), where="proposal")


def prepared(path: Path, folder: Path) -> Manifest:
    """What `prepare` makes of the log with the proposal as it is."""
    schema, out = folder / "proposed.toml", folder / "prepared"
    schema.write_text(propose_schema([path]).text, encoding="utf-8")
    assert main(["prepare", str(path), "--schema", str(schema), "--out", str(out), "--threads", "1"]) == 0
    return Manifest.load(out)


def left_out(path: Path, column: str) -> str:
    """The comment of a proposal on a column that it leaves out."""
    lines = propose_schema([path]).text.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("#") and f'"{column}"' in line)
    while lines[place - 1].startswith("#"):
        place -= 1
    return " ".join(line.removeprefix("# ") for line in lines[place : place + 8] if line.startswith("#"))


def as_dicts(schema: LogSchema) -> dict[str, dict[str, Any]]:
    """Tasks and features by column."""
    return {str(part.column): vars(part) for part in (*schema.tasks, *schema.features)}


def test_the_simulated_feed(feed: Path, tmp_path: Path) -> None:
    schema = proposed(feed / "exposures")
    columns = schema.columns
    assert (columns.user, columns.item, columns.time) == ("user_id", "item_id", "timestamp")
    assert (columns.request, columns.position, schema.time.unit) == ("request_id", "position", "s")
    tasks = {task.column: (task.kind, task.unit, task.censored) for task in schema.tasks}
    assert tasks.pop("dwell_ms") == ("duration", "ms", "dwell_censored")
    assert set(tasks) == {"click", "like", "follow"}
    features = {feature.column: (feature.owner, feature.kind) for feature in schema.features}
    assert features["device"] == ("exposure", "categorical")
    assert features["item_age_hours"] == ("exposure", "numeric")
    assert "a probability or a model's score" in left_out(feed / "exposures", "p_click")
    manifest = prepared(feed / "exposures", tmp_path)
    assert manifest.counts.exposures > 5000


def movielens(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    genres = ["Action|Comedy", "Drama", "Comedy|Drama|Romance", "Action|Thriller", "Romance"]
    lines = [
        {
            "userId": int(user),
            "movieId": int(movie),
            "rating": float(rng.integers(1, 11)) / 2,
            "timestamp": 964_982_703 + 1000 * number,
            "genres": genres[movie % 5],
            "title": f"A film with a name, no. {movie} ({1990 + movie % 20})",
        }
        for number, (user, movie) in enumerate(zip(rng.integers(1, 40, 2000), rng.integers(1, 100, 2000), strict=True))
    ]
    return written(folder / "ratings.csv", lines)


def test_a_log_of_ratings(tmp_path: Path) -> None:
    schema = proposed(movielens(tmp_path))
    assert (schema.columns.user, schema.columns.item, schema.time.unit) == ("userId", "movieId", "s")
    (task,) = schema.tasks
    assert (task.column, task.kind, task.threshold) == ("rating", "binary", 4.0)
    features = as_dicts(schema)
    assert (features["genres"]["owner"], features["genres"]["kind"]) == ("item", "multi")
    assert features["genres"]["separator"] == "|"
    assert features["title"]["owner"] == "item"
    assert prepared(tmp_path / "ratings.csv", tmp_path).counts.exposures > 1900


def kuairand(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = []
    for number in range(3000):
        video = int(rng.integers(80))
        click = int(rng.random() < 0.4)
        lines.append(
            {
                "user_id": int(rng.integers(30)),
                "video_id": video,
                "date": 20220408 + number // 1000,
                "hourmin": 100 * int(rng.integers(24)),
                "time_ms": 1_649_348_400_000 + 60_000 * number,
                "is_click": click,
                "is_like": int(click and rng.random() < 0.1),
                "long_view": int(click and rng.random() < 0.5),
                "is_hate": 0,
                "play_time_ms": int(click * rng.integers(1, 90_000)),
                "duration_ms": 1000 * (7 + video % 60),
                "tab": int(rng.integers(5)),
                "is_rand": int(rng.random() < 0.1),
            }
        )
    return written(folder / "log_standard.csv", lines)


def test_a_log_of_short_videos(tmp_path: Path) -> None:
    schema = proposed(kuairand(tmp_path))
    assert (schema.columns.item, schema.columns.time, schema.time.unit) == ("video_id", "time_ms", "ms")
    tasks = {task.column: task for task in schema.tasks}
    assert set(tasks) == {"is_click", "is_like", "long_view", "play_time_ms"}
    assert (tasks["play_time_ms"].kind, tasks["play_time_ms"].unit) == ("duration", "ms")
    features = as_dicts(schema)
    assert features["duration_ms"]["owner"] == "item"
    assert features["tab"]["kind"] == "categorical"
    assert "a task needs both 0 and 1" in left_out(tmp_path / "log_standard.csv", "is_hate")
    assert prepared(tmp_path / "log_standard.csv", tmp_path).counts.exposures == 3000


@pytest.mark.parametrize(
    ("unit", "column"), [("ms", "dwell_time"), ("s", "dwell_time"), ("ms", "watch_time_ms"), ("s", "readSeconds")]
)
def test_units_of_durations_are_guessed_by_name_or_size(tmp_path: Path, unit: str, column: str) -> None:
    scale = 1000 if unit == "ms" else 1
    lines = [row | {column: scale * (5 + number % 60)} for number, row in enumerate(PLAIN)]
    (task,) = [task for task in proposed(written(tmp_path / "log.csv", lines)).tasks if task.kind == "duration"]
    assert (task.column, task.unit) == (column, unit)


def moment(time: int, pattern: str) -> str:
    return datetime.fromtimestamp(time, UTC).strftime(pattern)


@pytest.mark.parametrize(
    ("write", "unit", "pattern", "asks"),
    [
        (lambda t: t, "s", None, False),
        (lambda t: t * 1000 + 7, "ms", None, False),
        (lambda t: t * 10**6, "us", None, False),
        (lambda t: moment(t, "%Y-%m-%dT%H:%M:%SZ"), "auto", None, False),
        (lambda t: moment(t, "%Y-%m-%d %H:%M:%S+08:00"), "auto", None, False),
        (lambda t: moment(t, "%Y-%m-%d %H:%M:%S"), "auto", None, True),
        (lambda t: moment(t, "%d/%m/%Y %H:%M"), "auto", "%d/%m/%Y %H:%M", True),
        (lambda t: moment(t, "%m/%d/%Y %H:%M:%S"), "auto", "%m/%d/%Y %H:%M:%S", True),
    ],
)
def test_times_of_any_writing(tmp_path: Path, write: Callable[[int], Any], unit, pattern, asks: bool) -> None:
    log = written(tmp_path / "log.csv", [row | {"ts": write(row["ts"])} for row in PLAIN])
    schema = proposed(log)
    assert (schema.time.unit, schema.time.format) == (unit, pattern)
    assert ("the times name no zone" in propose_schema([log]).text) is asks
    split = prepared(log, tmp_path).split
    assert split.first_time // 86_400 in (1_700_003_458 // 86_400, 1_700_003_458 // 86_400 - 1)


@pytest.mark.parametrize("kind", ["csv", "gz", "tsv", "semicolons", "utf-16", "latin-1", "parquet"])
def test_files_of_any_kind(tmp_path: Path, kind: str) -> None:
    lines = [row | {"iid": "é" + row["iid"]} for row in PLAIN]
    delimiter = {"tsv": "\t", "semicolons": ";"}.get(kind, ",")
    log = written(tmp_path / f"log.{'tsv' if kind == 'tsv' else 'csv'}", lines, delimiter=delimiter)
    if kind == "gz":
        (tmp_path / "log.csv.gz").write_bytes(gzip.compress(log.read_bytes()))
        log = tmp_path / "log.csv.gz"
    if kind in ("utf-16", "latin-1"):
        log.write_bytes(log.read_text(encoding="utf-8").encode(kind))
    if kind == "parquet":
        log = tmp_path / "log.parquet"
        pq.write_table(pa.Table.from_pylist(lines), log)
    assert prepared(log, tmp_path).counts.exposures == 800


def test_lists_and_vectors_in_parquet(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((40, 8))
    lines = [
        row
        | {
            "vector": vectors[int(row["iid"][1:])].tolist(),
            "tags": [f"t{int(row['iid'][1:]) % 7}", f"t{int(row['iid'][1:]) % 3}"],
            "where": {"x": 1},
        }
        for row in PLAIN
    ]
    log = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(lines), log)
    features = as_dicts(proposed(log))
    assert (features["vector"]["owner"], features["vector"]["kind"]) == ("item", "embedding")
    assert (features["tags"]["owner"], features["tags"]["kind"]) == ("item", "multi")
    assert "where" not in features
    assert next(f.dim for f in prepared(log, tmp_path).spec.features if f.name == "vector") == 8


def test_a_list_of_earlier_items_becomes_the_history(tmp_path: Path) -> None:
    prices = [[0.5, 1.5]] * len(PLAIN)
    lines = [row | {"clicked_items_hist": ["old", row["iid"]], "price_history": prices[0]} for row in PLAIN]
    log = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(lines), log)
    schema = proposed(log)
    lists = schema.history.lists
    assert lists is not None
    assert (lists.items, lists.labels) == ("clicked_items_hist", {schema.tasks[0].name: 1})
    assert "clicked_items_hist" not in as_dicts(schema)
    manifest = prepared(log, tmp_path)
    assert manifest.counts.exposures == len(PLAIN) + 2 * manifest.counts.users


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("watch_time", pa.array([float("nan")] * 8)),
        ("position", pa.array([float("inf"), None] * 4)),
        ("seen", pa.nulls(8)),
        ("author", pa.array(["a", "b"] * 4, pa.string_view())),
        ("price", pa.array([1, 2] * 4, pa.int64()).cast(pa.decimal128(30, 2))),
        ("shown", pa.array(range(8), pa.time32("s"))),
        ("lasted", pa.array(range(8), pa.duration("ns"))),
        ("seen_at", pa.array([1_700_000_000_123_456_789] * 8, pa.timestamp("ns", "Asia/Tokyo"))),
        ("weights", pa.array([[("a", 1.0)]] * 8, pa.map_(pa.string(), pa.float64()))),
        ("tags", pa.array([[], None] * 4, pa.list_(pa.int64()))),
        ("big", pa.array([2**64 - 1, 0] * 4, pa.uint64())),
        ("digits", pa.array([str(10**400), "+1"] * 4)),
        ("note\n[x]", pa.array(["a\x7f\x01\n# b", "c"] * 4)),
        ("", pa.array(["a", "b"] * 4)),
    ],
)
def test_columns_of_any_type_leave_a_schema_that_can_be_read(tmp_path: Path, name: str, values: pa.Array) -> None:
    columns = {each: pa.array([row[each] for row in PLAIN[:8]]) for each in PLAIN[0]}
    pq.write_table(pa.table({**columns, name: values}), tmp_path / "log.parquet")
    assert proposed(tmp_path / "log.parquet").columns.user == "uid"


def test_decimal_commas(tmp_path: Path) -> None:
    lines = [row | {"price": f"{number % 97},{number % 9}5"} for number, row in enumerate(PLAIN)]
    schema = proposed(written(tmp_path / "log.csv", lines, delimiter=";"))
    assert schema.csv.decimal == ","
    assert as_dicts(schema)["price"]["kind"] == "numeric"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda row, _: row | {"extra": "long" if row["clk"] else "short"}, "AUC above 0.98"),
        (lambda row, rng: row | {"extra": row["clk"] + rng.random() / 2}, "AUC above 0.98"),
        (lambda row, _: row | {"extra": 1}, "in every row of the sample"),
        (lambda row, rng: row | {"extra": f"{rng.random()}x"}, "differs in almost every row"),
        (lambda row, _: row | {"extra": "word " * 30 + row["iid"]}, "free text"),
        (lambda row, _: row | {"extra": row["ts"] + 5}, "another time"),
    ],
)
def test_what_is_no_feature_is_commented_out_with_the_reason(tmp_path: Path, change, why: str) -> None:
    log = written(tmp_path / "log.csv", rows(change))
    assert "extra" not in as_dicts(proposed(log))
    assert why in " ".join(propose_schema([log]).text.replace("\n# ", " ").split())


def test_actions_as_rows_of_their_own_are_joined_by_what_is_commented_out(tmp_path: Path) -> None:
    lines = [{**row, "event": "view"} for row in PLAIN]
    lines += [{**row, "ts": row["ts"] + 5, "event": "purchase"} for row in PLAIN if row["clk"]]
    log = written(tmp_path / "log.csv", [{k: v for k, v in row.items() if k != "clk"} for row in lines])
    text = propose_schema([log]).text
    assert "event" not in as_dicts(proposed(log))
    names = ("[join]", "within", "event", "exposure", "[[tasks]]", "name", "kind", "column")
    taken_in = "\n".join(
        line.removeprefix("# ") if line.startswith(tuple(f"# {name}" for name in names)) else line
        for line in text.partition("# Where features of items")[0].partition("[columns]")[2].splitlines()
    )
    schema = build(LogSchema, parse_toml(f'name = "log"\n[columns]{taken_in}'), where="taken in")
    assert (schema.join.event, schema.join.exposure) == ("event", "view")
    (task,) = schema.tasks
    assert (task.name, task.column) == ("purchase", "purchase")


def test_roles_that_cannot_be_found_are_said_to_be_needed(tmp_path: Path, capsys) -> None:
    lines = [{"who": row["uid"], "iid": row["iid"], "clk": row["clk"]} for row in PLAIN]
    log = written(tmp_path / "log.csv", lines)
    found = propose_schema([log])
    assert found.missing == ("user", "time")
    assert '# user = "…"' in found.text
    assert "needed, and not found by name" in found.text
    assert parse_toml(found.text)["columns"] == {"item": "iid"}
    capsys.readouterr()
    assert main(["schema", str(log)]) == 0
    captured = capsys.readouterr()
    assert captured.out == found.text
    assert "no column found for: user, time" in captured.err


@pytest.mark.parametrize("name", ['odd "name"', "naïve\tname", "1st", "class", "😀", "user id"])
def test_column_names_of_any_letters_are_quoted(tmp_path: Path, name: str) -> None:
    lines = [row | {name: f"v{number % 5}"} for number, row in enumerate(PLAIN)]
    log = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(lines), log)
    schema = proposed(log)
    assert name in {feature.column for feature in schema.features} | {schema.columns.user}


def test_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sample, "MAX_ROWS", 300)
    assert "the first 300 rows" in propose_schema([written(tmp_path / "log.csv", PLAIN)]).text
    monkeypatch.setattr(log_sample, "MAX_BYTES", 2000)
    sample = log_sample.sample_log([tmp_path / "log.csv"])
    assert 50 < sample.rows.num_rows < 150
    assert sample.skipped == 0  # the row that is cut is not looked at


def test_many_columns(tmp_path: Path) -> None:
    def wide(row: Row, rng: np.random.Generator) -> Row:
        return row | {f"f{number}": int(rng.integers(10)) for number in range(496)}

    schema = proposed(written(tmp_path / "log.csv", rows(wide)))
    assert len(schema.features) == 64
    assert "beyond the first 64 features" in left_out(tmp_path / "log.csv", "f400")


def test_a_huge_log_takes_no_longer(tmp_path: Path) -> None:
    log = written(tmp_path / "log.csv", PLAIN)
    with log.open("ab") as file:
        file.write(log.read_bytes().split(b"\n", 1)[1] * 5000)
    os.truncate(log, 10 * 2**30)  # sparse: nothing but zeros behind
    sample = log_sample.sample_log([log])
    assert sample.rows.num_rows == log_sample.MAX_ROWS
    assert proposed(log).columns.item == "iid"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.csv", b"", "the file is empty"),
        ("log.tsv", b"\n\n", "the file is empty"),
        ("log.csv", b"uid,iid,ts\n", "has no rows"),
        ("log.csv", b"1,2,964982703\n3,4,964982703\n", "expected a line of column names"),
        ("log.csv", b"words\nand more\n", "expected several columns"),
        ("log.csv", bytes(range(256)) * 500, "expected text"),
        ("log.csv", b"\x7fELF" + bytes(5000), "expected text"),
        ("log.csv.gz", b"no gzip", "expected gzip"),
        ("log.parquet", b"", "an empty file"),
        ("log.parquet", b"PAR1" + bytes(500), "without its end"),
        ("log.xlsx", b"PK", "expected .parquet, .csv or .tsv"),
    ],
)
def test_files_that_are_no_log_are_refused_in_one_line(tmp_path: Path, name, content, said, capsys) -> None:
    (tmp_path / name).write_bytes(content)
    capsys.readouterr()
    assert main(["schema", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert said in line


@pytest.mark.parametrize("name", ["sparse.csv", "sparse.tsv", "sparse.parquet", "sparse.csv.gz"])
def test_ten_gigabytes_of_nothing_are_refused_without_reading_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 10 * 2**30)
    with pytest.raises(LogError) as refusal:
        propose_schema([tmp_path / name])
    assert "\n" not in str(refusal.value)


def test_missing_files_and_folders_without_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such file"):
        propose_schema([tmp_path / "nothing.csv"])
    with pytest.raises(LogError, match="in this folder"):
        propose_schema([tmp_path])


def test_json_is_one_document(tmp_path: Path, capsys) -> None:
    log = written(tmp_path / "log.csv", PLAIN)
    capsys.readouterr()
    assert main(["schema", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"]["columns"] == {"user": "uid", "item": "iid", "time": "ts"}
    assert found["missing"] == []


@pytest.mark.skipif(not CASES.is_dir(), reason="the small logs are not beside the project")
@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("*/log.*")) or ["none"])
def test_small_logs_with_a_trap_each(case: str, tmp_path: Path) -> None:
    (log,) = (CASES / case).glob("log.*")
    schema = proposed(log)
    assert (schema.columns.user, schema.columns.item) in {("uid", "iid"), ("user", "inview")}
    assert [task.column for task in schema.tasks] in (["clk"], ["clicked"])
    if case != "ragged-csv":  # which prepare refuses, whatever the schema
        assert prepared(log, tmp_path).counts.exposures > 100
    else:
        assert "longer or shorter than the header" in propose_schema([log]).text
