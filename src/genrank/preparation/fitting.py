"""Fits the split, counts of ids and categories, and boundaries; boundaries on the training part.

Works on arranged buckets, one after another, as NumPy columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.arranging import array
from genrank.data.manifest import SplitTimes
from genrank.data.vocabulary_files import StoredVocabulary
from genrank.errors import ConfigError, LogError
from genrank.preparation.admission import PeriodCounts, Periods, admit
from genrank.preparation.vocabulary import bucket_of, multi_codes, quantile_edges
from genrank.schema import LogSchema

SAMPLE = 2**23  # values that a quantile is taken over at most, evenly spaced in the order of users and times


class Sample:
    """Every `step`-th of the values that are added, so that quantiles of any log fit in memory."""

    def __init__(self, total: int) -> None:
        self.step = max(1, -(-total // SAMPLE))
        self._skip = 0
        self._parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        """Adds values in their order."""
        self._parts.append(values[self._skip :: self.step].copy())
        self._skip = (self._skip - len(values)) % self.step

    def values(self) -> NDArray[Any]:
        """The values kept."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0)


def split_times(schema: LogSchema, times: NDArray[np.int64], first_time: int, last_time: int) -> SplitTimes:
    """Where the parts begin. `times`: those of (a sample of) the target exposures.

    Raises ConfigError for starts that aren't dates, LogError if a requested part has no exposures.
    """
    split = schema.split
    if split.valid_start is not None and split.test_start is not None:
        starts = tuple(
            _start(value, name, schema.time.zone)
            for value, name in ((split.valid_start, "valid_start"), (split.test_start, "test_start"))
        )
        wanted = (True, starts[0] != starts[1], True)
        if starts[0] > starts[1]:
            raise ConfigError("split: valid_start is after test_start; swap them")
    else:
        fractions = (1 - split.valid_fraction - split.test_fraction, 1 - split.test_fraction)
        starts = tuple(_quantile(times, fraction) for fraction in fractions)
        wanted = (True, split.valid_fraction > 0, split.test_fraction > 0)
    part = np.searchsorted(np.array(starts), times, side="right")
    for name, number in (("training", 0), ("validation", 1), ("test", 2)):
        if wanted[number] and not np.any(part == number):
            raise LogError(
                f"split: the {name} part has no exposures (validation from {_date(starts[0])}, test from "
                f"{_date(starts[1])}, the log from {_date(first_time)} to {_date(last_time)}); "
                "set split.valid_start and split.test_start, or other fractions"
            )
    return SplitTimes(valid_start=starts[0], test_start=starts[1], first_time=first_time, last_time=last_time)


def _quantile(times: NDArray[np.int64], fraction: float) -> int:
    """The smallest time with at least this fraction of the times before it or, at fraction 1, beyond them all."""
    if fraction >= 1:
        return int(times.max()) + 1
    return int(np.ceil(np.quantile(times, fraction)))


def _start(value: str | int, name: str, zone: str | None) -> int:
    if isinstance(value, int):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ConfigError(f"split.{name}: expected an ISO date or epoch seconds, found {value!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone or "UTC"))).timestamp())


def _date(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Exposures' vocabularies and boundaries by column, and how often users and items were shown in each period."""

    vocabularies: dict[str, StoredVocabulary]
    boundaries: dict[str, tuple[float, ...]]
    means: dict[str, tuple[float, ...]]  # of the training part's values in each bucket
    users: PeriodCounts
    items: PeriodCounts


@dataclass(frozen=True, kw_only=True)
class FittedBefore:
    """The fit of a folder that is extended, by column: vocabularies grow, the rest stays."""

    vocabularies: dict[str, StoredVocabulary]
    boundaries: dict[str, tuple[float, ...]]
    means: dict[str, tuple[float, ...]]


def fit(
    buckets: Iterable[pa.Table],
    schema: LogSchema,
    *,
    values: dict[str, pa.Array],
    num_rows: dict[str, int],
    periods: Periods,
    valid_start: int,
    before: FittedBefore | None = None,
) -> Fitted:
    """Counts values by period, and fits boundaries to the training part, unless `before` has them.

    `values`: category or multi-valued column → its values in order of code; `num_rows`: rows of "user" and "item"
    tables, and "log".
    """
    counts = {name: PeriodCounts(len(part) + 1, len(periods)) for name, part in values.items()}
    counts |= {name: PeriodCounts(num_rows[name], len(periods)) for name in ("user", "item")}
    numbers = {name: Sample(num_rows["log"]) for name in _number_columns(schema)} if before is None else {}
    for bucket in buckets:
        time = array(bucket, "time")
        period = periods.of_times(time)
        for name, sample in numbers.items():
            sample.add(_finite(array(bucket, name)[time < valid_start]))
        for name, count in counts.items():
            count.add(*_codes(bucket, name, values, period))
    edges = {
        name: boundaries or quantile_edges(numbers[name].values(), num_buckets)
        for name, (boundaries, num_buckets) in _number_columns(schema).items()
        if name in numbers
    }
    means = {name: bucket_means(sample.values(), edges[name]) for name, sample in numbers.items()}
    old = before.vocabularies if before is not None else {}
    vocabularies = {}
    for name, part in values.items():
        min_count, most = _limits(schema)[name]
        vocabularies[name] = admit(
            part, counts[name], periods, min_count=min_count, known=old.get(name), max_values=most
        )
    return Fitted(
        vocabularies=vocabularies,
        boundaries=edges if before is None else before.boundaries,
        means=means if before is None else before.means,
        users=counts["user"],
        items=counts["item"],
    )


def _limits(schema: LogSchema) -> dict[str, tuple[int, int | None]]:
    """Column → its vocabulary's `min_count` and `max_values`."""
    limits: dict[str, tuple[int, int | None]] = {
        f"feedback_{part.name}": (part.min_count, None) for part in schema.feedback
    }
    for feature in schema.features:
        most = feature.max_values if feature.kind == "multi" else None
        limits[f"feature_{feature.name}"] = (feature.min_count, most)
    return limits


def bucket_means(values: NDArray[Any], boundaries: tuple[float, ...]) -> tuple[float, ...]:
    """The mean of the finite values in each bucket; an empty bucket has its nearest edge, or 0."""
    bucket = bucket_of(values, boundaries) - 1
    counts = np.bincount(bucket, minlength=len(boundaries) + 1)
    sums = np.bincount(bucket, weights=values.astype(np.float64), minlength=len(boundaries) + 1)
    edges = np.array([*boundaries[:1], *boundaries] if boundaries else [0.0])
    return tuple(float(mean) for mean in np.where(counts > 0, sums / np.maximum(counts, 1), edges))


def _number_columns(schema: LogSchema) -> dict[str, tuple[tuple[float, ...], int]]:
    """Column → (given boundaries, number of buckets) of durations and of exposures' numeric features."""
    columns: dict[str, tuple[tuple[float, ...], int]] = {
        f"task_{task.name}": ((), task.num_buckets) for task in schema.tasks if task.kind == "duration"
    }
    features = [f for f in schema.features if f.owner == "exposure" and f.kind == "numeric"]
    return columns | {f"feature_{f.name}": (f.boundaries, f.num_buckets) for f in features}


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    finite: NDArray[Any] = values[np.isfinite(values)]
    return finite


def _is_list(bucket: pa.Table, name: str) -> bool:
    return bool(pa.types.is_list(bucket.schema.field(name).type))


def _codes(
    bucket: pa.Table, name: str, values: dict[str, pa.Array], period: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The codes of a column and the period of each; of a list column, of every value."""
    if not _is_list(bucket, name):
        return array(bucket, name), period
    multi = multi_codes(bucket.column(name).combine_chunks(), values[name])
    return multi.codes, period[multi.rows]
