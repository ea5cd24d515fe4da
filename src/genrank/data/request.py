"""A request to rank, as the last request of its user's timeline: so that ranking takes the way training took.

Also the way of raw values (ids, context) to the indices that `prepare` gave them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.config import nearest
from genrank.data.exposures import request_times
from genrank.data.manifest import Manifest
from genrank.data.statistics import Events, WindowStatistics, statistics_tasks
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, gather, offsets_of
from genrank.errors import DataError, RequestError
from genrank.schema import DataSpec, FeatureSpec


def load_user(folder: Path, user: int, spec: DataSpec) -> Timelines:
    """The timeline of one user (row of users.parquet); without exposures if the user has none."""
    try:
        table = pq.read_table(folder / "timelines", filters=[("user", "==", user)], partitioning=None)
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{folder}: timelines can't be read ({problem}); run genrank prepare again") from None
    if table.num_rows == 0:
        schema = table.schema
        columns = {f.name: pa.array([user if f.name == "user" else []], f.type) for f in schema}
        table = pa.table(columns, schema=schema)
    return Timelines.from_table(table, spec)


def with_request(
    timeline: Timelines,
    *,
    time: int,
    items: NDArray[np.int64],
    features: Mapping[str, Any],
    statistics: NDArray[np.float16],
) -> Timelines:
    """One user's timeline before `time`, then a request of `items` at `time` with unknown actions.

    `features`: context of every candidate, (C) int32 indices or Jagged; `statistics`: (C, S), theirs at `time`. Only
    the request's rows are targets.
    """
    past = np.flatnonzero(timeline.time < time)
    count = len(items)
    request = int(timeline.request[past].max()) + 1 if len(past) else 0

    def extend(column: NDArray[Any], value: Any) -> NDArray[Any]:
        return np.concatenate([column[past], np.broadcast_to(np.asarray(value, column.dtype), count)])

    return replace(
        timeline,
        offsets=np.array([0, len(past) + count]),
        time=extend(timeline.time, time),
        request=extend(timeline.request, request),
        position=extend(timeline.position, -1),
        item=extend(timeline.item, items),
        target=np.arange(len(past) + count) >= len(past),
        tasks={n: extend(c, -1 if c.dtype == np.int8 else np.nan) for n, c in timeline.tasks.items()},
        censored={n: extend(c, False) for n, c in timeline.censored.items()},
        feedback={n: extend(c, 0) for n, c in timeline.feedback.items()},
        features={n: _extend_feature(c, past, features[n]) for n, c in timeline.features.items()},
        statistics=np.concatenate([timeline.statistics[past], statistics]),
        oracle={},
    )


def _extend_feature(column: Any, past: NDArray[np.int64], added: Any) -> Any:
    if isinstance(column, Jagged):
        kept = gather(column, past)
        lengths = np.concatenate([np.diff(kept.offsets), np.diff(added.offsets)])
        return Jagged(np.concatenate([kept.values, added.values]), offsets_of(lengths))
    return np.concatenate([column[past], added])


def load_statistics(folder: Path, manifest: Manifest, items: FeatureTable) -> WindowStatistics:
    """The window statistics of a prepared folder's whole log, ready for questions; `manifest` says which they are.

    Memory: 25 bytes an exposure and 17 per task, and from the first question on 8 and 24 per task for every entity
    (an exposure whose item has k values of a feature takes k times that in the feature's two).
    """
    counted = statistics_tasks(manifest.schema)
    tasks = tuple(task for task in manifest.spec.tasks if task.name in counted)
    t = Timelines.load(folder, DataSpec(features=(), tasks=tasks))
    user = t.users[t.user_of_row()]
    events = Events(
        user=user,
        item=t.item,
        time=t.time,
        request_time=request_times(user.astype(np.int64), t.request, t.time),
        target=t.target,
        labels={name: t.tasks[name] for name in counted},
    )
    return WindowStatistics(manifest.schema, events, rates=manifest.base_rates, item_features=items.features)


class ContextEncoder:
    """Raw context values (device, surface, …) to indices, with the vocabularies and boundaries of `prepare`."""

    def __init__(self, folder: Path, spec: DataSpec, boundaries: Mapping[str, Sequence[float]]):
        self.specs = spec.of("exposure")
        self.boundaries = boundaries
        self.vocabularies = {
            feature.name: _vocabulary(folder / "vocab" / f"{feature.name}.parquet")
            for feature in self.specs
            if feature.kind in ("categorical", "multi")
        }

    def encode(self, context: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Columns for `count` candidates from one value for all, or a list with one for each.

        A feature that is left out is unknown. Raises RequestError for names that are no context feature.
        """
        known = {feature.name for feature in self.specs}
        for name in context:
            if name not in known:
                raise RequestError(f"context: there is no feature {name!r}; {nearest(name, known)}")
        return {feature.name: self._column(feature, context.get(feature.name), count) for feature in self.specs}

    def _column(self, feature: FeatureSpec, value: Any, count: int) -> Any:
        if feature.kind == "multi":
            vocabulary = self.vocabularies[feature.name]
            found = [vocabulary[str(v)] for v in (value or ()) if str(v) in vocabulary]
            return Jagged(np.tile(np.array(found, np.int32), count), offsets_of(np.full(count, len(found))))
        values = value if isinstance(value, list | tuple) else [value] * count
        if len(values) != count:
            raise RequestError(
                f"context: {feature.name} has {len(values)} values for {count} candidates; give one each"
            )
        return np.array([self._index(feature, each) for each in values], np.int32)

    def _index(self, feature: FeatureSpec, value: Any) -> int:
        if value is None:
            return 0
        if feature.kind == "categorical":
            return self.vocabularies[feature.name].get(str(value), 0)
        return numeric_bucket(feature.name, value, self.boundaries[feature.name])


def numeric_bucket(name: str, value: Any, boundaries: Sequence[float]) -> int:
    """Bucket of a number: 0 where it is NaN or infinite, else 1 + its place among the boundaries."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RequestError(f"context: {name} must be a number, found {value!r}") from None
    return 1 + int(np.searchsorted(boundaries, number, side="right")) if np.isfinite(number) else 0


def _vocabulary(path: Path) -> dict[str, int]:
    table = pq.ParquetFile(path).read()
    values = table.column("value").cast(pa.string()).to_pylist()
    return dict(zip(values, table.column("index").to_pylist(), strict=True))
