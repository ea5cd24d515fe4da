"""What a log's columns mean (`LogSchema`), and what a model may know about prepared data (`DataSpec`).

`LogSchema` is the user's: a TOML file that gives the columns of an exposure log their roles. `DataSpec` is ours: the
resolved features, actions and tasks with vocabulary sizes, written to the manifest by `prepare` and stored in every
model bundle. Names of features, tasks and feedback are unique across the schema.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from genrank.config import build, to_dict
from genrank.documents import read_toml
from genrank.errors import SchemaError
from genrank.log_settings import (
    NULL_VALUES,
    SECONDS,
    CsvSettings,
    HistorySettings,
    Join,
    ListSettings,
    RequestSettings,
    Sampling,
)

Owner = Literal["item", "user", "exposure"]
FeatureKind = Literal["categorical", "multi", "numeric", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of the log by role. Optional ones are None where the log has none."""

    user: str
    item: str
    time: str
    request: str | None = None  # else: one user's exposures closer than requests.gap_seconds are one request
    position: str | None = None  # slot in the feed; orders exposures of one request, and gives a report slice
    target: str | None = None  # false: known history only, neither learned from nor evaluated
    known_at: str | None = None  # when the exposure's actions were known; see HistorySettings
    weight: str | None = None  # how many exposures one counts for, in losses and metrics; 0 or more


@dataclass(frozen=True, kw_only=True)
class Time:
    """How the time column is written. `auto` takes timestamps and ISO text as they are, and numbers as seconds."""

    unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    zone: str | None = None  # where the users' clocks are, as in Europe/Berlin; None: UTC. Hours and weekdays are its,
    #                          and so are times and dates that say no zone themselves
    format: str | None = None  # of text that is not ISO, as in "%d/%m/%Y %H:%M"

    def __post_init__(self) -> None:
        if self.format is not None and ("%" not in self.format or "%z" in self.format.lower()):
            raise ValueError(
                f"time.format: {self.format!r} is no pattern without a zone; write one as in %d/%m/%Y %H:%M:%S"
            )
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    f"time.zone: {self.zone!r} is no time zone known here; write one as in Europe/Berlin"
                ) from None


@dataclass(frozen=True, kw_only=True)
class Task:
    """An action to predict: binary, or a duration (stored in seconds)."""

    name: str
    kind: Literal["binary", "duration"]
    column: str
    threshold: float | None = None  # binary: 1 where the column is at least this (a rating, say)
    unit: Literal["s", "ms"] = "s"  # duration
    censored: str | None = None  # duration: boolean column, true where the real duration was cut off by the log
    maximum: float | None = None  # duration: seconds; longer ones count as censored here
    num_buckets: int = 16  # duration: buckets of the action embedding and of the head, at training quantiles
    group: str | None = None  # duration: a feature of the item (its length, say) within whose values D2Q ranks
    time: str | None = None  # column with the action's own time, null where there was none; see HistorySettings

    def __post_init__(self) -> None:
        if self.kind == "binary" and (self.censored is not None or self.maximum is not None):
            raise ValueError(f"task {self.name!r}: 'censored' and 'maximum' are for durations")
        if self.kind == "duration" and self.threshold is not None:
            raise ValueError(f"task {self.name!r}: 'threshold' is for binary tasks")
        if self.maximum is not None and self.maximum <= 0:
            raise ValueError(f"task {self.name!r}: maximum is {self.maximum}; it must be above 0 seconds")
        if self.kind == "binary" and self.group is not None:
            raise ValueError(f"task {self.name!r}: 'group' is for durations")
        if not 2 <= self.num_buckets <= 256:
            raise ValueError(f"task {self.name!r}: num_buckets is {self.num_buckets}; it must be 2 to 256")


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Part of the action that is known in history but not predicted (a rating, a share). Categorical."""

    name: str
    column: str
    min_count: int = 1


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A property of the item, the user or the exposure (context), known before the exposure."""

    name: str
    owner: Owner
    kind: FeatureKind
    column: str | None = None  # where owner is item or user: a column of the side table, else of the log
    min_count: int = 1  # categorical, multi: rarer values are "unknown"
    separator: str | None = None  # multi: splits text; None: the column is a list
    max_values: int = 16  # multi: values kept per row
    weights: str | None = None  # multi: a column beside `column` with a weight for every value, of 0 or more
    boundaries: tuple[float, ...] = ()  # numeric: bucket edges; empty: quantiles of the training part
    num_buckets: int = 16  # numeric, with no boundaries given
    file: str | None = None  # embedding: an .npy beside the schema, one row per row of the owner's side table,
    #                            or a Parquet with the owner's key and `column`

    def __post_init__(self) -> None:
        if self.kind == "embedding" and self.owner == "exposure":
            raise ValueError(f"feature {self.name!r}: embeddings belong to items or users")
        if self.file is not None and self.kind != "embedding":
            raise ValueError(f"feature {self.name!r}: 'file' is for embeddings")
        if self.weights is not None and self.kind != "multi":
            raise ValueError(f"feature {self.name!r}: 'weights' is for multi-valued features")
        if self.column is None and not (self.file or "").endswith(".npy"):
            raise ValueError(f"feature {self.name!r}: 'column' is missing")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"feature {self.name!r}: boundaries must increase")
        if self.num_buckets < 2:
            raise ValueError(f"feature {self.name!r}: num_buckets is {self.num_buckets}; it must be at least 2")


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A side table with one row per item or user: Parquet or CSV, the path relative to the schema file."""

    path: str
    key: str
    csv: CsvSettings | None = None  # of its text file; None: as the log's


@dataclass(frozen=True, kw_only=True)
class SideTables:
    """Side tables by owner."""

    item: SideTable | None = None
    user: SideTable | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Global split by time: training < valid_start <= validation < test_start <= test.

    Starts are ISO dates or epoch seconds; where they are absent, quantiles of the exposures' times are taken.
    """

    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    valid_start: str | int | None = None
    test_start: str | int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.valid_fraction < 1 and 0 <= self.test_fraction < 1):
            raise ValueError("valid_fraction and test_fraction must be at least 0 and below 1")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must be below 1")
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError("give both valid_start and test_start, or neither")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Window statistics that `prepare` computes point in time: see data/statistics.py."""

    enabled: bool = False
    windows: tuple[str, ...] = ("1h", "6h", "1d", "7d", "all")
    tasks: tuple[str, ...] = ()  # binary tasks; empty: all of them
    by: tuple[str, ...] = ()  # categorical or multi-valued features of the item; empty: all of them
    smoothing: float = 5.0  # pseudo-exposures at the base rate

    def __post_init__(self) -> None:
        for window in self.windows:
            if window != "all" and not re.fullmatch(r"[1-9]\d*[mhd]", window):
                raise ValueError(
                    f"statistics.windows: {window!r} is no window; write minutes, hours or days as in 6h, or all"
                )
        if not self.windows:
            raise ValueError("statistics.windows must hold at least one window")
        for setting in ("windows", "tasks", "by"):
            values = getattr(self, setting)
            if len(set(values)) != len(values):
                raise ValueError(f"statistics.{setting} must hold each of its values once")
        if self.smoothing <= 0:
            raise ValueError(f"statistics.smoothing is {self.smoothing}; it must be above 0")

    @property
    def window_seconds(self) -> tuple[int | None, ...]:
        """Seconds of every window, None for `all`."""
        return tuple(None if w == "all" else int(w[:-1]) * SECONDS[w[-1]] for w in self.windows)


@dataclass(frozen=True, kw_only=True)
class LogSchema:
    """The roles of an exposure log's columns. See docs/logs.md for a worked example."""

    name: str
    columns: Columns
    tasks: tuple[Task, ...] = ()  # none: every row is a positive event (a purchase, say); enough for retrieval
    feedback: tuple[Feedback, ...] = ()
    features: tuple[Feature, ...] = ()
    time: Time = field(default_factory=Time)
    csv: CsvSettings = field(default_factory=CsvSettings)
    null_values: tuple[str, ...] = NULL_VALUES  # words that mean "unknown" in text, ids and categories included
    lists: ListSettings = field(default_factory=ListSettings)
    join: Join = field(default_factory=Join)
    requests: RequestSettings = field(default_factory=RequestSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    sampling: Sampling = field(default_factory=Sampling)
    tables: SideTables = field(default_factory=SideTables)
    split: Split = field(default_factory=Split)
    statistics: Statistics = field(default_factory=Statistics)
    item_min_count: int = 1  # exposures in the training part below which an item has no embedding of its own
    user_min_count: int = 1
    oracle: dict[str, str] = field(default_factory=dict)  # task -> column with its true probability (simulated logs)

    def __post_init__(self) -> None:
        parts: tuple[Task | Feedback | Feature, ...] = (*self.tasks, *self.feedback, *self.features)
        names = [part.name for part in parts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice among tasks, feedback and features")
            if not name.isidentifier():
                raise ValueError(f"the name {name!r} must be letters, digits and underscores")
            if name in ("item_id", "user_id"):
                raise ValueError(f"the name {name!r} is taken by genrank's own id feature; choose another")
        binary = {task.name for task in self.tasks if task.kind == "binary"}
        if self.sampling.negative_rate != 1 and not (binary & {self.sampling.task} if self.sampling.task else binary):
            wanted = f"{self.sampling.task!r} is not a binary task" if self.sampling.task else "a binary task is needed"
            raise ValueError(f"sampling: {wanted}; there is: {', '.join(sorted(binary)) or 'none'}")
        for task in self.oracle:
            if task not in binary:
                raise ValueError(f"oracle: {task!r} is not a binary task")
        self._check_references(binary)
        self._check_history()

    def _check_references(self, binary: set[str]) -> None:
        """Names in `statistics` and in durations' `group` must be there."""
        of_item = [f for f in self.features if f.owner == "item"]
        counted = [f.name for f in of_item if f.kind in ("categorical", "multi")]
        grouping = [f.name for f in of_item if f.kind in ("categorical", "numeric")]
        wanted = [("statistics.tasks", name, sorted(binary), "binary task") for name in self.statistics.tasks]
        wanted += [("statistics.by", name, counted, "categorical feature of the item") for name in self.statistics.by]
        wanted += [
            (f"task {task.name!r}: group", task.group, grouping, "categorical or numeric feature of the item")
            for task in self.tasks
            if task.group is not None
        ]
        for setting, name, known, kind in wanted:
            if name not in known:
                raise ValueError(f"{setting}: {name!r} is no {kind}; there is: {', '.join(known) or 'none'}")
        if self.statistics.enabled:
            self._check_statistics(binary, self.statistics.by or tuple(counted))

    def _check_history(self) -> None:
        """Names in `history.lists` must be there, and say what its items are."""
        lists = self.history.lists
        if lists is None:
            return
        tasks = [task.name for task in self.tasks]
        valued = [*tasks, *(part.name for part in self.feedback)]
        valued += [feature.name for feature in self.features if feature.owner == "exposure"]
        for setting, given, known in (("labels", [*lists.labels], tasks), ("values", [*lists.values], valued)):
            for name in given:
                if name not in known:
                    kind = "task" if setting == "labels" else "task, feedback or feature of the exposure"
                    raise ValueError(
                        f"history.lists.{setting}: {name!r} is no {kind}; there is: {', '.join(known) or 'none'}"
                    )
        if tasks and not {*tasks} & {*lists.labels, *lists.values}:
            raise ValueError(
                "history.lists: no task's label is known of these items; say what was done, as in "
                f"labels = {{ {tasks[0]} = 1 }}"
            )

    def _check_statistics(self, binary: set[str], by: tuple[str, ...]) -> None:
        if not binary:
            raise ValueError("statistics.enabled: there is no binary task to count; add one under [[tasks]]")
        entities = ("item", "user", *by, *(f"user_{name}" for name in by))
        for name in by:
            if entities.count(name) > 1:
                raise ValueError(
                    f"statistics.by: the columns of feature {name!r} would have the names of others; rename it, or "
                    "name the features to count by"
                )

    @property
    def weighted(self) -> bool:
        """Whether exposures have weights."""
        return self.columns.weight is not None or self.sampling.rate_column is not None

    @property
    def known_later(self) -> bool:
        """Whether actions may become known after their exposure's time."""
        return bool(
            self.history.settle_seconds or self.columns.known_at or any(task.time is not None for task in self.tasks)
        )

    @classmethod
    def from_toml(cls, path: Path) -> "LogSchema":
        """The schema in a TOML file. Raises SchemaError with the place and the remedy."""
        values = read_toml(path, error=SchemaError, remedy="see docs/logs.md, 'The roles of columns'")
        return build(cls, values, where=str(path), error=SchemaError)


# What a model may know -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """A prepared feature. Index 0 means unknown or missing.

    `size`: number of indices, 0 included (categorical, multi, numeric buckets). `dim`: width of an embedding.
    """

    name: str
    owner: Owner
    kind: FeatureKind
    size: int = 0
    dim: int = 0
    weighted: bool = False  # multi: its values have weights


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task as prepared. `boundaries` are the durations' bucket edges in seconds: bucket b
    holds edge[b-1] <= t < edge[b]."""

    name: str
    kind: Literal["binary", "duration"]
    boundaries: tuple[float, ...] = ()
    means: tuple[float, ...] = ()  # mean duration of each bucket in the training part, one more than boundaries
    group: str = ""  # durations: the item feature whose index is the duration group
    group_quantiles: tuple[tuple[float, ...], ...] = ()  # per group index: quantiles of training durations, 0 to 1
    negative_rate: float = 1.0  # binary: the share of its negatives that the log has


@dataclass(frozen=True, kw_only=True)
class FeedbackSpec:
    """Feedback as prepared: `size` indices, 0 is unknown or missing."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """All that a model is built from. `features` includes `item_id` and `user_id`, the ids' own vocabularies."""

    features: tuple[FeatureSpec, ...]
    tasks: tuple[TaskSpec, ...]
    feedback: tuple[FeedbackSpec, ...] = ()
    statistics: tuple[str, ...] = ()  # names of the window statistics' columns, in order
    zone: str = "UTC"  # in which requests have their hour and weekday
    weighted: bool = False  # exposures have weights
    known_later: bool = False  # exposures have a known time of their own, which may lie after their time

    def of(self, owner: Owner) -> tuple[FeatureSpec, ...]:
        """The features of one owner."""
        return tuple(feature for feature in self.features if feature.owner == owner)

    def fingerprint(self) -> str:
        """A hash that two data sets share only if a model of one can read the other."""
        return fingerprint(to_dict(self))


def fingerprint(values: Any) -> str:
    """The SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
