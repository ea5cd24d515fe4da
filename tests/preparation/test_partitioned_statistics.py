"""Statistics counted bucket by bucket and partition by partition are those of the whole log, bit for bit."""

import io
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from counted_logs import RATES, random_events, random_item_features, schema
from genrank.data.event_totals import EventTotals
from genrank.data.statistics import Events, statistics_columns
from genrank.errors import DataError, LogError
from genrank.preparation import key_partitions
from genrank.preparation.admission import DAY
from genrank.preparation.buckets import Buckets
from genrank.preparation.key_partitions import choose_num_partitions
from genrank.preparation.partitioned_statistics import PartitionedStatistics
from genrank.preparation.point_in_time import LATEST, write_statistics
from plain_statistics import PlainStatistics

SCHEMA = schema(request=True, gap=0)


def counted(
    folder: Path,
    log: Events,
    features: dict[str, Any],
    num_buckets: int,
    *,
    num_partitions: int,
    past: EventTotals | None = None,
    keep: EventTotals | None = None,
) -> np.ndarray:
    """(N, S) of all exposures, in buckets of users."""
    folder.mkdir()
    statistics = PartitionedStatistics(SCHEMA, RATES, features, folder, num_partitions=num_partitions, past=past)
    rows = [np.flatnonzero(log.user % num_buckets == number) for number in range(num_buckets)]
    found = np.empty((len(log.time), len(statistics_columns(SCHEMA))), np.float16)
    for number, mine in enumerate(rows):
        statistics.add(number, log.take(mine))
    statistics.count(keep)
    for number, mine in enumerate(rows):
        found[mine] = statistics.answers(number, log.take(mine))
    return found


def plainly(log: Events, features: dict[str, Any]) -> np.ndarray:
    plain = PlainStatistics(SCHEMA, log, rates=RATES, item_features=features)
    return plain.answers(log.user, log.item, log.request_time)


@pytest.mark.parametrize(("partitions", "chunk"), [(20, 3), (3, 7), (1, key_partitions.CHUNK)])
@examples(60, 20)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 90), num_buckets=st.integers(1, 4))
def test_buckets_get_what_the_whole_log_would_give(
    partitions: int, chunk: int, seed: int, size: int, num_buckets: int
) -> None:
    random = np.random.default_rng(seed)
    log, features = random_events(random, size), random_item_features(random)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(key_partitions, "CHUNK", chunk)
        found = counted(Path(folder) / "counts", log, features, num_buckets, num_partitions=partitions)
    assert found.tobytes() == plainly(log, features).tobytes()


def carry_over(past: EventTotals, keep: EventTotals) -> None:
    """The blocks that stay, as an extension leaves them."""
    for path in past.folder.glob("*/*"):
        again = keep.folder / path.relative_to(past.folder)
        if keep.keeps(path.parent.name) and not again.exists():
            again.parent.mkdir(exist_ok=True)
            shutil.copy(path, again)


@pytest.mark.parametrize(("partitions", "stretch"), [(1, 1), (5, 1), (2, 9000)])  # 9000: over months
@examples(60, 20)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 90), num_buckets=st.integers(1, 4))
def test_later_days_are_answered_from_totals_as_from_all_events(
    partitions: int, stretch: int, seed: int, size: int, num_buckets: int
) -> None:
    """Three times: what is kept of the first two logs answers the third."""
    random = np.random.default_rng(seed)
    log, features = random_events(random, size), random_item_features(random)
    begin = int(log.request_time.min())
    log = replace(
        log, time=begin + stretch * (log.time - begin), request_time=begin + stretch * (log.request_time - begin)
    )
    cuts = np.sort(random.choice(np.unique(log.request_time), 2)).tolist()
    expected, totals = plainly(log, features), None
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, (begin, end) in enumerate(pairwise([0, *cuts, 2**40])):
            rows = np.flatnonzero((log.request_time >= begin) & (log.request_time < end))
            keep = EventTotals.of(
                SCHEMA, folder / f"totals-{number}", until=end, num_partitions=partitions, rates=RATES, past=totals
            )
            found = counted(
                folder / str(number), log.take(rows), features, num_buckets,
                num_partitions=partitions, past=totals, keep=keep,
            )  # fmt: skip
            assert found.tobytes() == expected[rows].tobytes()
            if totals is not None:
                carry_over(totals, keep)
            totals = EventTotals.open(keep.folder)
            assert totals == keep


def test_totals_hold_one_event_a_key_before_their_windows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    log, features = random_events(random, 90), random_item_features(random)
    totals = EventTotals.of(SCHEMA, tmp_path / "totals", until=2**40, num_partitions=1, rates=RATES)
    counted(tmp_path / "counts", log, features, 1, num_partitions=1, keep=totals)
    (by_item,) = EventTotals.open(totals.folder).load(0, 0)
    assert by_item.keys.tolist() == list(range(1, 9))
    assert [int(time) % (4 * DAY) for time in by_item.times] == [4 * DAY - 1] * 8
    assert totals.until - totals.since == 3600
    known = log.target & (log.labels["click"] >= 0) & (log.item > 0)
    assert by_item.sums[-1, 0] == known.sum()


def stored(log: Events, folder: Path) -> Buckets:
    """The exposures in three buckets, as `prepare` keeps them."""
    folder.mkdir()
    paths = tuple(folder / f"{number}.arrow" for number in range(3))
    for number, path in enumerate(paths):
        mine = log.take(np.flatnonzero(log.user % 3 == number))
        columns = {name: getattr(mine, name) for name in ("user", "item", "request_time", "target")}
        labels = {f"task_{task}": values for task, values in mine.labels.items()}
        table = pa.table(columns | {"time": mine.request_time, "known_at": mine.time} | labels)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return Buckets(
        paths=paths, num_rows=len(log.time), num_duplicates=0, num_recurring=0, num_late=0, dates_only=False,
        first_time=0, last_time=0, times=log.time, multi_values={},
    )  # fmt: skip


def test_days_are_written_one_after_another_as_all_at_once(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    log, features = random_events(random, 300), random_item_features(random)
    stretch = 200 * (log.request_time - log.request_time.min())  # over three days and a half
    log = replace(log, time=log.time + stretch, request_time=log.request_time + stretch)
    day = log.request_time // DAY
    first, second, *_, last = np.unique(day).tolist()
    assert last - first >= 3
    split = SimpleNamespace(valid_start=(second + 1) * DAY)
    logs = {
        "all": log,
        "early": log.take(np.flatnonzero(day <= second)),
        "late": log.take(np.flatnonzero(day > second)),
    }

    def written(name: str, **settings: Any) -> tuple[dict[str, float], list[np.ndarray]]:
        buckets, folder = stored(logs[name], tmp_path / name), tmp_path / f"{name}-out"
        folder.mkdir()
        rates = write_statistics(buckets, SCHEMA, features, split, folder, report=print, **settings)
        return rates, [np.load(path) for path in sorted((folder / "statistics").iterdir())]

    rates, whole = written("all", threads=3)
    early_rates, early = written("early", keep=tmp_path / "totals")
    past = EventTotals.open(tmp_path / "totals")
    late_rates, late = written("late", past=past, keep=tmp_path / "more", threads=2)
    assert rates == early_rates == late_rates
    assert past.until == second * DAY - LATEST
    assert EventTotals.open(tmp_path / "more").until == last * DAY - LATEST
    for number, answers in enumerate(whole):
        is_late = day[log.user % 3 == number] > second
        assert is_late.any()
        assert answers[~is_late].tobytes() == early[number].tobytes()
        assert answers[is_late].tobytes() == late[number].tobytes()


def saved(numbers: np.ndarray) -> bytes:
    """The file of an array."""
    file = io.BytesIO()
    np.save(file, numbers)
    return file.getvalue()


def test_damaged_totals_are_refused_in_one_line(tmp_path: Path) -> None:
    totals = EventTotals.of(SCHEMA, tmp_path / "totals", until=2**40, num_partitions=1, rates=RATES)
    (totals.folder / "16+4").mkdir()
    for damaged in (b"damaged", saved(np.arange(8)), saved(np.arange(2)), saved(np.zeros(3))):
        (totals.folder / "16+4" / "0-0000.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"0-0000.npy: can't be read .* run genrank prepare again"):
            totals.load(0, 0)
    text = (totals.folder / "totals.json").read_text()
    (totals.folder / "totals.json").write_text(text.replace('"format": 2, ', ""))
    with pytest.raises(DataError, match=r"totals can't be read \(of an earlier version\); run genrank prepare again"):
        EventTotals.open(totals.folder)
    (totals.folder / "totals.json").write_text('{"since": 1}')
    with pytest.raises(DataError, match=r"totals can't be read .* run genrank prepare again"):
        EventTotals.open(totals.folder)
    with pytest.raises(DataError, match="run genrank prepare again"):
        EventTotals.open(tmp_path / "nowhere")


def test_requests_before_the_past_ends_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    log = random_events(random, 90)
    past = EventTotals.of(SCHEMA, tmp_path / "totals", until=2**40, num_partitions=1, rates=RATES)
    with pytest.raises(LogError, match="90 late exposures belong to requests that began before"):
        counted(tmp_path / "counts", log, random_item_features(random), 1, num_partitions=1, past=past)


def test_records_are_spread_over_partitions_and_counted_in_chunks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(key_partitions, "CHUNK", 5)
    random = np.random.default_rng(0)
    log = random_events(random, 90)
    statistics = PartitionedStatistics(SCHEMA, RATES, random_item_features(random), tmp_path, num_partitions=9)
    statistics.add(0, log)
    (by_item, *_), files = statistics.partitions.values(), sorted(tmp_path.glob("*/records-*"))
    assert len(files) > 10
    assert max(len(list(by_item._chunks(number))) for number in range(9)) > 1
    statistics.count()
    assert not list(tmp_path.glob("*/records-*"))


def test_partitions_grow_with_the_log_up_to_a_bound() -> None:
    assert [choose_num_partitions(size) for size in (0, 10**6, 10**12)] == [1, 4, key_partitions.MOST_PARTITIONS]
