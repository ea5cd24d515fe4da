"""When actions become known: as columns, from the tasks' own times, or after a while; and what `prepare` says of it."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import CLICK, SCHEMA, START, log, prepare_log
from genrank.cli import main
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.errors import LogError, SchemaError
from genrank.log_settings import HistorySettings, Join, RequestSettings
from genrank.schema import Columns, LogSchema, Task

LIKE = Task(name="like", kind="binary", column="like", time="liked_at")
REQUESTS = Columns(user="user", item="item", time="time", request="request")


def later(seconds: dict[int, int]) -> list[int | None]:
    """A time for some rows of `log()`: so many seconds after the exposure."""
    return [START + row + seconds[row] if row in seconds else None for row in range(60)]


def known(folder: Path, schema: LogSchema, **columns: list) -> list[int]:
    """Seconds from each exposure, in the order of the log, to when it was known."""
    data = PreparedData.load(prepare_log(folder, log(**columns), schema).folder)
    pairs = sorted(zip(data.timelines.time.tolist(), data.timelines.known_time.tolist(), strict=True))
    return [at - time for time, at in pairs]


def test_the_latest_of_all_that_is_said_counts(tmp_path: Path) -> None:
    columns = {"like": [int(row in (5, 9)) for row in range(60)], "liked_at": later({5: 100, 9: 3, 11: -50})}
    schema = replace(SCHEMA, tasks=(CLICK, LIKE))
    found = known(tmp_path / "tasks", schema, **columns)
    assert [(row, delay) for row, delay in enumerate(found) if delay] == [(5, 100), (9, 3)]
    settled = replace(schema, history=HistorySettings(settle="1m"), columns=replace(SCHEMA.columns, known_at="told"))
    found = known(tmp_path / "all", settled, **columns, told=later({5: 70, 7: 90}))
    assert [(row, delay) for row, delay in enumerate(found) if delay != 60] == [(5, 100), (7, 90)]


def test_exposures_stand_in_the_order_in_which_they_became_known(tmp_path: Path) -> None:
    schema = replace(SCHEMA, columns=replace(SCHEMA.columns, known_at="told"))
    prepared = prepare_log(tmp_path, log(told=later({0: 1000, 4: 2})), schema)
    times = [row["time"] - START for row in prepared.rows() if row["user"] == "u0"]
    assert times == [4, *range(8, 60, 4), 0]
    assert prepared.manifest.late_actions == 1  # the user's next exposure is 4 seconds on, so 2 seconds are in time


def test_prepare_says_how_many_actions_came_after_the_next_request(tmp_path: Path, capsys) -> None:
    pq.write_table(pa.table(log(told=later({0: 1000, 8: 4, 4: 2}))), tmp_path / "log.parquet")
    schema = tmp_path / "schema.toml"
    schema.write_text(
        'name = "x"\ncolumns = { user = "user", item = "item", time = "time", known_at = "told" }\n'
        '[[tasks]]\nname = "click"\nkind = "binary"\ncolumn = "click"\n'
    )
    assert main(["prepare", str(tmp_path / "log.parquet"), "--schema", str(schema), "--out", str(tmp_path / "o")]) == 0
    assert "2 exposures (3.3%) have actions that became known only" in " ".join(capsys.readouterr().err.split())


def test_a_known_time_that_is_the_exposures_own_changes_nothing(tmp_path: Path) -> None:
    plain = PreparedData.load(prepare_log(tmp_path / "one", log()).folder).timelines
    schema = replace(SCHEMA, columns=replace(SCHEMA.columns, known_at="time"))
    told = PreparedData.load(prepare_log(tmp_path / "two", log(), schema).folder).timelines
    for name in ("time", "request", "position", "item"):
        assert getattr(plain, name).tolist() == getattr(told, name).tolist()


@pytest.mark.parametrize(("settle", "seconds"), [("0s", 0), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_durations_of_settling(settle: str, seconds: int) -> None:
    assert HistorySettings(settle=settle).settle_seconds == seconds


@pytest.mark.parametrize("settle", ["10", "m", "-1m", "10 minutes"])
def test_a_settle_that_is_no_duration_is_refused(settle: str) -> None:
    with pytest.raises(ValueError, match="as in 10m"):
        HistorySettings(settle=settle)


def test_times_of_actions_in_another_unit_are_refused_and_odd_ones_counted(tmp_path: Path) -> None:
    told = replace(SCHEMA, columns=replace(SCHEMA.columns, known_at="told"))
    milliseconds = [1000 * (START + row + 5) for row in range(60)]
    with pytest.raises(LogError, match=r"columns.known_at: 60 of 60 values in 'told' are more than a year after"):
        prepare_log(tmp_path / "unit", log(told=milliseconds), told)
    texts = [None if row % 2 else "soon" for row in range(60)]
    with pytest.raises(LogError, match=r"30 of 30 values in 'told' can't be read as times, such as 'soon'"):
        prepare_log(tmp_path / "text", log(told=texts), told)
    some = prepare_log(tmp_path / "some", log(told=later({3: -5, 7: 9, 8: 20})), told).manifest
    assert ["columns.known_at: 1 times are before their exposure's" in str(w) for w in some.warnings] == [True]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="task 'like': time: there is no column 'liked_at'"):
        prepare_log(tmp_path, log(like=[0, 1] * 30), replace(SCHEMA, tasks=(CLICK, LIKE)))


def test_request_ids_that_begin_anew_every_day_are_other_requests(tmp_path: Path) -> None:
    """20 users, 10 days, two requests a day, numbered from 1 every day."""
    rows = [(u, d, r, slot) for u in range(20) for d in range(10) for r in (1, 2) for slot in range(4)]
    columns = {
        "user": [f"u{u}" for u, *_ in rows],
        "item": [f"i{(7 * u + 3 * d + slot) % 40}" for u, d, _, slot in rows],
        "time": [START + 86400 * d + 3600 * r + 2 * slot for _, d, r, slot in rows],
        "request": [str(r) for _, _, r, _ in rows],
        "click": [(u + d + slot) % 3 // 2 for u, d, _, slot in rows],
    }
    prepared = prepare_log(tmp_path, columns, replace(SCHEMA, columns=REQUESTS))
    counts = prepared.manifest.counts
    assert counts.requests == 400
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (1280, 160, 160)
    assert any(
        "360 requests have an id that an earlier request" in str(warning) for warning in prepared.manifest.warnings
    )
    data = PreparedData.load(prepared.folder)
    builder = data.builder(SequenceConfig())
    assert (data.timelines.time - builder.request_time).max() == 6
    wide = replace(SCHEMA, columns=REQUESTS, requests=RequestSettings(max_gap_seconds=10**9))
    assert (
        prepare_log(
            tmp_path / "wide", columns, replace(wide, split=prepared.manifest.schema.split)
        ).manifest.counts.requests
        == 40
    )


def test_dates_without_a_time_of_day_keep_the_order_of_the_log(tmp_path: Path) -> None:
    rows = [(u, d, n) for d in range(10) for u in range(4) for n in range(5)]
    columns = {
        "user": [f"u{u}" for u, *_ in rows],
        "item": [f"i{(13 * u + 7 * d + 5 * n + 3) % 40:02}" for u, d, n in rows],
        "time": [f"2023-11-{d + 1:02}" for _, d, _ in rows],
        "click": [(u + d + n) % 3 // 2 for u, d, n in rows],
    }
    prepared = prepare_log(tmp_path, columns)
    for user in range(4):
        of_log = [item for item, owner in zip(columns["item"], columns["user"], strict=True) if owner == f"u{user}"]
        assert [row["item"] for row in prepared.rows() if row["user"] == f"u{user}"] == of_log
        assert of_log != sorted(of_log)
    assert any("dates without a time of day" in str(warning) for warning in prepared.manifest.warnings)


def events(**columns: list) -> dict[str, list]:
    """Impressions a minute apart, every third of them clicked 10 seconds later, as rows of their own."""
    rows = []
    for row in range(60):
        shown = {"user": f"u{row % 4}", "item": f"i{row}", "time": START + 60 * row, "click": 0}
        rows.append(shown)
        if row % 3 == 0:
            rows.append(shown | {"time": shown["time"] + 10, "click": 1})
    made = {name: [row[name] for row in rows] for name in rows[0]}
    return made | {"told": [time + 5 for time in made["time"]]} | columns


JOINED = replace(SCHEMA, join=Join(within="10m"))


@pytest.mark.parametrize("known_at", [None, "told"])
def test_joined_actions_are_known_at_the_latest_time_that_is_said(known_at: str | None, tmp_path: Path) -> None:
    schema = replace(JOINED, columns=replace(SCHEMA.columns, known_at=known_at))
    t = PreparedData.load(prepare_log(tmp_path, events(), schema).folder).timelines
    assert t.num_exposures == 60
    delay = sorted((t.known_time - t.time).tolist())
    assert delay == ([0] * 40 + [10] * 20 if known_at is None else [5] * 40 + [15] * 20)


def test_a_joined_action_takes_no_column_that_tells_exposures_apart(tmp_path: Path) -> None:
    like = Task(name="like", kind="binary", column="click", time="time")
    with pytest.raises(SchemaError, match="join: 'time' identifies exposures"):
        prepare_log(tmp_path, events(), replace(JOINED, tasks=(like,)))


def test_known_times_years_away_are_counted(tmp_path: Path) -> None:
    told = [START + row + (10**9 if row % 4 == 0 else 5) for row in range(60)]
    found = prepare_log(tmp_path, log(told=told), replace(SCHEMA, columns=replace(SCHEMA.columns, known_at="told")))
    assert any("15 times are more than a year after their exposure" in str(each) for each in found.manifest.warnings)
