"""Days added to a prepared folder: the same bytes as at once."""

import errno
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import genrank
from amounts import examples, sampled
from exposure_logs import CLICK, Prepared, prepare_log
from genrank.cli import main
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.data.request import load_statistics
from genrank.errors import DataError, InputError, LogError, OutputError
from genrank.journal import changing
from genrank.log_settings import HistoryLists, HistorySettings, RequestSettings
from genrank.preparation import duckdb_engine
from genrank.preparation.extending import expire, extend
from genrank.preparation.sources.files import files
from genrank.schema import Columns, Feature, LogSchema, SideTable, SideTables, Split
from growing_logs import DAY, OPTIONS, SCHEMA, START, by_days, random_log, rows_where
from interruption import Killed, interrupted


def grow(folder: Path, out: Path, log: dict[str, list[Any]], schema: LogSchema = SCHEMA, **options: Any) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(log), folder / "more.parquet")
    source = files([folder / "more.parquet"], schema=schema, folder=folder)
    return extend(source, out, options=OPTIONS, **options)


def in_steps(folder: Path, parts: Sequence[dict[str, list[Any]]], schema: LogSchema = SCHEMA) -> Prepared:
    """The first part prepared, and the others added."""
    made = prepare_log(folder, parts[0], schema, OPTIONS)
    manifest = made.manifest
    for part in parts[1:]:
        manifest = grow(folder, made.folder, part, schema)
    return Prepared(made.folder, manifest)


@examples(20, 3)
@example(seed=5, cuts={3, 4, 5})
@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(3, 5), min_size=1))
def test_days_added_one_after_the_other_are_the_bytes_of_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: set[int]
) -> None:
    folder, log = tmp_path_factory.mktemp("grown"), random_log(seed)
    whole = prepare_log(folder / "whole", log, SCHEMA, OPTIONS)
    grown = in_steps(folder / "grown", by_days(log, sorted(cuts)))
    assert grown.bytes() == whole.bytes()
    same = ("spec", "counts", "split", "layout", "boundaries", "base_rates", "dropped", "late_actions", "files")
    for name in same:
        assert getattr(grown.manifest, name) == getattr(whole.manifest, name), name
    assert Manifest.open(grown.folder) == grown.manifest
    assert not [path for path in grown.folder.iterdir() if path.name.startswith(".") and path.name != ".verified"]
    shutil.rmtree(folder)


def test_a_large_log_is_split_into_files_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = random_log(11)
    small = prepare_log(tmp_path / "small", log, SCHEMA, OPTIONS).bytes()
    monkeypatch.setattr(duckdb_engine, "ROWS_OF_A_TABLE", 0)
    assert prepare_log(tmp_path / "large", log, SCHEMA, OPTIONS).bytes() == small
    assert in_steps(tmp_path / "grown", by_days(log, [3])).bytes() == small


def test_totals_of_many_days_are_joined_as_they_become_old(tmp_path: Path) -> None:
    log = random_log(2)
    log["time"] = [START + (time - START) * 4 for time in log["time"]]  # 24 days
    schema = replace(SCHEMA, split=Split(valid_start=START + 8 * DAY, test_start=START + 10 * DAY))
    whole = prepare_log(tmp_path / "whole", log, schema, OPTIONS)
    grown = in_steps(tmp_path / "grown", by_days(log, [12, 13, 14, 19, 20]), schema)
    assert grown.bytes() == whole.bytes()
    assert grown.manifest.files == whole.manifest.files
    blocks = {path.name for path in (grown.folder / "totals").iterdir()}
    assert {"18000+16", "18016+4", "18020+1", "18023+1"} <= blocks
    assert Manifest.open(grown.folder) == grown.manifest


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, list[Any]]]]:
    """A folder with three days, which no test may change, and the parts of its log: of then, and of later."""
    folder, parts = tmp_path_factory.mktemp("first"), by_days(random_log(7), [3])
    return prepare_log(folder, parts[0], SCHEMA, OPTIONS).folder, parts


@pytest.fixture
def grown_from(two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(two_parts[0], tmp_path / "data")
    return tmp_path / "data"


def test_rows_that_come_late_are_where_they_would_have_been(tmp_path: Path) -> None:
    log = random_log(1)
    log["time"] = [time + row for row, time in enumerate(log["time"])]  # equal ones would be in the order of the log
    day = (np.array(log["time"]) - START) // DAY
    late = (day == 2) & (np.random.default_rng(0).random(len(day)) < 0.3)
    parts = [rows_where(log, (day < 3) & ~late), rows_where(log, late | (day == 3)), rows_where(log, day > 3)]
    grown, whole = in_steps(tmp_path / "grown", parts), prepare_log(tmp_path / "whole", log, SCHEMA, OPTIONS)
    assert len(list((grown.folder / "timelines" / "day=2019-04-16").rglob("part-1.parquet"))) > 0
    plain = ("user", "item", "time", "request", "position", "target", "task_click", "feature_price")
    rows = [[{name: row[name] for name in plain} for row in made.rows()] for made in (grown, whole)]
    assert rows[0] == rows[1]
    assert grown.manifest.counts == whole.manifest.counts
    assert grown.manifest.late_actions == whole.manifest.late_actions


def test_a_day_has_three_parts_at_most_as_later_rows_come_too_late(tmp_path: Path) -> None:
    log = random_log(1)
    day, row = (np.array(log["time"]) - START) // DAY, np.arange(len(log["time"]))
    comes = np.where(
        day == 2, 2 + row % 4, np.maximum(day, 2)
    )  # rows of the third day with each of the next three, too
    made = in_steps(tmp_path, [rows_where(log, comes == when) for when in range(2, 6)])
    parts = [path.name for path in (made.folder / "timelines" / "day=2019-04-16").rglob("*.parquet")]
    assert set(parts) == {"part-0.parquet", "part-1.parquet", "part-2.parquet"}
    assert made.manifest.dropped["late"] == ((day == 2) & (row % 4 == 3)).sum()


def test_rows_that_come_too_late_are_dropped_and_counted(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    old, new = two_parts[1]
    both = {name: old[name][:5] + old[name][-3:] + values for name, values in new.items()}
    manifest = grow(tmp_path, grown_from, both, late=DAY)
    assert manifest.dropped == {"late": 5, "duplicate": 3}
    assert manifest.counts.exposures == Manifest.load(two_parts[0]).counts.exposures + len(new["time"])


def test_a_click_that_is_logged_later_replaces_the_exposure_without_one(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    old, new = two_parts[1]
    last = max(row for row, click in enumerate(old["click"]) if click == 0)
    again = {name: [values[last]] for name, values in old.items()} | {"click": [1]}
    grow(tmp_path, grown_from, {name: again[name] + values for name, values in new.items()})
    clicks = [PreparedData.load(folder).timelines for folder in (two_parts[0], grown_from)]
    moment = [t.tasks["click"][(t.time == old["time"][last]) & (t.time < START + 3 * DAY)].sum() for t in clicks]
    assert moment[1] == moment[0] + 1


def test_a_click_that_is_logged_later_counts_in_place_of_the_exposure_without_one(tmp_path: Path) -> None:
    log = random_log(7)
    last = int(np.searchsorted(log["time"], START + 3 * DAY)) - 1
    log["click"][last] = 1
    old, new = by_days(log, [3])
    corrected = {name: [old[name][last], *values] for name, values in new.items()}
    without = old | {"click": [*old["click"][:-1], 0]}
    whole, grown = prepare_log(tmp_path / "whole", log, SCHEMA, OPTIONS), in_steps(tmp_path, [without, corrected])
    timelines = [PreparedData.load(made.folder).timelines for made in (whole, grown)]
    later = [t.statistics[t.time >= START + 3 * DAY] for t in timelines]
    assert later[0].tobytes() == later[1].tobytes()
    assert grown.manifest.counts == whole.manifest.counts


def test_a_late_row_of_a_request_that_began_days_before_is_refused_where_statistics_count(tmp_path: Path) -> None:
    log = random_log(7)
    old, new = by_days(log, [3])
    times = range(START - DAY, START + 3 * DAY - 900, 1500)  # four days without a gap of half an hour
    long = {name: [values[0]] * len(times) for name, values in old.items()} | {"time": list(times)}
    long |= {"user": ["endless"] * len(times), "request": ["r"] * len(times)}
    made = prepare_log(tmp_path, {name: old[name] + long[name] for name in old}, SCHEMA, OPTIONS)
    late = {name: [values[-1]] for name, values in long.items()} | {"time": [START + 3 * DAY - 600]}
    before = made.bytes()
    with pytest.raises(
        LogError, match=r"^statistics: 1 late exposures belong to requests that began before .* days again$"
    ):
        grow(tmp_path / "more", made.folder, {name: late[name] + new[name] for name in new})
    assert made.bytes() == before


def test_values_that_came_after_the_training_part_have_statistics(tmp_path: Path) -> None:
    log = random_log(8)
    log["topic"] = [f"of {item}" for item in log["item"]]  # so a new item has a new topic
    whole = prepare_log(tmp_path / "whole", log, SCHEMA, OPTIONS)
    grown = in_steps(tmp_path / "grown", by_days(log, [3, 4, 5]))
    assert grown.bytes() == whole.bytes()
    data = PreparedData.load(grown.folder)
    t, column = data.timelines, data.manifest.spec.statistics.index("topic_all_count")
    unknown = data.items.features["topic"][t.item] == 0  # to a model of the training part
    assert unknown.any()
    assert (t.statistics[unknown, column] > 0).any()
    assert t.request_time is not None
    served = load_statistics(grown.folder, data.manifest).answers(t.users[t.user_of_row()], t.item, t.request_time)
    assert served.tobytes() == t.statistics.tobytes()


def test_side_tables_and_embeddings_grow_with_the_log(tmp_path: Path) -> None:
    log = random_log(3)
    ids = [*sorted(set(log["item"])), "never"]
    for name in ("whole", "grown"):
        (tmp_path / name).mkdir()
        vectors = pa.array([[float(len(each)), float(each[-1:].isdigit())] for each in ids])
        shelf = pa.array([f"s{row % 3}" for row in range(len(ids))])
        pq.write_table(pa.table({"id": ids, "vector": vectors, "shelf": shelf}), tmp_path / name / "items.parquet")
    schema = replace(
        SCHEMA,
        tables=SideTables(item=SideTable(path="items.parquet", key="id")),
        features=(
            Feature(name="shelf", owner="item", kind="categorical", column="shelf"),
            Feature(name="vector", owner="item", kind="embedding", column="vector"),
        ),
    )
    whole = prepare_log(tmp_path / "whole", log, schema, OPTIONS)
    grown = in_steps(tmp_path / "grown", by_days(log, [3, 4]), schema)
    assert grown.bytes() == whole.bytes()
    assert grown.manifest.spec == whole.manifest.spec


@pytest.mark.parametrize("longest", [8, 1000])  # 1000: requests that go on for all days
def test_requests_by_gaps_and_actions_known_later_go_on_over_midnight(tmp_path: Path, longest: int) -> None:
    times = [START + 3 * DAY + 600 * (step + 20 * ((step + 200) // (3 * longest))) for step in range(-200, 200)]
    log = {
        "user": [f"u{step % 3}" for step in range(400)],
        "item": [f"i{step % 7}" for step in range(400)],
        "time": times,
        "click": [step % 2 for step in range(400)],
    }
    schema = LogSchema(
        name="gaps",
        columns=Columns(user="user", item="item", time="time"),
        tasks=(CLICK,),
        requests=RequestSettings(gap_seconds=1800),
        split=Split(valid_start=START + 2 * DAY, test_start=START + 5 * DAY // 2),
    )
    schema = replace(schema, history=replace(schema.history, settle="2h"))
    whole = prepare_log(tmp_path / "whole", log, schema, OPTIONS)
    grown = in_steps(tmp_path / "grown", by_days(log, [3, 4]), schema)
    assert grown.bytes() == whole.bytes()
    assert grown.manifest.counts == whole.manifest.counts
    assert grown.manifest.late_actions == whole.manifest.late_actions
    assert grown.rows() == whole.rows()
    assert (grown.manifest.counts.requests == 3) == (longest == 1000)


def refusal(folder: Path, out: Path, log: dict[str, list[Any]], schema: LogSchema = SCHEMA) -> str:
    before = Prepared(out, Manifest.load(out)).bytes()
    with pytest.raises(InputError) as raised:
        grow(folder, out, log, schema)
    assert Prepared(out, Manifest.load(out)).bytes() == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_no_extension_is_refused_and_nothing_is_lost(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    old, new = two_parts[1]
    assert "are of days that the folder already has, up to 2019-04-16; give" in refusal(tmp_path, grown_from, old)
    other = replace(SCHEMA, item_min_count=3)
    assert "schema: item_min_count is not as in the prepared folder" in refusal(tmp_path, grown_from, new, other)
    features = (*SCHEMA.features[:-1], replace(SCHEMA.features[-1], max_values=1))
    message = refusal(tmp_path, grown_from, new, replace(SCHEMA, features=features))
    assert "features.labels.max_values is not as in" in message
    ahead = new | {"time": [*new["time"][:-1], new["time"][-1] + 1500 * DAY]}
    assert "'time': 1 exposures are of 2023-05-28 or later, with no exposure since 2019-" in refusal(
        tmp_path, grown_from, ahead
    )


def test_a_part_that_was_deleted_by_hand_is_named(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    gone = next((grown_from / "timelines").rglob("*.parquet"))
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.parent.name}/part-0.parquet: missing"):
        grow(tmp_path, grown_from, two_parts[1][1])


def test_a_folder_that_another_process_changes_is_left_alone(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    with changing(grown_from, about="manifest.json"), pytest.raises(OutputError, match="has been using it for"):
        grow(tmp_path, grown_from, two_parts[1][1])
    assert Manifest.open(grown_from) == Manifest.open(two_parts[0])


def test_folders_of_format_3_are_read_but_not_extended(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "formats" / "v3.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(DataError, match="format 3 can be read, but not extended; run genrank prepare"):
        expire(tmp_path / "prepared", before=20_000)


def test_days_expire_and_the_rest_stays(
    grown_from: Path, two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path
) -> None:
    grow(tmp_path, grown_from, two_parts[1][1])
    before = PreparedData.load(grown_from).timelines
    manifest = expire(grown_from, before=START // DAY + 2)
    after = PreparedData.load(grown_from).timelines
    kept = before.time >= START + 2 * DAY
    assert np.array_equal(after.time, before.time[kept])
    assert np.array_equal(after.item, before.item[kept])
    assert after.statistics.tobytes() == before.statistics[kept].tobytes()
    assert manifest.counts.exposures == kept.sum()
    assert manifest.counts.train.exposures == 0
    assert sorted(path.name for path in (grown_from / "timelines").iterdir())[0] == "day=2019-04-16"
    with pytest.raises(DataError, match="no exposure would be left from 2019-04-30 on; choose an earlier day"):
        expire(grown_from, before=START // DAY + 16)
    assert expire(grown_from, before=START // DAY) == Manifest.open(grown_from)


def test_histories_given_as_lists_are_not_read_again(tmp_path: Path) -> None:
    log = random_log(5) | {"seen": [["i0", "i1"]] * 240}
    schema = replace(SCHEMA, history=HistorySettings(lists=HistoryLists(items="seen", labels={"click": 1})))
    made = in_steps(tmp_path, by_days(log, [3]), schema)
    history = [row for row in made.rows() if not row["target"]]
    assert {row["time"] // DAY for row in history} <= {
        START // DAY - 1,
        START // DAY,
        START // DAY + 1,
        START // DAY + 2,
    }
    assert len(history) == 2 * len({row["user"] for row in made.rows() if row["time"] < START + 3 * DAY})
    assert [w.message for w in made.manifest.warnings if "not read when days are added" in w.message] != []


def test_days_are_added_and_removed_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = by_days(random_log(4), [3])
    for number, part in enumerate(parts):
        pq.write_table(pa.table(part), tmp_path / f"{number}.parquet")
    (tmp_path / "my.toml").write_text(
        'name = "mine"\ncolumns = { user = "user", item = "item", time = "time" }\n'
        'tasks = [{ name = "click", kind = "binary", column = "click" }]\n'
        f"split = {{ valid_start = {START + 2 * DAY}, test_start = {START + 5 * DAY // 2} }}\n"
    )
    schema, data = str(tmp_path / "my.toml"), tmp_path / "data"
    new = ["--days-per-part", "1", "--buckets", "2", "--out", str(data)]
    assert main(["prepare", str(tmp_path / "0.parquet"), "--schema", schema, *new]) == 0
    more = ["prepare", str(tmp_path / "1.parquet"), "--schema", schema]
    assert main([*more, "--extend", str(data)]) == 0
    assert f"added {len(parts[1]['time'])} exposures in" in " ".join(capsys.readouterr().err.split())
    assert main(["expire", str(data), "--before", "2019-04-16"]) == 0
    left = sum(time >= START + 2 * DAY for part in parts for time in part["time"])
    assert f"{left} exposures are left in" in capsys.readouterr().err
    for wrong, message in (
        ([*more], "give either --out"),
        ([*more, "--extend", str(data), "--out", str(data)], "give either --out"),
        ([*more, "--extend", str(data), "--late", "soon"], "--late soon: expected a number and s, m, h or d"),
        ([*more, "--extend", str(data), "--late", "9d"], "it must be 0 to 172800"),
        ([*more, "--extend", str(tmp_path / "none")], "no prepared data here"),
        ([*more, "--extend", str(data)], "are of days that the folder already has, up to 2019-04-19"),
        (["expire", str(data), "--before", "now"], "--before now: expected a date"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert message in " ".join(error.split())
    with pytest.raises(LogError, match="already"):
        genrank.prepare(tmp_path / "1.parquet", schema=schema, extend=data)


class Change:
    """Something that changes a prepared folder, done anew on copies of it."""

    def __init__(self, tmp_path: Path, first: Path, change: Callable[[Path], Manifest]):
        self.tmp_path, self.first, self.change = tmp_path, first, change
        self.before = Manifest.load(first)
        with interrupted(self._copy(), 10**9, Killed()) as whole:
            self.after = change(self.folder)
        self.num_changes = whole.count

    def _copy(self) -> Path:
        self.folder = self.tmp_path / "data"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.first, self.folder)
        return self.folder

    def check(self, at: int, problem: BaseException) -> bool:
        """Interrupted at a change; whether it counts nevertheless. A later run trips over nothing."""
        with interrupted(self._copy(), at, problem) as died, suppress(Killed, InputError):
            self.change(self.folder)
        assert died.happened
        found = Manifest.open(self.folder)
        assert found in (self.before, self.after)
        if found == self.before:
            assert self.change(self.folder) == self.after
        left = {path.name for path in self.folder.iterdir() if path.name.startswith(".")}
        assert left <= {".verified", ".lock"}
        return found == self.after


@pytest.mark.parametrize("what", ["extend", "expire"])
def test_a_change_that_is_cut_short_counts_wholly_or_not_at_all(
    two_parts: tuple[Path, list[dict[str, list[Any]]]], tmp_path: Path, what: str
) -> None:
    def extended(folder: Path) -> Manifest:
        return grow(tmp_path, folder, two_parts[1][1])

    def expired(folder: Path) -> Manifest:
        return expire(folder, before=START // DAY + 1)

    change = Change(tmp_path, two_parts[0], extended if what == "extend" else expired)
    step = max(1, change.num_changes // 20)
    moments = sampled(range(1, change.num_changes + 1, step), every=4)
    assert {change.check(at, Killed()) for at in moments} == {False, True}
    full = OSError(errno.ENOSPC, "No space left on device")
    assert {change.check(at, full) for at in range(2, change.num_changes // 2, 6 * step)} == {False}


def run_killed(arguments: list[str], after: float) -> float:
    """Runs the process until it ends, or so many seconds after it has imported what it needs; how long it ran then."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        began = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=after)
        process.kill()
        return time.monotonic() - began


@pytest.mark.slow
def test_kill_9_at_any_point_leaves_a_folder_as_before_or_as_after(tmp_path: Path) -> None:
    random, parts = np.random.default_rng(0), by_days(random_log(2), [3])
    first = prepare_log(tmp_path / "first", parts[0], SCHEMA, OPTIONS).folder
    log = tmp_path / "first" / "more.parquet"
    pq.write_table(pa.table(parts[1]), log)
    found, took = [], dict.fromkeys(("prepare", "extend", "expire"), 120.0)
    for number in range(50):
        folder, what = tmp_path / str(number), list(took)[number % 3]
        if what != "prepare":
            shutil.copytree(first, folder)
        arguments = [sys.executable, str(Path(__file__).with_name("changing_process.py")), what, str(log), str(folder)]
        limit = random.uniform(0, 1.5) * took[what] if number >= len(took) else took[what]
        ran = run_killed(arguments, limit)
        took[what] = ran if number < len(took) else took[what]  # the first of each is not killed
        state = str(Manifest.open(folder).counts.exposures) if folder.exists() else "nothing"
        found.append((what, state))
        assert run_killed(arguments, 120) < 120
        assert Manifest.open(folder)
        left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
        assert left <= {".verified", ".lock"}
        shutil.rmtree(folder)
    assert all(len({state for kind, state in found[3:] if kind == what}) == 2 for what in took), Counter(found)
