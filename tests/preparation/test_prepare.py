from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import CLICK, SCHEMA, START, log, messages, prepare_log, shuffled
from genrank.data.manifest import PartCounts
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.log_settings import RequestSettings
from genrank.preparation.buckets import choose_num_buckets
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.schema import Feature, Feedback, SideTable, SideTables, Split, Task, Time

COLUMNS = SCHEMA.columns
DWELL = Task(name="dwell", kind="duration", column="dwell")


def exposure(name: str, kind: str, **options: object) -> Feature:
    return Feature(name=name, owner="exposure", kind=kind, column=name, **options)  # type: ignore[arg-type]


def item(name: str, kind: str, **options: object) -> Feature:
    return Feature(name=name, owner="item", kind=kind, column=name, **options)  # type: ignore[arg-type]


def write_items(folder: Path, **columns: object) -> SideTables:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": [f"i{number}" for number in range(10)], **columns}), folder / "items.parquet")
    return SideTables(item=SideTable(path="items.parquet", key="item"))


def test_every_exposure_comes_out_once_in_order_of_user_and_time(tmp_path: Path) -> None:
    columns = log()
    rows = prepare_log(tmp_path, columns).rows()
    expected = sorted(zip(columns["user"], columns["time"], columns["item"], columns["click"], strict=True))
    assert [(r["user"], r["time"], r["item"], r["task_click"]) for r in rows] == expected
    assert {(r["position"], r["target"]) for r in rows} == {(-1, True)}


def test_the_prepared_folder_can_be_loaded(tmp_path: Path) -> None:
    columns = log(tags=[["a", "b"][: row % 3] for row in range(60)], dwell=[1.5] * 60, tab=["x"] * 60)
    features = (exposure("tags", "multi"), exposure("tab", "categorical"))
    prepared = prepare_log(tmp_path, columns, tasks=(CLICK, DWELL), features=features)
    data = PreparedData.load(prepared.folder)
    assert data.timelines.num_exposures == 60
    assert len(data.items) == 11


def test_a_log_of_positives_needs_no_task(tmp_path: Path) -> None:
    columns = log(kind=["buy", "fav"] * 30)
    prepared = prepare_log(tmp_path, columns, tasks=(), feedback=(Feedback(name="kind", column="kind"),))
    assert prepared.manifest.spec.tasks == ()
    assert messages(prepared.manifest) == ()
    assert prepared.manifest.counts.test == PartCounts(exposures=6, requests=6, positives={})
    assert [row["feedback_kind"] for row in prepared.rows()] == [1] * 15 + [2] * 15 + [1] * 15 + [2] * 15
    data = PreparedData.load(prepared.folder)
    assert data.manifest == prepared.manifest
    builder = data.builder(SequenceConfig(max_history=16))
    batch = builder.batch(data.part(builder, "test"))
    assert batch.candidates.labels == {}
    assert set(batch.history.actions["kind"].tolist()) == {1, 2}


def test_users_are_spread_over_buckets_by_their_row(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, log(), options=PrepareOptions(num_buckets=3, threads=1))
    users = {
        path.parent.name: pq.ParquetFile(path).read()["user"].to_pylist()
        for path in (prepared.folder / "timelines").glob("*/*/*")
    }
    assert users == {"bucket=0000": [3], "bucket=0001": [1, 4], "bucket=0002": [2]}


def test_unsorted_logs_and_any_number_of_threads_give_the_same_bytes(tmp_path: Path) -> None:
    columns = log(
        600,
        tab=[f"tab{row * row % 5}" for row in range(600)],
        tags=[f"t{row % 7},t{row % 3}" for row in range(600)],
        price=[float(row % 11) for row in range(600)],
    )
    features = (exposure("tab", "categorical"), exposure("tags", "multi", separator=","), exposure("price", "numeric"))
    first = prepare_log(tmp_path / "a", columns, features=features).bytes()
    one = PrepareOptions(threads=1, num_buckets=2)
    second = prepare_log(tmp_path / "b", shuffled(columns), features=features, options=one).bytes()
    assert first == second


def test_equal_times_are_one_request_where_the_log_has_no_request_column(tmp_path: Path) -> None:
    times = [START + row // 12 * 10 for row in range(60)]
    split = Split(valid_fraction=0.2, test_fraction=0.2)
    rows = prepare_log(tmp_path, log(time=times), split=split).rows()
    assert [row["request"] for row in rows if row["user"] == "u0"] == [n // 3 for n in range(15)]


def test_a_gap_above_the_limit_ends_a_derived_request(tmp_path: Path) -> None:
    seconds = [0, 30, 60, 91, 200, 230]
    columns = log(6, user=["u"] * 6, time=[START + s for s in seconds], click=[0, 1, 0, 1, 0, 1])
    changes = {"requests": RequestSettings(gap_seconds=30), "split": Split(valid_fraction=0, test_fraction=0)}
    assert [row["request"] for row in prepare_log(tmp_path, columns, **changes).rows()] == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("ids", [[7, 3, 7, 3, 9, 9], ["b", "a", "b", "a", "c", "c"]])
def test_requests_are_numbered_by_their_first_exposure_even_if_they_interleave(tmp_path: Path, ids: list) -> None:
    columns = log(6, user=["u"] * 6, request=ids, click=[0, 1, 0, 1, 0, 1])
    changes = {"columns": replace(COLUMNS, request="request"), "split": Split(valid_fraction=0, test_fraction=0)}
    assert [row["request"] for row in prepare_log(tmp_path, columns, **changes).rows()] == [0, 1, 0, 1, 2, 2]


@pytest.mark.parametrize("name", ["price", "file_row_number"])  # the latter hides DuckDB's own
def test_exposures_of_one_second_keep_the_order_of_files_and_rows(tmp_path: Path, name: str) -> None:
    shown = np.random.default_rng(3).permutation(300)
    columns = log(300, user=["u"] * 300, item=shown.tolist(), time=[START + row // 100 for row in range(300)])
    table = pa.table(columns | {name: list(range(300))})
    for part in range(3):  # row groups and files, in order of name
        pq.write_table(table.slice(100 * part, 100), tmp_path / f"{part}.parquet", row_group_size=7)
    source = files([tmp_path], schema=replace(SCHEMA, split=Split(valid_start=START + 1, test_start=START + 2)))
    prepare(source, out=tmp_path / "out", options=PrepareOptions(threads=2))
    data = PreparedData.load(tmp_path / "out")
    ids = pq.read_table(tmp_path / "out" / "items.parquet")["id"].to_pylist()
    assert [int(ids[row]) for row in data.timelines.item] == shown.tolist()


def test_positions_order_the_exposures_of_a_request(tmp_path: Path) -> None:
    columns = log(6, user=["u"] * 6, time=[START] * 3 + [START + 9] * 3, position=[2, 0, 1, None, 1, 0])
    changes = {"columns": replace(COLUMNS, position="position"), "split": Split(valid_fraction=0, test_fraction=0)}
    rows = prepare_log(tmp_path, columns, **changes).rows()
    assert [row["position"] for row in rows] == [0, 1, 2, -1, 0, 1]
    assert [row["item"] for row in rows] == ["i7", "i4", "i0", "i1", "i5", "i8"]


def test_exposures_without_a_request_id_fall_back_to_equal_times(tmp_path: Path) -> None:
    seconds, requests = [0, 0, 1, 2, 2, 3], [5, 5, 6, None, None, None]
    columns = log(6, user=["u"] * 6, time=[START + second for second in seconds], request=requests)
    changes = {"columns": replace(COLUMNS, request="request"), "split": Split(valid_fraction=0, test_fraction=0)}
    assert [row["request"] for row in prepare_log(tmp_path, columns, **changes).rows()] == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("auto", [START + row for row in range(60)]),
        ("s", [START + row + 0.9 for row in range(60)]),
        ("ms", [(START + row) * 1000 + 999 for row in range(60)]),
        ("us", [(START + row) * 1_000_000 for row in range(60)]),
        ("auto", [datetime.fromtimestamp(START + row + 0.9, UTC) for row in range(60)]),
        ("auto", [datetime.fromtimestamp(START + row, UTC).replace(tzinfo=None) for row in range(60)]),
        ("auto", [datetime.fromtimestamp(START + row, UTC).isoformat() for row in range(60)]),
        ("auto", [datetime.fromtimestamp(START + row, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for row in range(60)]),
    ],
)
def test_times_of_every_kind_become_whole_seconds(tmp_path: Path, unit: str, times: list) -> None:
    prepared = prepare_log(tmp_path, log(time=times), time=Time(unit=unit))  # type: ignore[arg-type]
    assert sorted(row["time"] for row in prepared.rows()) == [START + row for row in range(60)]


def test_ids_of_any_type_become_text_in_order(tmp_path: Path) -> None:
    columns = log(user=[row % 4 + 9 for row in range(60)], item=[float(row * 7 % 10) for row in range(60)])
    prepared = prepare_log(tmp_path, columns)
    assert prepared.table("users.parquet")["id"].to_pylist() == [None, "10", "11", "12", "9"]
    assert prepared.table("items.parquet")["id"].to_pylist()[:3] == [None, "0", "1"]


@pytest.mark.parametrize("values", [[True, False, None], [1, 0, None], [1.0, 0.0, float("nan")]])
def test_binary_labels_are_one_zero_and_unknown(tmp_path: Path, values: list) -> None:
    rows = prepare_log(tmp_path, log(user=["u"] * 60, click=values * 20)).rows()
    assert [row["task_click"] for row in rows[:3]] == [1, 0, -1]


def test_a_threshold_makes_a_label_of_a_number(tmp_path: Path) -> None:
    columns = log(user=["u"] * 60, stars=[5.0, 3.5, 4.0, None, float("nan")] * 12)
    like = Task(name="like", kind="binary", column="stars", threshold=4)
    prepared = prepare_log(tmp_path, columns, tasks=(like,), feedback=(Feedback(name="rating", column="stars"),))
    assert [row["task_like"] for row in prepared.rows()[:5]] == [1, 0, 1, -1, -1]
    assert [value for value, _, _ in prepared.vocabulary("rating")] == ["3.5", "4", "5"]


def test_durations_are_seconds_censored_at_their_maximum_and_unknown_where_odd(tmp_path: Path) -> None:
    dwell = [1500.0, -3.0, None, float("nan"), float("inf"), 90_000.0]
    columns = log(user=["u"] * 60, dwell=dwell * 10, cut=[True] + [False] * 59)
    task = replace(DWELL, unit="ms", maximum=60.0, censored="cut")
    prepared = prepare_log(tmp_path, columns, tasks=(CLICK, task))
    rows = prepared.rows()
    np.testing.assert_array_equal([row["task_dwell"] for row in rows[:6]], [1.5] + [np.nan] * 4 + [60.0])
    assert [row["censored_dwell"] for row in rows[:7]] == [True, False, False, False, False, True, False]
    assert "task 'dwell': 10 negative durations are treated as unknown" in messages(prepared.manifest)


def test_duration_buckets_come_from_training_quantiles_with_their_means(tmp_path: Path) -> None:
    dwell = [0.0, 0.0, 2.0, 4.0] * 12 + [999.0] * 12
    prepared = prepare_log(tmp_path, log(dwell=dwell), tasks=(CLICK, replace(DWELL, num_buckets=3)))
    spec = prepared.manifest.spec.tasks[1]
    assert spec.boundaries == (2.0, 3.0)
    assert spec.means == (0.0, 2.0, 4.0)
    assert prepared.manifest.boundaries["dwell"] == spec.boundaries


def test_history_only_exposures_are_marked_and_not_counted_as_targets(tmp_path: Path) -> None:
    columns = log(known=[row >= 20 for row in range(60)])
    prepared = prepare_log(tmp_path, columns, columns=replace(COLUMNS, target="known"))
    counts = prepared.manifest.counts
    assert sum(not row["target"] for row in prepared.rows()) == 20
    assert counts.exposures == 60
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (32, 4, 4)


def test_parts_begin_at_quantiles_of_the_targets_times(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, log(100), split=Split(valid_fraction=0.2, test_fraction=0.1))
    assert (prepared.manifest.split.valid_start, prepared.manifest.split.test_start) == (START + 70, START + 90)
    assert prepared.manifest.counts.train.positives == {"click": 24}


def test_parts_begin_at_given_dates(tmp_path: Path) -> None:
    day = [datetime(2024, 1, 1 + row // 10, row % 10, tzinfo=UTC) for row in range(60)]
    split = Split(valid_start="2024-01-04", test_start="2024-01-05T05:00:00Z")
    counts = prepare_log(tmp_path, log(time=day), split=split).manifest.counts
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (30, 15, 15)


def test_vocabularies_know_the_training_part_only_most_frequent_first(tmp_path: Path) -> None:
    tab = ["b"] * 20 + ["c", "a"] * 12 + ["rare"] + [None] * 3 + ["later"] * 12
    prepared = prepare_log(
        tmp_path, log(user=["u"] * 60, tab=tab), features=(exposure("tab", "categorical", min_count=2),)
    )
    assert prepared.vocabulary("tab") == [("b", 1, 20), ("a", 2, 12), ("c", 3, 12)]
    indices = [row["feature_tab"] for row in prepared.rows()]
    assert (indices[0], indices[20], indices[21], indices[44], indices[45], indices[59]) == (1, 3, 2, 0, 0, 0)
    assert prepared.manifest.spec.of("exposure")[0].size == 4


def test_an_item_that_training_never_saw_has_features_but_no_id_of_its_own(tmp_path: Path) -> None:
    tables = write_items(tmp_path, genre=["even", "odd"] * 5)
    columns = log(item=[f"i{row % 5}" if row < 54 else "i6" for row in range(60)])
    prepared = prepare_log(tmp_path, columns, tables=tables, features=(item("genre", "categorical"),))
    rows = {row["id"]: row for row in prepared.table("items.parquet").to_pylist()}
    assert (rows["i6"]["item_id"], rows["i6"]["train_count"], rows["i6"]["first_time"]) == (0, 0, START + 54)
    assert rows["i6"]["genre"] == rows["i0"]["genre"] == 1
    assert rows["i9"]["first_time"] is None
    assert prepared.vocabulary("genre") == [("even", 1, 3), ("odd", 2, 2)]


def test_item_min_count_takes_the_ids_of_rare_items(tmp_path: Path) -> None:
    columns = log(item=["rare"] * 3 + ["often"] * 57)
    prepared = prepare_log(tmp_path, columns, item_min_count=4)
    assert prepared.vocabulary("item_id") == [("often", 1, 45)]


@pytest.mark.parametrize("as_text", [False, True])
def test_multi_values_keep_their_order_without_repeats_and_unknowns(tmp_path: Path, as_text: bool) -> None:
    lists: list[list[str] | None] = [["b", "a", "b"], [], None, ["c", "new", "a", "b"], ["a", "b", "c"]]
    training = lists[:3] + [["c", "a", "b"]] * 5
    lists = [*(training * 8)[:48], lists[3], lists[4], *([["a"]] * 10)]
    values = [None if part is None else " ;".join(part) for part in lists] if as_text else lists
    tags = exposure("tags", "multi", max_values=2, separator=";" if as_text else None)
    columns = log(user=["u"] * 60, tags=values)
    if not as_text:
        columns["tags"] = pa.array(lists, pa.list_(pa.string()))  # type: ignore[assignment]
    prepared = prepare_log(tmp_path, columns, features=(tags,))
    assert [value for value, _, _ in prepared.vocabulary("tags")] == ["a", "b", "c"]
    got = [row["feature_tags"] for row in prepared.rows()]
    assert got[:4] == [[2, 1], [], [], [3, 1]]
    assert got[48:50] == [[3, 1], [1, 2]]


def test_numbers_fall_in_given_buckets_and_zero_is_missing(tmp_path: Path) -> None:
    price = [-5.0, 1.0, 1.5, 2.0, 99.0, None, float("nan"), float("inf"), -float("inf"), 0.0]
    feature = exposure("price", "numeric", boundaries=(1.0, 2.0))
    prepared = prepare_log(tmp_path, log(user=["u"] * 60, price=price * 6), features=(feature,))
    assert [row["feature_price"] for row in prepared.rows()[:10]] == [1, 2, 2, 3, 3, 0, 0, 0, 0, 1]
    assert prepared.manifest.boundaries == {"price": (1.0, 2.0)}
    assert "feature 'price': 18 values NaN or infinite are treated as missing" in messages(prepared.manifest)


def test_numbers_without_boundaries_are_cut_at_training_quantiles(tmp_path: Path) -> None:
    price = [float(row) for row in range(60)]
    prepared = prepare_log(tmp_path, log(price=price, same=[3] * 60), features=(
        exposure("price", "numeric", num_buckets=4), exposure("same", "numeric"),
    ))  # fmt: skip
    assert prepared.manifest.boundaries["price"] == (11.75, 23.5, 35.25)
    assert prepared.manifest.boundaries["same"] == ()


def test_item_features_come_from_the_first_exposure_where_there_is_no_side_table(tmp_path: Path) -> None:
    author = [f"first{row * 7 % 10}" if row < 10 else "changed" for row in range(60)]
    prepared = prepare_log(tmp_path, log(author=author), features=(item("author", "categorical"),))
    assert {value for value, _, _ in prepared.vocabulary("author")} == {f"first{number}" for number in range(10)}


def test_embeddings_follow_the_rows_of_items_with_zeros_where_there_are_none(tmp_path: Path) -> None:
    vectors = [[float(number), 1.0] for number in range(9)] + [None]
    tables = write_items(tmp_path, vector=pa.array(vectors, pa.list_(pa.float32())))
    np.save(tmp_path / "text.npy", np.arange(30).reshape(10, 3))
    side = {"item": ["i3", "i1"], "audio": [[1.0], [2.0]]}
    pq.write_table(pa.table(side), tmp_path / "audio.parquet")
    features = (
        item("vector", "embedding"),
        Feature(name="text", owner="item", kind="embedding", file="text.npy"),
        item("audio", "embedding", file="audio.parquet"),
    )
    prepared = prepare_log(tmp_path, log(), tables=tables, features=features)
    vector, text, audio = (
        np.load(prepared.folder / "embeddings" / f"{name}.npy") for name in ("vector", "text", "audio")
    )
    assert vector.dtype == np.float32
    assert vector.tolist() == [[0, 0], *([float(n), 1] for n in range(9)), [0, 0]]
    assert text[:2].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert audio[:, 0].tolist() == [0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0]
    assert "feature 'audio': 8 of 10 items have no embedding (zeros)" in messages(prepared.manifest)


def test_duplicates_are_dropped_whatever_their_order_and_the_action_stays(tmp_path: Path) -> None:
    once = log()
    twice = {name: [*values, *values[:30]] for name, values in once.items()}
    twice["click"] = [*once["click"], *[0] * 30]
    prepared = prepare_log(tmp_path / "twice", shuffled(twice))
    assert prepared.manifest.dropped == {"duplicate": 30}
    assert prepared.bytes() == prepare_log(tmp_path / "once", once).bytes()


def test_rows_without_user_item_or_time_or_from_the_future_are_dropped_and_counted(tmp_path: Path) -> None:
    columns = log()
    for row, (name, value) in enumerate(
        [("user", None), ("item", None), ("time", None), ("time", -1), ("time", 2**33)]
    ):
        columns[name] = [*columns[name][:row], value, *columns[name][row + 1 :]]
    prepared = prepare_log(tmp_path, columns)
    reasons = ("no user", "no item", "no time", "time before 1970", "time in the future")
    assert prepared.manifest.dropped == dict.fromkeys(reasons, 1)
    assert prepared.manifest.counts.exposures == 55


def test_oracle_probabilities_stay_with_their_exposures(tmp_path: Path) -> None:
    columns = log(p=[row / 64 for row in range(60)])
    rows = prepare_log(tmp_path, shuffled(columns), oracle={"click": "p"}).rows()
    assert all(row["oracle_click"] == (row["time"] - START) / 64 for row in rows)


def test_a_request_belongs_to_the_part_of_its_first_exposure(tmp_path: Path) -> None:
    columns = log(100, user=["u"] * 100, request=[row // 4 for row in range(100)])
    split = Split(valid_start=START + 81, test_start=START + 92)
    counts = prepare_log(tmp_path, columns, split=split, columns=replace(COLUMNS, request="request")).manifest.counts
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (84, 8, 8)
    assert (counts.train.requests, counts.valid.requests, counts.test.requests) == (21, 2, 2)


@pytest.mark.parametrize(("rows", "buckets"), [(1, 8), (20_000_000, 8), (20_000_001, 16), (1_000_000_000, 400)])
def test_buckets_become_more_with_the_log_and_no_larger(rows: int, buckets: int) -> None:
    assert choose_num_buckets(rows) == buckets
