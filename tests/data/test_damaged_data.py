"""Prepared folders whose parts are gone or spoilt, past the check of hashes: one line with the remedy."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from counted_logs import random_log, schema
from exposure_logs import Prepared, prepare_log
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import bucket_rows, load_timelines
from genrank.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_log(tmp_path_factory.mktemp("made"), random_log(3), schema(request=True, gap=60))


@pytest.fixture
def prepared(made: Prepared, tmp_path: Path) -> Prepared:
    """A copy of the test's own."""
    return replace(made, folder=shutil.copytree(made.folder, tmp_path / "prepared"))


def refusal(prepared: Prepared) -> str:
    with pytest.raises(DataError) as raised:
        load_timelines(prepared.folder, prepared.manifest.spec)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("run genrank prepare again")
    return str(raised.value)


def test_timelines_that_are_gone(prepared: Prepared) -> None:
    for path in (prepared.folder / "timelines").rglob("*.parquet"):
        path.unlink()
    assert "no timelines/day=*/bucket=*/*.parquet" in refusal(prepared)


def test_timelines_that_are_no_parquet(prepared: Prepared) -> None:
    next((prepared.folder / "timelines").rglob("*.parquet")).write_bytes(b"PAR1")
    assert "can't be read (" in refusal(prepared)


def test_one_bucket_that_is_no_parquet(prepared: Prepared) -> None:
    first, second = (prepared.folder / "timelines").glob("**/*.parquet")
    assert first.parent != second.parent
    second.write_bytes(b"PAR1")  # the settings of the folder are read from the first
    assert "timelines can't be read (" in refusal(prepared)
    with pytest.raises(DataError, match=r"prepared: timelines can't be read \(.*\); run genrank prepare again"):
        bucket_rows(prepared.folder)


@pytest.mark.parametrize("owner", ["item", "user"])
def test_a_table_that_is_no_parquet(prepared: Prepared, owner: Literal["item", "user"]) -> None:
    (prepared.folder / f"{owner}s.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=rf"{owner}s\.parquet: can't be read \(.*\); run genrank prepare again"):
        FeatureTable.load(prepared.folder, owner, prepared.manifest.spec)


def test_statistics_of_other_rows(prepared: Prepared) -> None:
    path = next((prepared.folder / "statistics").rglob("*.npy"))
    np.save(path, np.load(path)[:-1])
    assert "statistics: expected (36, 90) numbers, found (35, 90)" in refusal(prepared)


def test_statistics_that_are_gone(prepared: Prepared) -> None:
    for path in (prepared.folder / "statistics").rglob("*.npy"):
        path.unlink()
    assert "part-0.npy: missing" in refusal(prepared)


def test_a_part_without_exposures_is_named(prepared: Prepared) -> None:
    data = PreparedData.load(prepared.folder)
    split = replace(data.manifest.split, test_start=2**40)
    late = replace(data, manifest=replace(data.manifest, split=split))
    with pytest.raises(DataError, match="the part 'test' holds no exposures; prepare with another"):
        late.part(late.builder(SequenceConfig(max_history=8)), "test")
