"""The manifest of a prepared folder: its content, its source and the hashes of its files.

docs/architecture.md describes the folder. `prepare` writes the manifest; every reader begins with `Manifest.open`.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrank.config import build, to_dict
from genrank.data.integrity import FolderHashes
from genrank.documents import read_json
from genrank.errors import DataError, shown
from genrank.journal import complete_change
from genrank.schema import DataSpec, LogSchema, fingerprint

FORMAT = 4
READABLE = (3, 4)  # format 3 is read, and can't be extended
FILE_NAME = "manifest.json"


WarningKind = Literal["leakage", "values", "times", "keys", "requests", "tasks"]


@dataclass(frozen=True, kw_only=True)
class DataWarning:
    """A finding about a log that may be a mistake. `leakage`: no comparison on the data can be trusted."""

    kind: WarningKind
    message: str


@dataclass(frozen=True, kw_only=True)
class SplitTimes:
    """Where the parts begin: training < valid_start <= validation < test_start <= test. Epoch seconds, UTC.

    train_start: exposures before it are history only; test_end: those after it are not used; None: the log's ends.
    """

    valid_start: int
    test_start: int
    first_time: int
    last_time: int
    train_start: int | None = None
    test_end: int | None = None

    def times(self, part: str) -> tuple[int | None, int | None]:
        """Where the requests of `train`, `valid` or `test` begin and end; None: with the log."""
        return {
            "train": (self.train_start, self.valid_start),
            "valid": (self.valid_start, self.test_start),
            "test": (self.test_start, self.test_end),
        }[part]


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """Size of one part of the split: target exposures, their requests, and positives per binary task."""

    exposures: int
    requests: int
    positives: dict[str, int]

    def __add__(self, other: "PartCounts") -> "PartCounts":
        positives = {task: number + other.positives[task] for task, number in self.positives.items()}
        exposures, requests = self.exposures + other.exposures, self.requests + other.requests
        return PartCounts(exposures=exposures, requests=requests, positives=positives)

    def __sub__(self, other: "PartCounts") -> "PartCounts":
        positives = {task: number - other.positives[task] for task, number in self.positives.items()}
        exposures, requests = self.exposures - other.exposures, self.requests - other.requests
        return PartCounts(exposures=exposures, requests=requests, positives=positives)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Size of the data. `exposures` and `requests` include those that are history only."""

    users: int
    items: int
    requests: int
    exposures: int
    train: PartCounts
    valid: PartCounts
    test: PartCounts


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """How timelines are spread over files: users over `num_buckets`, days of UTC over partitions of `days_per_part`.

    `last_day` (days since the epoch): later ones may be added; that of format 3 is -1.
    """

    num_buckets: int
    days_per_part: int
    last_day: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a prepared folder's manifest; docs/architecture.md describes the fields."""

    genrank_version: str
    schema: LogSchema
    spec: DataSpec
    split: SplitTimes
    counts: Counts
    boundaries: dict[str, tuple[float, ...]]
    dropped: dict[str, int]
    warnings: tuple[DataWarning, ...]
    files: dict[str, str]
    source: dict[str, Any]
    layout: FolderLayout = field(default_factory=lambda: FolderLayout(num_buckets=0, days_per_part=0, last_day=-1))
    late_actions: int = 0  # exposures whose actions were known only after their user's next request
    base_rates: dict[str, float] = field(
        default_factory=dict
    )  # of the training part, per task of the window statistics
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def open(cls, folder: Path) -> "Manifest":
        """The manifest of a prepared folder, after verifying all files. Every reader begins with it. DataError."""
        complete_change(Path(folder), about=FILE_NAME)
        manifest = cls.load(folder)
        try:
            manifest.verify(folder)
        except DataError:
            newer = cls.load(folder)
            if newer == manifest:
                raise
            newer.verify(folder)  # it was extended while this was reading
            return newer
        return manifest

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """The manifest in `folder`, no other file is verified. DataError if missing, damaged or of another format."""
        path = Path(folder) / FILE_NAME
        values = _read(path)
        found = values.get("format")
        if found not in READABLE:
            raise DataError(f"{path}: expected format {FORMAT}, found {shown(found)}; run genrank prepare again")
        whole = values.pop("manifest_hash", None)  # older folders have none
        hashes = {"manifest_hash": whole or fingerprint(values)}
        # Over the file's fields only: a version with more settings reads the file with their defaults.
        computed = {"manifest_hash": fingerprint(values)}
        hashes |= {name: values.pop(name, None) for name in ("schema_hash", "spec_hash")}
        computed |= {f"{name}_hash": fingerprint(values.get(name)) for name in ("schema", "spec")}
        manifest = build(cls, values, where=str(path), error=DataError)
        for name in ("schema_hash", "spec_hash", "manifest_hash"):
            if hashes[name] != computed[name]:
                raise DataError(f"{path}: {name} doesn't match its contents; it was edited; run genrank prepare again")
        return manifest

    def save(self, folder: Path) -> None:
        """Writes the manifest into `folder`."""
        values = to_dict(self)
        values["schema_hash"] = fingerprint(values["schema"])
        values["spec_hash"] = self.spec.fingerprint()
        values["manifest_hash"] = fingerprint(values)
        text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False)
        (Path(folder) / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    def verify(self, folder: Path) -> None:
        """Compares every file with its hash, once. DataError names the first one missing, damaged or unlisted."""
        whole = FolderHashes(files=self.files, about=FILE_NAME, error=DataError, remedy="run genrank prepare again")
        whole.check(Path(folder))


def _read(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise DataError(f"{path.parent}: no prepared data here (no {FILE_NAME}); run genrank prepare first")
    values: dict[str, Any] = read_json(path, error=DataError, remedy="run genrank prepare again")
    return values
