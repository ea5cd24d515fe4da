"""Histories that a log gives as lists, in its rows or in a table of users."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import CLICK, SCHEMA, START, Prepared, log, messages, prepare_log
from genrank.errors import InputError, LogError, SchemaError
from genrank.log_settings import CsvSettings, HistoryLists, HistorySettings, Join, RequestSettings
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files
from genrank.schema import Feature, Feedback, LogSchema, Task, Time
from published_layouts import BEGIN, NOON, ebnerd_history, write_ebnerd, write_mind

CLICKED = HistoryLists(items="seen", labels={"click": 1})
TABLE = replace(CLICKED, path="history.parquet", user="who")
SHOP = Feature(name="shelf", owner="item", kind="categorical", column="shelf")


def with_history(lists: HistoryLists, **changes: Any) -> LogSchema:
    return replace(SCHEMA, history=HistorySettings(lists=lists), **changes)


def by_schema(folder: Path, path: Path, name: str) -> Prepared:
    out = folder / "out"
    return Prepared(out, prepare(files([path], schema=folder / name), out=out))


def history_of(made: Prepared, user: str = "u0") -> list[dict[str, Any]]:
    return [row for row in made.rows() if row["user"] == user and not row["target"]]


def from_table(
    folder: Path, history: dict[str, Sequence[Any]], schema: LogSchema | None = None, **columns: Any
) -> Prepared:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(history), folder / "history.parquet")
    return prepare_log(folder, log(**columns), schema or with_history(TABLE))


def test_mind_is_read_by_its_schema_alone(tmp_path: Path) -> None:
    made = by_schema(tmp_path, write_mind(tmp_path), "mind.toml")
    rows = [row for row in made.rows() if row["user"] == "U1"]
    assert [(r["item"], r["time"] - NOON, r["task_click"], r["target"], r["position"]) for r in rows[:8]] == [
        ("N7", -3602, 1, False, -1),
        ("N8", -3601, 1, False, -1),
        ("N6", -3600, 1, False, -1),
        ("N1", 0, 1, True, 0),
        ("N2", 0, 0, True, 1),
        ("N3", 0, 0, True, 2),
        ("N4", 1805, 0, True, 0),
        ("N1", 1805, 1, True, 1),
    ]
    assert [row["request"] for row in rows[:8]] == [0, 1, 2, 3, 3, 3, 4, 4]
    assert history_of(made, "U2") == []
    assert made.vocabulary("category") == [("news", 1, 1), ("sports", 2, 1)]


@pytest.mark.realdata
def test_the_sample_of_mind_is_read_whole_by_its_schema(real_data: Path, tmp_path: Path) -> None:
    write_mind(tmp_path)
    for name in ("behaviors.tsv", "news.tsv"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(real_data / "mind-small-sample" / name)
    counts = by_schema(tmp_path, tmp_path / "behaviors.tsv", "mind.toml").manifest.counts
    parts = (counts.train, counts.valid, counts.test)
    assert sum(part.requests for part in parts) == 5000
    assert sum(part.exposures for part in parts) == 189_359
    assert sum(part.positives["click"] for part in parts) == 7542
    assert (counts.users, counts.exposures) == (4637, 189_359 + 138_932)


def test_ebnerd_is_read_by_its_schema_alone(tmp_path: Path) -> None:
    made = by_schema(tmp_path, write_ebnerd(tmp_path), "ebnerd.toml")
    rows = history_of(made, "1")
    begin = BEGIN.replace(tzinfo=UTC).timestamp()
    assert [
        (r["item"], (r["time"] - begin) // 3600, r["task_click"], r["task_read"], r["task_scrolled"]) for r in rows
    ] == [
        ("21", -50, 1, 4.0, 1),
        ("22", -40, 1, 8.0, 0),
        ("11", -30, 1, 2.0, -1),
    ]
    assert [row["feature_device"] for row in rows] == [0, 0, 0]
    shown = [row for row in made.rows() if row["user"] == "1" and row["target"]]
    assert [(r["item"], r["task_click"], r["task_scrolled"]) for r in shown[:2]] == [("14", 1, 0), ("11", 0, -1)]
    assert len(history_of(made, "2")) == 1
    assert history_of(made, "3") == []
    assert not any(message.startswith("history") for message in messages(made.manifest))


def test_the_longest_history_of_a_first_request_counts_and_later_ones_do_not(tmp_path: Path) -> None:
    seen = [["a"]] * 60
    seen[0], seen[4], seen[8] = ["b"], ["b", "c"], ["b", "c", "d"]
    times = [START + row for row in range(60)]
    times[4] = times[0]
    made = prepare_log(tmp_path, log(seen=seen, time=times), with_history(CLICKED))
    assert [(row["item"], row["time"] - START) for row in history_of(made)] == [("b", -3601), ("c", -3600)]
    assert "a" in {row["item"] for row in history_of(made, "u1")}


def test_a_row_without_a_real_time_is_no_first_request(tmp_path: Path) -> None:
    times = [START + row for row in range(60)]
    times[4] = 0
    seen = [["a"]] * 60
    seen[4] = ["b"]
    made = prepare_log(tmp_path, log(seen=seen, time=times), with_history(CLICKED))
    assert [(row["item"], row["time"] - START) for row in history_of(made)] == [("a", -3600)]


def test_a_history_is_taken_before_exposures_and_actions_are_joined(tmp_path: Path) -> None:
    kinds = ["show", "show", "show", "click"] * 30
    rows = {
        "user": ["u0"] * 120,
        "item": [f"i{row // 4 * 3 + min(row % 4, 2)}" for row in range(120)],
        "time": [START + 10 * row for row in range(120)],
        "kind": kinds,
        "seen": [["a", "b"]] * 120,
    }
    join = Join(within="1m", event="kind", exposure="show")
    made = prepare_log(tmp_path, rows, with_history(CLICKED, join=join))
    past = history_of(made)
    assert [(row["item"], row["task_click"], row["known_at"] - row["time"]) for row in past] == [
        ("a", 1, 0),
        ("b", 1, 0),
    ]
    assert [row["task_click"] for row in made.rows()[2:8]] == [0, 0, 1, 0, 0, 1]


def test_a_history_that_begins_after_the_first_request_is_not_taken(tmp_path: Path) -> None:
    made = prepare_log(tmp_path, log(seen=[[]] * 30 + [["x"]] * 30), with_history(CLICKED))
    assert all(row["target"] for row in made.rows())


def test_events_without_times_are_apart_from_each_other_and_known_before_the_first_request(tmp_path: Path) -> None:
    settings = HistorySettings(lists=TABLE, settle="2h")
    schema = replace(SCHEMA, history=settings, requests=RequestSettings(gap_seconds=60))
    rows = from_table(tmp_path, {"who": ["u0"], "seen": [["a", "b"]]}, schema).rows()
    past = [row for row in rows if row["user"] == "u0"][:3]
    assert [row["time"] - START for row in past] == [-7201 - 61, -7201, 0]
    assert past[1]["known_at"] < START
    assert len({row["request"] for row in past}) == 3


@pytest.mark.parametrize(
    ("times", "time"),
    [
        (pa.array([START + row for row in range(60)], pa.int32()), Time()),
        (pa.array([float(START + row) for row in range(60)]), Time()),
        (pa.array([(START + row) * 1000 for row in range(60)], pa.uint64()), Time(unit="ms")),
        (pa.array([(START + row) * 10**6 for row in range(60)], pa.timestamp("us")), Time(zone="UTC")),
        (pa.array([(START + row) * 10**6 for row in range(60)], pa.timestamp("us", "UTC")), Time(unit="ns")),
        ([f"13.09.2020 12:26:{40 + row // 4}" for row in range(60)], Time(zone="UTC", format="%d.%m.%Y %H:%M:%S")),
    ],
    ids=["int32", "float", "milliseconds", "timestamp", "zoned", "text"],
)
def test_times_of_every_type_take_events_made_up_before_them(tmp_path: Path, times: Any, time: Time) -> None:
    made = from_table(tmp_path, {"who": ["u0"], "seen": [["a", "b"]]}, with_history(TABLE, time=time), time=times)
    assert [row["time"] - START for row in made.rows() if row["user"] == "u0"][:3] == [-3601, -3600, 0]
    assert made.manifest.dropped == {}


def test_naive_times_are_still_warned_of_beside_a_history(tmp_path: Path) -> None:
    times = pa.array([(START + row) * 10**6 for row in range(60)], pa.timestamp("us"))
    made = from_table(tmp_path, {"who": ["u0"], "seen": [["a"]]}, time=times)
    assert messages(made.manifest) == (
        "'time': 60 times have no zone; UTC was assumed; set [time] zone, such as Europe/Berlin, or UTC",
    )


def test_events_that_the_log_shows_are_not_there_twice(tmp_path: Path) -> None:
    shown = log()
    lists = replace(TABLE, times="when")
    history = {"who": ["u0"], "seen": [["a", shown["item"][0]]], "when": [[START - 9, shown["time"][0]]]}
    made = from_table(tmp_path, history, with_history(lists))
    assert [row["item"] for row in history_of(made)] == ["a"]
    assert len([row for row in made.rows() if row["user"] == "u0"]) == 16
    assert messages(made.manifest) == ()


def test_events_from_the_first_request_on_that_the_log_lacks_are_counted(tmp_path: Path) -> None:
    history = {"who": ["u0"], "seen": [["a", "b", "c"]], "when": [[START - 9, START, START + 7]]}
    made = from_table(tmp_path, history, with_history(replace(TABLE, times="when")))
    assert [row["item"] for row in history_of(made)] == ["a"]
    assert messages(made.manifest) == (
        "history.lists: 2 events are not before their user's first request in the log; they are left out, 2 of them, "
        "which the log doesn't show, for good: if they happened, give them as rows",
    )


def test_an_event_without_a_time_is_dropped_and_counted(tmp_path: Path) -> None:
    history = {"who": ["u0"], "seen": [["a", "b", None]], "when": [[START - 9, None, START - 5]]}
    made = from_table(tmp_path, history, with_history(replace(TABLE, times="when")))
    assert made.manifest.dropped == {"no item": 1, "no time": 1}


def test_users_that_the_log_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    made = from_table(tmp_path, {"who": ["u0", "u7"], "seen": [["a"], ["b"]]})
    assert messages(made.manifest) == (
        "history.lists: 1 of the 2 users in history.parquet have no row in the log; they are left out",
    )
    assert "b" not in made.table("items.parquet")["id"].to_pylist()


def test_labels_and_values_of_every_kind_are_carried_and_the_rest_is_unknown(tmp_path: Path) -> None:
    like = Task(name="like", kind="binary", column="liked")
    read = Task(name="read", kind="duration", column="read")
    page = Feature(name="page", owner="exposure", kind="categorical", column="page")
    depth = Feature(name="depth", owner="exposure", kind="numeric", column="depth", boundaries=(2.0,))
    lists = replace(TABLE, values={"read": "secs", "page": "pages", "depth": "depths", "sent": "sends"})
    schema = with_history(
        lists,
        tasks=(CLICK, like, read),
        feedback=(Feedback(name="sent", column="sent"),),
        features=(page, depth),
    )
    columns: dict[str, Any] = {
        "liked": [row % 2 == 0 for row in range(60)],
        "read": list(range(60)),
        "page": [row % 2 for row in range(60)],
        "depth": [row % 4 for row in range(60)],
        "sent": ["yes", "no"] * 30,
    }
    history = {
        "who": ["u0"],
        "seen": [["a", "b"]],
        "secs": [[1.5, None]],
        "pages": [[1.0, 7.0]],
        "depths": [[3.5, 1.0]],
        "sends": [["no", None]],
    }
    made = from_table(tmp_path, history, schema, **columns)
    first, second = history_of(made)
    assert (first["task_click"], first["task_like"], first["task_read"]) == (1, -1, 1.5)
    assert second["task_read"] != second["task_read"]
    known = {value: index for value, index, _ in made.vocabulary("page")}
    assert (first["feature_page"], second["feature_page"]) == (known["1"], known["7"])
    assert (first["feature_depth"], second["feature_depth"]) == (2, 1)
    sent = {value: index for value, index, _ in made.vocabulary("sent")}
    assert (first["feedback_sent"], second["feedback_sent"]) == (sent["no"], 0)


def test_ids_of_another_type_are_the_same_ids(tmp_path: Path) -> None:
    items, users = [row * 7 % 10 for row in range(60)], [float(row % 4) for row in range(60)]
    made = from_table(tmp_path, {"who": ["0"], "seen": [["3", "12"]]}, item=items, user=users)
    assert [row["item"] for row in history_of(made, "0")] == ["3", "12"]
    assert len(made.table("items.parquet")["id"]) == 12


def test_lists_as_text_in_a_csv_of_its_own_dialect(tmp_path: Path) -> None:
    lists = HistoryLists(items="seen", labels={"click": 1}, path="history.csv", user="who", separator=",")
    lists = replace(lists, csv=CsvSettings(columns=("who", "seen"), separator="|"))
    text = "u0|[a, b]\nu1|NULL\n"
    (tmp_path / "history.csv").write_text(text)
    made = prepare_log(tmp_path, log(), with_history(lists))
    assert [row["item"] for row in history_of(made)] == ["a", "b"]
    assert history_of(made, "u1") == []


def test_weights_of_events_are_one_and_a_flag_of_targets_is_kept(tmp_path: Path) -> None:
    columns = replace(SCHEMA.columns, weight="weight", target="aim")
    flags = [row != 4 for row in range(60)]
    schema = with_history(TABLE, columns=columns)
    made = from_table(tmp_path, {"who": ["u0"], "seen": [["a"]]}, schema, weight=[2.0] * 60, aim=flags)
    assert [(row["item"], row["weight"]) for row in history_of(made)] == [("a", 1.0), ("i8", 2.0)]


def test_an_items_features_are_taken_from_the_log_not_from_its_history(tmp_path: Path) -> None:
    schema = with_history(TABLE, features=(SHOP,))
    shelves = [f"s{row * 7 % 10}" for row in range(60)]
    made = from_table(tmp_path, {"who": ["u0"], "seen": [["i0", "new"]]}, schema, shelf=shelves)
    items = {row["id"]: row["shelf"] for row in made.table("items.parquet").to_pylist()}
    assert items["i0"] == {value: index for value, index, _ in made.vocabulary("shelf")}["s0"]
    assert items["new"] == 0


@pytest.mark.parametrize(
    ("history", "lists", "error", "said"),
    [
        ({"who": ["u0", "u0"], "seen": [["a"], ["b"]]}, TABLE, LogError, r"one row per who, found 1 .*'u0'; keep one"),
        ({"who": ["x"], "seen": [["a"]]}, TABLE, LogError, r"1 of the 1 users in .* such as 'x', .* has 'u0'; write"),
        ({"who": ["u0"], "seen": ["a"]}, TABLE, LogError, r"lists in column 'seen', found string; set history\.lists"),
        ({"who": ["u0"], "sen": [["a"]]}, TABLE, SchemaError, r"lists\.items: there is no column 'seen' .*'sen'"),
        ({"user": ["u0"], "seen": [["a"]]}, TABLE, SchemaError, r"lists\.user: there is no column 'who' in history"),
        (
            {"who": ["u0"], "seen": [["a", "b"]], "when": [[START - 1]]},
            replace(TABLE, times="when"),
            LogError,
            r"1 users have lists of unequal length in 'when' and 'seen'; write one value for each item",
        ),
        (
            {"who": ["u0"], "seen": [["a"]], "clicks": [["often"]]},
            replace(TABLE, labels={}, values={"click": "clicks"}),
            LogError,
            r"history\.lists\.values\.click: expected numbers in column 'clicks', found 1 others such as 'often'",
        ),
        ({"who": ["u0"], "seen": [[["a"]]]}, TABLE, LogError, r"expected one value in each row of 'seen'"),
    ],
    ids=["twice", "strangers", "no-list", "no-items", "no-user", "lengths", "text", "nested"],
)
def test_histories_that_cannot_be_used_are_refused(
    tmp_path: Path, history: dict[str, Any], lists: HistoryLists, error: type[InputError], said: str
) -> None:
    with pytest.raises(error, match=said):
        from_table(tmp_path, history, with_history(lists))


def test_a_column_of_the_log_that_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"history\.lists: expected lists in column 'seen', found string"):
        prepare_log(tmp_path, log(seen=["a b"] * 60), with_history(CLICKED))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": {}}, r"no task's label is known .* labels = \{ click = 1 \}"),
        ({"labels": {"clik": 1}}, r"history\.lists\.labels: 'clik' is no task; there is: click"),
        ({"values": {"sent": "x"}}, r"history\.lists\.values: 'sent' is no task, feedback or feature of the exposure"),
    ],
)
def test_names_that_the_schema_lacks_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_history(replace(CLICKED, **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "h.parquet"}, r"give both path .* and user"),
        ({"labels": {"click": 1}, "values": {"click": "x"}}, r"'click' is in labels and in values"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HistoryLists(items="seen", **settings)


def test_a_history_later_than_the_first_request_of_ebnerd_is_counted(tmp_path: Path) -> None:
    history = ebnerd_history(users=(1,), items=[[21, 22]], hours=[[3, -5]])
    made = by_schema(tmp_path, write_ebnerd(tmp_path, history=history), "ebnerd.toml")
    assert [row["item"] for row in history_of(made, "1")] == ["21"]
    assert "1 events are not before" in messages(made.manifest)[0]
