"""run/data.json: what a run learns from, as it was when the run began. So a run that was stopped can go on after its
folder has been extended, bit for bit, and is refused where the days that it learns from are others.

The days are compared as files, which an extension never rewrites; items and users by their ids and features, as the
run's sizes of vocabularies show them, since tables get new rows at their ends.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.config import build
from genrank.data.manifest import Manifest, PartCounts
from genrank.data.pools import StoredData
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import first_day_of, statistics_path
from genrank.data.vocabulary_files import read_vocabulary
from genrank.documents import read_json
from genrank.errors import BundleError, DataError
from genrank.runs.run_config import RunConfig
from genrank.schema import fingerprint

DAY = 86_400  # seconds
LONGEST_FOLDER = 1000  # letters of its path
NAME, REMEDY = "data.json", "give another run, or train again"


@dataclass(frozen=True, kw_only=True)
class LearnedRecord:
    """What training and validation read. Hashes: of the spec, of the days' files, and of items, users and values."""

    spec: str
    split: tuple[int, ...]  # seconds: the ends of training and of validation, and the beginning of training if chosen
    first_time: int  # of the log, seconds
    train: PartCounts
    valid: PartCounts
    num_items: int  # rows of the table
    num_users: int
    days: str
    values: str

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, *, num_items: int = -1, num_users: int = -1) -> "LearnedRecord":
        """Of a verified folder, with the manifest of the run. num_items, num_users: rows to look at; -1: all."""
        split, tables = manifest.split, [FeatureTable.load(folder, owner, manifest.spec) for owner in ("item", "user")]
        sizes = [
            len(table) if number < 0 else number for table, number in zip(tables, (num_items, num_users), strict=True)
        ]
        begin = () if split.train_start is None else (split.train_start,)
        return cls(
            spec=manifest.spec.fingerprint(),
            split=(split.valid_start, split.test_start, *begin),
            first_time=split.first_time,
            train=manifest.counts.train,
            valid=manifest.counts.valid,
            num_items=sizes[0],
            num_users=sizes[1],
            days=fingerprint(dict(_files_before(folder, manifest, split.test_start))),
            values=_hash_values(folder, manifest, tables, sizes),
        )


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The prepared folder of a run, the hash of all its files, and what is learned; None: it can't be extended."""

    folder: str
    hash: str
    learned: LearnedRecord | None = None

    def __post_init__(self) -> None:
        if len(self.folder) > LONGEST_FOLDER or "\0" in self.folder:
            raise ValueError(f"folder is no path of a prepared folder; {REMEDY}")

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "DataRecord":
        """Of a verified folder, with the manifest of the run."""
        learned = LearnedRecord.of(folder, manifest) if manifest.layout.days_per_part else None
        return cls(folder=str(folder.resolve()), hash=fingerprint(manifest.files), learned=learned)

    @classmethod
    def read(cls, run: Path) -> "DataRecord":
        """That of a run. BundleError if it is damaged."""
        path = run / NAME
        values = read_json(path, error=BundleError, remedy=REMEDY)
        return build(cls, values, where=f"{path}: {REMEDY}", error=BundleError)


def require_same_data(run: Path, data: StoredData, config: RunConfig) -> None:
    """DataError if a run can't go on over its folder as it is now."""
    record = DataRecord.read(run)
    if record.hash != fingerprint(data.manifest.files):
        reason = _difference(record.learned, data) or _can_not_grow(config, data)
        if reason:
            raise DataError(f"{data.folder}: {reason} since the run {run} began; start a new run")


def _difference(then: LearnedRecord | None, data: StoredData) -> str:
    """How what is learned differs from what it was; empty: it doesn't."""
    if then is None:
        return "was extended or prepared anew"
    if len(data.items) < then.num_items or len(data.users) < then.num_users:
        return "was prepared anew, with fewer items or users,"
    now = LearnedRecord.of(data.folder, data.manifest, num_items=then.num_items, num_users=then.num_users)
    if now.spec != then.spec or now.split != then.split:
        return "was prepared anew, with another split, other tasks or other features,"
    if now.first_time > then.first_time and now.days != then.days:
        return "has lost days that the run learns from or sees as history"
    more = now.train.exposures + now.valid.exposures - then.train.exposures - then.valid.exposures
    if more > 0:
        return f"has got {more:,} more exposures on days that the run learns from or is validated on"
    if (now.train, now.valid, now.days) != (then.train, then.valid, then.days):
        return "has got other exposures on days that the run learns from or sees as history"
    return "" if now.values == then.values else "was prepared anew, with other items, users or values,"


def _can_not_grow(config: RunConfig, data: StoredData) -> str:
    """Why a run of these settings would learn otherwise in a folder that has grown; empty: it wouldn't."""
    if len(data.pools(config.loader.max_exposures)) > 1:
        return "has grown, and a log that is read in pools (loader.max_exposures) gives other batches then,"
    if config.train_share < 1:
        return "has grown, and train_share draws other users then,"
    if config.model.retrieves:
        return "has grown, and a retriever is validated among all its items,"
    return ""


def _files_before(folder: Path, manifest: Manifest, time: int) -> Iterator[tuple[str, str]]:
    """(name, hash) of the parts with exposures before `time`, a later extension's parts of the same day left out."""
    width = manifest.layout.days_per_part * DAY
    for name, value in manifest.files.items():
        if not name.startswith("timelines/day="):
            continue
        begin, path = first_day_of(Path(name).parts[1]) * DAY, folder / name
        if begin + width <= time or (begin < time and _first_time(path) < time):
            yield name, value
            statistics = statistics_path(folder, path).relative_to(folder).as_posix()
            if statistics in manifest.files:
                yield statistics, manifest.files[statistics]


def _first_time(part: Path) -> int:
    """The time of a part's first exposure."""
    times = pq.read_table(part, columns=["time"], partitioning=None).column("time").combine_chunks().flatten()
    return int(times.to_numpy().min())


def _hash_values(folder: Path, manifest: Manifest, tables: list[FeatureTable], sizes: list[int]) -> str:
    """Of the tables' first rows, and of the known values of feedback and of features of exposures."""
    whole = hashlib.sha256()
    for table, size in zip(tables, sizes, strict=True):
        whole.update("\n".join(map(str, np.asarray(table.ids[:size]))).encode())
        for name in sorted(table.features):
            column = table.features[name]
            for part in _first_rows(column, size):
                whole.update(np.ascontiguousarray(part).reshape(-1).data)
    coded = {f.name: f.size for f in manifest.spec.of("exposure") if f.kind in ("categorical", "multi")}
    for name, size in (coded | {f.name: f.size for f in manifest.spec.feedback}).items():
        whole.update(json.dumps([name, dict(read_vocabulary(folder, name, size))]).encode())
    return whole.hexdigest()


def _first_rows(column: Any, size: int) -> list[NDArray[Any]]:
    """The arrays of the first rows of a feature."""
    if not isinstance(column, Jagged):
        return [column[:size]]
    end = column.offsets[size]
    weights = [] if column.weights is None else [column.weights[:end]]
    return [column.offsets[: size + 1], column.values[:end], *weights]
