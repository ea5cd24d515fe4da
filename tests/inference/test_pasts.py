"""Histories read from disk user by user are those in memory, whatever becomes of the folder meanwhile."""

import re
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exposure_logs import prepare_log
from genrank.data import user_timelines
from genrank.data.manifest import Manifest
from genrank.data.timeline_files import load_timelines, users_of
from genrank.data.timelines import Timelines
from genrank.errors import DataError, OutputError
from genrank.inference import collected
from genrank.inference.pasts import Past, PastInMemory, PastLimits, PastOnDisk, open_past
from genrank.log_settings import HistorySettings
from genrank.preparation import writing
from genrank.preparation.extending import expire, extend
from genrank.preparation.sources.files import files
from genrank.schema import LogSchema
from growing_logs import DAY, OPTIONS, SCHEMA, START, random_log, rows_where

Log = dict[str, list[Any]]


def grown(folder: Path, parts: Sequence[Log], schema: LogSchema = SCHEMA) -> Path:
    """The first part prepared, and the others added."""
    out = prepare_log(folder, parts[0], schema, OPTIONS).folder
    for part in parts[1:]:
        add(folder, out, part, schema)
    return out


def add(folder: Path, out: Path, part: Log, schema: LogSchema = SCHEMA) -> None:
    pq.write_table(pa.table(part), folder / "more.parquet")
    extend(files([folder / "more.parquet"], schema=schema, folder=folder), out, options=OPTIONS)


def late_parts(seed: int = 3) -> list[Log]:
    """Three extensions; some rows of the third day come with the fourth."""
    log = random_log(seed)
    day = (np.array(log["time"]) - START) // DAY
    late = (day == 2) & (np.random.default_rng(0).random(len(day)) < 0.3)
    chosen = [(day < 3) & ~late, late | (day == 3), day > 3]
    return [rows_where(log, each.tolist()) for each in chosen]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grown(tmp_path_factory.mktemp("grown"), late_parts())


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the test's own."""
    return shutil.copytree(made, tmp_path / "prepared")


def spec_of(folder: Path) -> Any:
    return Manifest.load(folder).spec


def num_users(folder: Path) -> int:
    return Manifest.load(folder).counts.users


def assert_equal(one: Timelines, other: Timelines) -> None:
    for field in fields(Timelines):
        if field.name != "oracle":
            np.testing.assert_equal(columns(getattr(one, field.name)), columns(getattr(other, field.name)), field.name)


def columns(value: Any) -> Any:
    """Arrays with their types."""
    if isinstance(value, dict):
        return {name: columns(each) for name, each in value.items()}
    if hasattr(value, "offsets"):
        return [columns(value.values), columns(value.offsets), columns(value.weights)]
    return value if value is None else (value.dtype.str, value)


def assert_same(one: Past, other: Past, rows: Sequence[int]) -> None:
    for row in rows:
        assert_equal(one.of(row), other.of(row))


@pytest.mark.parametrize("settle", ["", "5h"])
def test_a_users_timeline_is_the_same_from_disk_and_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle: str
) -> None:
    monkeypatch.setattr(writing, "EXPOSURES_PER_ROW_GROUP", 4)
    schema = SCHEMA if not settle else SCHEMA.__class__(**{**vars(SCHEMA), "history": HistorySettings(settle=settle)})
    folder = grown(tmp_path, late_parts(), schema)
    assert any(pq.read_metadata(path).num_row_groups > 1 for path in folder.glob("timelines/**/*.parquet"))
    assert list(folder.glob("timelines/**/part-1.parquet"))
    rows = range(num_users(folder) + 3)
    for until in (None, START + 3 * DAY):
        memory, disk = (kind(folder, spec_of(folder), until=until) for kind in (PastInMemory, PastOnDisk))
        assert sum(memory.of(row).num_exposures for row in rows) > 100
        assert_same(memory, disk, rows)


def test_format_3_is_the_same_from_disk_and_from_memory(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "formats" / "v3.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "prepared"
    memory, disk = (kind(folder, spec_of(folder)) for kind in (PastInMemory, PastOnDisk))
    assert_same(memory, disk, range(num_users(folder) + 2))


@pytest.mark.parametrize("few", [-1, 3, 1000])
def test_collected_users_are_the_same_as_those_read_one_by_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(collected, "FEW", few)
    memory, disk = PastInMemory(folder, spec_of(folder)), PastOnDisk(folder, spec_of(folder))
    before = set(tmp_path.iterdir())
    with disk.collected(np.array([5, 2, 1, 7, 3, 9, 11]), scratch=tmp_path):
        assert_same(memory, disk, range(num_users(folder) + 3))
    assert_same(memory, disk, range(num_users(folder) + 3))
    assert set(tmp_path.iterdir()) == before


def test_no_room_for_collected_users_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "FEW", 0)
    full = Path("/dev/full").open("wb")  # noqa: SIM115  # the code closes it
    monkeypatch.setattr(collected.tempfile, "TemporaryFile", lambda **_: full)
    disk = PastOnDisk(folder, spec_of(folder))
    said = re.escape(f"{tmp_path}: no temporary file of histories can be written (No space left on device)")
    with pytest.raises(OutputError, match=said), disk.collected(np.arange(1, 9), scratch=tmp_path):
        pass
    assert full.closed
    assert disk.of(1).num_exposures


def test_every_bucket_is_read_once_for_collected_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "FEW", 0)
    read: list[tuple[str, int | None]] = []
    real = user_timelines.load_parts

    def counted(folder: Path, paths: Sequence[Path], *arguments: Any, user: int | None) -> Timelines:
        read.append((paths[0].parent.name, user))
        return real(folder, paths, *arguments, user=user)

    monkeypatch.setattr(user_timelines, "load_parts", counted)
    disk = PastOnDisk(folder, spec_of(folder))
    with disk.collected(np.arange(1, 9)):
        for row in (8, 1, 5, 2, 8, 1, 5, 2):
            disk.of(row)
    assert sorted(read) == [("bucket=0000", None), ("bucket=0001", None)]


def test_the_users_read_last_are_kept_within_their_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = PastOnDisk(folder, spec_of(folder), max_bytes=40_000)
    read: list[int] = []
    real = disk.timelines.of
    monkeypatch.setattr(disk.timelines, "of", lambda row: (read.append(row), real(row))[1])
    for row in (1, 1, 2, 1, 3, 4, 5, 6, 7, 8, 8, 1):
        disk.of(row)
        assert disk._kept.counts().num_bytes <= 40_000
    assert read == [1, 2, 3, 4, 5, 6, 7, 8, 1]


def test_days_added_since_are_not_seen_and_expired_ones_are_left_out(tmp_path: Path) -> None:
    parts = late_parts()
    folder = grown(tmp_path, parts[:2])
    memory, disk = (kind(folder, spec_of(folder)) for kind in (PastInMemory, PastOnDisk))
    rows = range(num_users(folder))
    add(tmp_path, folder, parts[2])
    assert PastInMemory(folder, spec_of(folder)).timelines.num_exposures > memory.timelines.num_exposures
    assert_same(memory, disk, rows)
    expire(folder, before=START // DAY + 2)
    for row in rows:
        left, old = disk.of(row), memory.of(row)
        assert left.time.tolist() == old.time[old.time >= START + 2 * DAY].tolist()


def test_a_folder_in_the_place_of_the_one_that_was_opened_is_refused(tmp_path: Path, folder: Path) -> None:
    disk = PastOnDisk(folder, spec_of(folder))
    disk.of(1)
    other = grown(tmp_path / "other", late_parts(seed=4))
    shutil.rmtree(folder)
    other.rename(folder)
    with pytest.raises(DataError, match="replaced by other data since it was opened"):
        disk.of(1)


def test_a_part_that_is_damaged_or_gone_is_refused(folder: Path) -> None:
    disk = PastOnDisk(folder, spec_of(folder))
    for path in folder.glob("timelines/*/bucket=0001/part-0.parquet"):
        path.unlink()
    with pytest.raises(DataError, match=r"timelines can't be read \(.*\); run genrank prepare again"):
        disk.of(1)
    assert disk.of(2).num_exposures


def test_users_with_a_timeline_are_found_without_reading_it(folder: Path) -> None:
    np.testing.assert_array_equal(users_of(folder), load_timelines(folder, spec_of(folder)).users)


def test_data_beyond_the_limit_stays_on_disk(folder: Path) -> None:
    size = Manifest.load(folder).counts.exposures
    assert isinstance(open_past(folder, spec_of(folder), limits=PastLimits(max_exposures=size)), PastInMemory)
    assert isinstance(open_past(folder, spec_of(folder), limits=PastLimits(max_exposures=size - 1)), PastOnDisk)
