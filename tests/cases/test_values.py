"""Null words, numbers, ids and times as users write them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from case_logs import BEGIN, DAY, SCHEMA, Case, of_kind, rows, written

PRICE = '[[features]]\nname = "price"\nowner = "exposure"\nkind = "numeric"\ncolumn = "price"\n'
COLOR = '[[features]]\nname = "color"\nowner = "exposure"\nkind = "categorical"\ncolumn = "color"\n'
NULLS = ("", "NULL", "null", "\\N", "N/A", "n/a", "nan", "NaN", "None", "<NA>")
ODD_IDS = ("a,b", '"', '"a"', " x", "x ", "x", "😀", "\u00e9", "e\u0301", "'", "a\nb", "[1]", "i,", ";", "\t")


def parquet(folder: Path, lines: Sequence[dict], **types: pa.DataType) -> Path:
    columns = {name: pa.array([row[name] for row in lines], types.get(name)) for name in lines[0]}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "log.parquet")
    return folder / "log.parquet"


def both(case: Case, lines: Sequence[dict], kind: str) -> Path:
    if kind == "csv":
        return written(case.folder / "log.csv", lines)
    text = [{name: str(value) if name in ("clk", "price") else value for name, value in row.items()} for row in lines]
    return parquet(case.folder, text)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_null_words_are_unknown_labels_numbers_and_ids(case: Case, kind: str) -> None:
    lines = rows(lambda row, rng: row | {"price": f"{rng.integers(9)}.5", "color": "red"})
    for number, row in enumerate(lines):
        word = NULLS[number % len(NULLS)]
        row |= ({"clk": word}, {"price": word}, {"color": word}, {}, {})[number // len(NULLS) % 5]
    lines[3]["uid"], lines[4]["iid"], lines[5]["iid"] = "NULL", "\\N", ""
    made = case.read(both(case, lines, kind), SCHEMA + PRICE + COLOR)
    assert made.manifest.dropped == {"no user": 1, "no item": 2}
    found = made.rows()
    unknown = {
        name: sum(row[name] == value for row in found)
        for name, value in (("task_click", -1), ("feature_price", 0), ("feature_color", 0))
    }
    assert unknown == {"task_click": 157, "feature_price": 160, "feature_color": 160}
    assert [value for value, *_ in made.vocabulary("color")] == ["red"]


def test_null_words_are_the_schemas(case: Case) -> None:
    lines = rows(lambda row, _: row | {"color": "NULL" if row["clk"] else "unknown"})
    lines[0]["clk"] = lines[1]["clk"] = "missing"
    log = written(case.folder / "log.csv", lines)
    line = case.refusal(log, SCHEMA + COLOR)
    assert "task 'click'" in line
    assert "2 others such as 'missing'" in line
    assert "null_values" in line
    made = case.read(log, 'null_values = ["missing", "unknown"]\n' + SCHEMA + COLOR)
    assert [value for value, *_ in made.vocabulary("color")] == ["NULL"]
    assert sum(row["task_click"] == -1 for row in made.rows()) == 2


def test_countries_and_other_short_words_are_values(case: Case) -> None:
    lines = rows(lambda row, rng: row | {"color": str(rng.choice(["NA", "none", "-", "0", "No"]))})
    made = case.read(written(case.folder / "log.csv", lines), SCHEMA + COLOR)
    assert {value for value, *_ in made.vocabulary("color")} == {"NA", "none", "-", "0", "No"}


@pytest.mark.parametrize("words", [("true", "false"), ("True", "False"), ("1.0", "0.0"), (" 1", "0 "), ("t", "f")])
def test_labels_may_be_written_as_truth_or_numbers(case: Case, words: tuple[str, str]) -> None:
    lines = rows(lambda row, _: row | {"clk": words[1 - row["clk"]]})
    positives = sum(row["clk"] == words[0] for row in lines)
    assert sum(row["task_click"] for row in case.read(written(case.folder / "log.csv", lines)).rows()) == positives


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_odd_ids_are_distinct_and_kept_as_they_are(case: Case, kind: str) -> None:
    lines = rows()
    for number, row in enumerate(lines):
        if number % 3 == 0:
            row |= {"iid": ODD_IDS[number // 3 % len(ODD_IDS)], "uid": ODD_IDS[number // 30 % len(ODD_IDS)]}
    log = written(case.folder / "log.csv", lines) if kind == "csv" else parquet(case.folder, lines)
    found = case.read(log).rows()
    assert {row["item"] for row in found} == {row["iid"] for row in lines}
    assert {row["user"] for row in found} == {row["uid"] for row in lines}


def test_huge_ids_and_leading_zeros_stay_distinct(case: Case) -> None:
    huge = [str(number) for number in (2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1, 2**64 - 1, 2**64 - 2)]
    zeros = ["12", "012", "0012", "0", "00", "1e3", "1000"]
    lines = rows()
    for number, row in enumerate(lines):
        row |= {"uid": huge[number // 40 % len(huge)], "iid": zeros[number % len(zeros)]}
    made = case.read(written(case.folder / "log.csv", lines))
    assert sorted(made.table("users.parquet")["id"].to_pylist()[1:]) == sorted(huge)
    assert sorted(made.table("items.parquet")["id"].to_pylist()[1:]) == sorted(zeros)


def test_values_between_separators_are_as_written(case: Case) -> None:
    schema = (
        SCHEMA + '[[features]]\nname = "tags"\nowner = "exposure"\nkind = "multi"\ncolumn = "tags"\nseparator = "|"\n'
    )
    words = ["a||b", "|", "", " a | b ", "a:b|c", "x"]
    lines = rows()
    for number, row in enumerate(lines):
        row["tags"] = words[number % len(words)]
    made = case.read(written(case.folder / "log.csv", lines), schema)
    assert {value for value, *_ in made.vocabulary("tags")} == {"a", "b", "a:b", "c", "x"}


def test_weights_of_values_may_be_text(case: Case) -> None:
    schema = SCHEMA + '[[features]]\nname = "tags"\nowner = "exposure"\nkind = "multi"\ncolumn = "tags"\n'
    lines = rows(lambda row, _: row | {"tags": "a|b", "strength": "2|0.5"})
    log = written(case.folder / "log.csv", lines)
    made = case.read(log, schema + 'separator = "|"\nweights = "strength"\n')
    assert {value for value, *_ in made.vocabulary("tags")} == {"a", "b"}


def test_arrow_types_mean_what_their_values_do(case: Case) -> None:
    lines = rows()
    for number, row in enumerate(lines):
        row |= {"clk": None if number % 50 == 0 else bool(row["clk"]), "price": Decimal(number % 7)}
        row["ts"] = datetime.fromtimestamp(row["ts"], UTC).replace(tzinfo=None)
    log = parquet(
        case.folder,
        lines,
        uid=pa.dictionary(pa.int32(), pa.string()),
        iid=pa.large_string(),
        price=pa.decimal128(10, 2),
        ts=pa.timestamp("ms"),
    )
    made = case.read(log, SCHEMA + PRICE)
    assert (made.manifest.counts.users, made.manifest.counts.items) == (20, 40)
    assert sum(row["task_click"] == -1 for row in made.rows()) == 16
    assert made.manifest.boundaries["price"][-1] == 6


# Times ---------------------------------------------------------------------------------------------------------------

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")


def local(zone: ZoneInfo, pattern: str = "%Y-%m-%d %H:%M:%S") -> list[dict]:
    return rows(lambda row, _: row | {"ts": datetime.fromtimestamp(row["ts"], zone).strftime(pattern)})


def assert_same_times(made: list[dict]) -> None:
    assert sorted(row["time"] for row in made) == sorted(row["ts"] for row in rows())


@pytest.mark.parametrize("zone", [SHANGHAI, BERLIN])
def test_times_without_a_zone_are_the_schemas(case: Case, zone: ZoneInfo) -> None:
    log = written(case.folder / "log.csv", local(zone))
    made = case.read(log, SCHEMA + f'[time]\nzone = "{zone.key}"\n')
    assert_same_times(made.rows())
    assert of_kind(made.manifest, "times") == []


def test_timestamps_without_a_zone_are_the_schemas(case: Case) -> None:
    lines = rows(lambda row, _: row | {"ts": datetime.fromtimestamp(row["ts"], SHANGHAI).replace(tzinfo=None)})
    made = case.read(parquet(case.folder, lines), SCHEMA + '[time]\nzone = "Asia/Shanghai"\n')
    assert_same_times(made.rows())


def test_without_a_zone_utc_is_assumed_and_said(case: Case) -> None:
    made = case.read(written(case.folder / "log.csv", local(ZoneInfo("UTC"))))
    assert_same_times(made.rows())
    (message,) = of_kind(made.manifest, "times")
    assert "800 times have no zone; UTC was assumed; set [time] zone" in message
    assert "UTC was assumed" in " ".join(case.capsys.readouterr().err.split())


@pytest.mark.parametrize("suffix", ["Z", "+08:00", " +0800", "+08", " UTC"])
def test_a_zone_in_the_text_is_followed(case: Case, suffix: str) -> None:
    zone = timezone(timedelta(hours=8 if "8" in suffix else 0))
    change = lambda row, _: row | {"ts": f"{datetime.fromtimestamp(row['ts'], zone):%Y-%m-%dT%H:%M:%S}{suffix}"}  # noqa: E731
    made = case.read(written(case.folder / "log.csv", rows(change)), SCHEMA + '[time]\nzone = "America/Lima"\n')
    assert_same_times(made.rows())


def test_dates_of_the_split_are_the_zones_too(case: Case) -> None:
    split = '[split]\nvalid_start = "2023-11-22"\ntest_start = "2023-11-23T12:00:00"\n'
    log = written(case.folder / "log.csv", local(SHANGHAI))
    made = case.read(log, SCHEMA + split + '[time]\nzone = "Asia/Shanghai"\n')
    assert made.manifest.split.valid_start == datetime(2023, 11, 22, tzinfo=SHANGHAI).timestamp()
    assert made.manifest.split.test_start == datetime(2023, 11, 23, 12, tzinfo=SHANGHAI).timestamp()


def test_other_patterns_of_time_are_set(case: Case) -> None:
    log = written(case.folder / "log.csv", local(BERLIN, "%d/%m/%Y %H:%M:%S"))
    assert "[time] unit or format" in case.refusal(log)
    zone = '[time]\nformat = "%d/%m/%Y %H:%M:%S"\nzone = "Europe/Berlin"\n'
    assert_same_times(case.read(log, SCHEMA + zone).rows())


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_times_in_text_are_numbers_of_the_unit(case: Case, unit: str, scale: int) -> None:
    log = written(case.folder / "log.csv", rows(lambda row, _: row | {"ts": row["ts"] * scale}))
    if scale > 1:
        assert f"[time] unit = {unit!r}" in case.refusal(log)
    assert_same_times(case.read(log, SCHEMA, "--set", f"time.unit={unit}").rows())


def test_placeholder_times_are_dropped_and_counted(case: Case) -> None:
    lines = rows()
    odd = [0, 1, 86_399, -5, 4_070_908_800, "NaN", "inf", "NULL", "soon", 2**62]
    for row, time in zip(lines, odd, strict=False):
        row["ts"] = time
    made = case.read(written(case.folder / "log.csv", lines))
    assert made.manifest.dropped == {
        "placeholder time in 1970": 3,
        "time before 1970": 1,
        "time in the future": 2,
        "no time": 2,
        "unreadable time": 2,
    }
    assert made.manifest.split.first_time > BEGIN - DAY


def test_times_that_are_no_numbers_are_dropped_and_counted(case: Case) -> None:
    lines = rows(lambda row, _: row | {"ts": float(row["ts"])})
    for row, time in zip(lines, [float("nan"), float("inf"), -float("inf"), None, -5.0], strict=False):
        row["ts"] = time
    made = case.read(parquet(case.folder, lines))
    assert made.manifest.dropped == {"no time": 1, "unreadable time": 3, "time before 1970": 1}


def test_a_gap_of_years_is_said(case: Case) -> None:
    lines = rows()
    for row in lines[:3]:
        row["ts"] = 946_684_800
    (message,) = of_kind(case.read(written(case.folder / "log.csv", lines)).manifest, "times")
    assert "no exposure between 2000-01-01 and 2023-11-14; are the 3 up to 2000-01-01 placeholders?" in message


def test_counters_in_place_of_times_are_not_dropped(case: Case) -> None:
    lines = rows(lambda row, _: row | {"ts": row["ts"] - BEGIN + 2 * DAY})
    made = case.read(written(case.folder / "log.csv", lines))
    assert made.manifest.dropped == {}
    assert of_kind(made.manifest, "times") == ["most times are in 1970: are they seconds since the epoch?"]


def test_dates_are_days_of_the_zone(case: Case) -> None:
    lines = rows(lambda row, _: row | {"ts": date(2023, 11, 14) + timedelta(days=(row["ts"] - BEGIN + 2000) // DAY)})
    made = case.read(parquet(case.folder, lines), SCHEMA + '[time]\nzone = "Asia/Shanghai"\n')
    assert made.manifest.split.first_time == datetime(2023, 11, 14, tzinfo=SHANGHAI).timestamp()
    assert np.all(np.diff(sorted({row["time"] for row in made.rows()})) == DAY)
