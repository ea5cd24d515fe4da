"""What the training part decides: where the parts begin, counts of ids and categories, boundaries.

Works on arranged buckets, one after another, as NumPy columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.manifest import SplitTimes
from genrank.errors import ConfigError, LogError
from genrank.preparation.arranging import array
from genrank.preparation.vocabulary import Vocabulary, bucket_of, count_codes, multi_codes, quantile_edges
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

    Raises ConfigError for starts that aren't dates, LogError where a part that is asked for has no exposures.
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
    """Exposures' vocabularies and boundaries by column, and the training part's exposures per user and item row."""

    vocabularies: dict[str, Vocabulary]
    values: dict[str, pa.Array]  # the values of multi-valued features, in order of code
    boundaries: dict[str, tuple[float, ...]]
    means: dict[str, tuple[float, ...]]  # of the training part's values in each bucket
    user_count: NDArray[np.int64]
    item_count: NDArray[np.int64]


def fit(
    buckets: Iterable[pa.Table],
    schema: LogSchema,
    *,
    values: dict[str, pa.Array],
    num_rows: dict[str, int],
    is_training: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> Fitted:
    """Counts the training part. `values`: category or multi-valued column → its values in order of code;
    `num_rows`: rows of "user" and "item" tables, and "log"."""
    counts = {name: np.zeros(len(part) + 1, np.int64) for name, part in values.items()}
    counts |= {name: np.zeros(num_rows[name], np.int64) for name in ("user", "item")}
    numbers = {name: Sample(num_rows["log"]) for name in _number_columns(schema)}
    for bucket in buckets:
        training = is_training(array(bucket, "time"))
        for name, sample in numbers.items():
            sample.add(_finite(array(bucket, name)[training]))
        for name, count in counts.items():
            count += count_codes(_codes(bucket, name, values)[_repeat(bucket, name, training)], len(count) - 1)
    edges = {
        name: boundaries or quantile_edges(numbers[name].values(), num_buckets)
        for name, (boundaries, num_buckets) in _number_columns(schema).items()
    }
    min_counts = {f"feedback_{part.name}": part.min_count for part in schema.feedback}
    min_counts |= {f"feature_{feature.name}": feature.min_count for feature in schema.features}
    vocabularies = {n: Vocabulary.fit(part, counts[n], min_count=min_counts[n]) for n, part in values.items()}
    return Fitted(
        vocabularies=vocabularies,
        values=values,
        boundaries=edges,
        means={name: bucket_means(sample.values(), edges[name]) for name, sample in numbers.items()},
        user_count=counts["user"],
        item_count=counts["item"],
    )


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


def _codes(bucket: pa.Table, name: str, values: dict[str, pa.Array]) -> NDArray[np.int32]:
    if _is_list(bucket, name):
        return multi_codes(bucket.column(name).combine_chunks(), values[name]).codes
    return array(bucket, name)


def _repeat(bucket: pa.Table, name: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows' mask, for a list column repeated for every value."""
    if not _is_list(bucket, name):
        return mask
    offsets = bucket.column(name).combine_chunks().offsets.to_numpy()
    return np.repeat(mask, np.diff(offsets))
