"""Days added to a prepared folder: the same bytes as at once."""

import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exposure_logs import CLICK, Prepared, prepare_log
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.errors import DataError, InputError, OutputError
from genrank.journal import changing
from genrank.log_settings import RequestSettings
from genrank.preparation.extending import expire, extend
from genrank.preparation.prepare import PrepareOptions
from genrank.preparation.sources.files import files
from genrank.schema import Columns, Feature, Feedback, LogSchema, SideTable, SideTables, Split, Statistics

DAY = 86_400
START = 18_000 * DAY
OPTIONS = PrepareOptions(threads=1, memory_limit="1GB", num_buckets=2, days_per_part=1)
SCHEMA = LogSchema(
    name="growing",
    columns=Columns(user="user", item="item", time="time", request="request"),
    tasks=(CLICK,),
    feedback=(Feedback(name="how", column="how"),),
    features=(
        Feature(name="tab", owner="exposure", kind="categorical", column="tab", min_count=2),
        Feature(name="tags", owner="exposure", kind="multi", column="tags", separator=",", max_values=2),
        Feature(name="price", owner="exposure", kind="numeric", column="price"),
        Feature(name="topic", owner="item", kind="categorical", column="topic"),
        Feature(name="labels", owner="item", kind="multi", column="labels", separator=","),
    ),
    split=Split(valid_start=START + 2 * DAY, test_start=START + 5 * DAY // 2),
    statistics=Statistics(enabled=True, windows=("1d", "all")),
    item_min_count=2,
)


def random_log(seed: int, num_days: int = 6, num_rows: int = 240) -> dict[str, list[Any]]:
    """Exposures of `num_days` days, in order of time; items and values appear as time goes on."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, num_days * DAY // 600, num_rows)) * 600 + START
    day = (times - START) // DAY
    items = random.integers(0, 4 + 3 * day)
    late = random.integers(0, 3, num_rows)
    return {
        "user": [f"u{user}" for user in random.integers(0, 3 + day)],
        "item": [f"i{item}" for item in items],
        "time": times.tolist(),
        "request": [f"r{request}" for request in random.integers(0, 4, num_rows)],
        "click": random.integers(0, 2, num_rows).tolist(),
        "how": [f"h{value}" for value in random.integers(0, 1 + day)],
        "tab": [f"t{value}" for value in random.integers(0, 2 + day)],
        "tags": [
            f"g{one},g{one + other},g{other}" for one, other in zip(random.integers(0, 2 + day), late, strict=True)
        ],
        "price": random.normal(size=num_rows).tolist(),
        "topic": [f"o{item % 5}" for item in items],
        "labels": [f"l{item % 3},l{item % 7}" for item in items],
    }


def rows_where(log: dict[str, list[Any]], chosen: Sequence[bool]) -> dict[str, list[Any]]:
    return {name: [value for value, keep in zip(values, chosen, strict=True) if keep] for name, values in log.items()}


def by_days(log: dict[str, list[Any]], cuts: Sequence[int]) -> list[dict[str, list[Any]]]:
    """The log cut before the given days."""
    part = np.searchsorted(np.array(cuts), (np.array(log["time"]) - START) // DAY, side="right")
    return [rows_where(log, part == number) for number in range(len(cuts) + 1)]


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


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sets(st.integers(3, 5), min_size=1))
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
    assert "are of days that are there already, up to 2019-04-16; give" in refusal(tmp_path, grown_from, old)
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
    with changing(grown_from, about="manifest.json"), pytest.raises(OutputError, match="has been at it for"):
        grow(tmp_path, grown_from, two_parts[1][1])
    assert Manifest.open(grown_from) == Manifest.open(two_parts[0])


def test_folders_of_format_3_are_read_but_not_extended(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "formats" / "v3.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(DataError, match="format 3 can be read, but its days stay as they are; run genrank prepare"):
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
    with pytest.raises(DataError, match="no exposure would stay from 2019-04-30 on; name an earlier day"):
        expire(grown_from, before=START // DAY + 16)
    assert expire(grown_from, before=START // DAY) == Manifest.open(grown_from)
