"""A request to rank, as the last request of its user's timeline: ranking uses the same code as training.

Also encodes raw values (ids, context) as the indices that `prepare` assigned.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.config import nearest
from genrank.data.categories import intended
from genrank.data.counted_features import counted_features
from genrank.data.manifest import Manifest
from genrank.data.past_counts import PastCounts
from genrank.data.statistics import Events, statistics_tasks
from genrank.data.timeline_files import load_timelines
from genrank.data.timelines import Timelines, gather, joined, offsets_of
from genrank.data.vocabulary_files import read_vocabulary
from genrank.data.weights import LARGEST_WEIGHT
from genrank.data.window_statistics import WindowStatistics
from genrank.errors import RequestError, shown
from genrank.schema import DataSpec, FeatureSpec, Owner


def with_request(
    timeline: Timelines,
    *,
    time: int,
    items: NDArray[np.int64],
    features: Mapping[str, Any],
    statistics: NDArray[np.float16],
) -> Timelines:
    """One user's timeline as known before `time`, then a request of `items` at `time` with unknown actions.

    `features`: context of every candidate, (C) int32 indices or Jagged; `statistics`: (C, S), of every candidate at
    `time`. Only the request's rows are targets.
    """
    past = timeline.take(np.flatnonzero(timeline.known_time < time))
    request = int(past.request.max()) + 1 if past.num_exposures else 0
    asked = exposures(
        timeline, len(items), time=time, request=request, item=items, features=features, statistics=statistics
    )
    seen = replace(past, target=np.zeros(past.num_exposures, np.bool_))
    return joined([seen, asked], one_user=True)


def exposures(
    like: Timelines,
    count: int,
    *,
    time: Any,
    request: Any,
    item: Any,
    features: Mapping[str, Any],
    known_at: Any = None,
    position: Any = -1,
    tasks: Mapping[str, Any] | None = None,
    censored: Mapping[str, Any] | None = None,
    feedback: Mapping[str, Any] | None = None,
    statistics: NDArray[np.float16] | None = None,
) -> Timelines:
    """`count` exposures of one user, with the columns of `like`; columns not given are unknown.

    Each argument is an array of `count` values or one value for all; `features` are columns. All are targets.
    """

    def column(value: Any, old: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(value, old.dtype), count).copy()

    def columns(values: Mapping[str, Any] | None, old: Mapping[str, NDArray[Any]], unknown: Any) -> dict[str, Any]:
        given = values or {}
        return {name: column(given.get(name, unknown(each)), each) for name, each in old.items()}

    return Timelines(
        users=like.users,
        offsets=np.array([0, count]),
        time=column(time, like.time),
        request=column(request, like.request),
        position=column(position, like.position),
        item=column(item, like.item),
        target=np.ones(count, np.bool_),
        tasks=columns(tasks, like.tasks, lambda each: -1 if each.dtype == np.int8 else np.nan),
        censored=columns(censored, like.censored, lambda _: False),
        feedback=columns(feedback, like.feedback, lambda _: 0),
        features=features,
        statistics=np.zeros((count, like.statistics.shape[1]), np.float16) if statistics is None else statistics,
        oracle={},
        known_at=None if like.known_at is None else column(time if known_at is None else known_at, like.known_at),
        request_time=None if like.request_time is None else column(time, like.request_time),
        weight=None if like.weight is None else np.ones(count, np.float32),
    )


def load_statistics(folder: Path, manifest: Manifest) -> WindowStatistics:
    """The window statistics of a prepared folder's whole log, to be looked up; `manifest` has their settings.

    Memory: 25 bytes per exposure and 17 per task of it; from the first lookup on also at most 8, and 24 per task, for
    every entity (k times that in a feature's two entities if the exposure's item has k values of it; exposures of one
    key and second count as one).
    """
    events = load_events(folder, manifest)
    features = counted_features(folder, manifest.schema)
    return WindowStatistics(manifest.schema, events, rates=manifest.base_rates, item_features=features)


def load_recent_statistics(folder: Path, manifest: Manifest) -> tuple[int, WindowStatistics] | None:
    """The same for requests from a time on (seconds), two days before the log's last day, by the folder's totals.

    None where its totals were counted in another way than by `manifest`, or it has none. Memory: see past_counts.py.
    """
    past = PastCounts.open(folder, manifest)
    if past is None:
        return None
    log = WindowStatistics(
        manifest.schema,
        Events.none(manifest.schema),
        rates=manifest.base_rates,
        item_features=counted_features(folder, manifest.schema),
        past=past,
    )
    return past.until, log


def load_events(folder: Path, manifest: Manifest, *, until: int | None = None) -> Events:
    """The events of a prepared folder that window statistics count; only requests before `until` (seconds) if given."""
    counted = statistics_tasks(manifest.schema)
    tasks = tuple(task for task in manifest.spec.tasks if task.name in counted)
    t = load_timelines(folder, DataSpec(features=(), tasks=tasks, known_later=manifest.spec.known_later))
    user, request_time = t.users[t.user_of_row()], t.request_time
    assert request_time is not None  # timelines from files have it
    events = Events(
        user=user,
        item=t.item,
        time=t.known_time,
        request_time=request_time,
        target=t.target,
        labels={name: t.tasks[name] for name in counted},
    )
    return events if until is None else events.take(np.flatnonzero(request_time < until))


class FeatureEncoder:
    """Encodes raw features of one owner (an exposure's device, an item's topic) as the indices of `prepare`.

    `folder` holds the vocabularies. Embeddings are left out.
    """

    def __init__(self, folder: Path, manifest: Manifest, owner: Owner):
        self.what = "context" if owner == "exposure" else owner
        self.specs = [feature for feature in manifest.spec.of(owner) if feature.kind != "embedding"]
        self.boundaries = {name: tuple(map(intended, edges)) for name, edges in manifest.boundaries.items()}
        self.null_values = manifest.schema.null_values
        self.features = {feature.name: feature for feature in manifest.schema.features}
        self.vocabularies = {
            feature.name: read_vocabulary(folder, feature.name, feature.size)
            for feature in self.specs
            if feature.kind in ("categorical", "multi")
        }

    def encode(self, context: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Columns for `count` candidates from one value for all, or a list with one for each.

        A missing feature is unknown. Raises RequestError for names that are no context feature, and for values of the
        wrong kind.
        """
        self.check(context)
        return {feature.name: self._column(feature, context.get(feature.name), count) for feature in self.specs}

    def encode_each(self, contexts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Columns from one mapping of features per row. Names that are no feature are ignored."""
        return {feature.name: self._columns(feature, [c.get(feature.name) for c in contexts]) for feature in self.specs}

    def check(self, context: Mapping[str, Any]) -> None:
        """RequestError for names that are no feature of this owner."""
        known = {feature.name for feature in self.specs}
        for name in context:
            if name not in known:
                raise RequestError(f"{self.what}: there is no feature {shown(name)}; {nearest(name[:200], known)}")

    def of_each(self, context: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """The context, marked so that `encode` reads the values of `names` as lists with one value per candidate.

        A list of text could also be one multi-valued feature's values for all. Raises RequestError.
        """
        multi = {feature.name: feature for feature in self.specs if feature.kind == "multi" and feature.name in names}
        return {
            name: [self._values(multi[name], each) for each in value] if name in multi else value
            for name, value in context.items()
        }

    def of_some(self, context: Mapping[str, Any], places: NDArray[np.int64], count: int) -> dict[str, Any]:
        """The context of the candidates at these places of `count`: lists with one value each are cut to them.

        Raises RequestError for a list of another length. See `encode`.
        """
        chosen = dict(context)
        for feature in self.specs:
            value: Any = context.get(feature.name)
            if _one_each(feature, value):
                _check_count(feature, value, count)
                chosen[feature.name] = [value[place] for place in places.tolist()]
        return chosen

    def _column(self, feature: FeatureSpec, value: Any, count: int) -> Any:
        if not _one_each(feature, value):  # read once for all candidates: a list may be long
            return gather(self._columns(feature, [value]), np.zeros(count, np.int64), widen=False)
        _check_count(feature, value, count)
        return self._columns(feature, value)

    def _columns(self, feature: FeatureSpec, values: Sequence[Any]) -> Any:
        if feature.kind == "multi":
            return self._lists(feature, values)
        return np.array([self._index(feature, each) for each in values], np.int32)

    def _lists(self, feature: FeatureSpec, values: Sequence[Any]) -> Jagged:
        """Rows of known values, with the same limit as in `prepare`."""
        rows = [
            list(self._weights(feature, given).items())[: self.features[feature.name].max_values] for given in values
        ]
        flat = [pair for row in rows for pair in row]
        return Jagged(
            np.array([index for index, _ in flat], np.int32),
            offsets_of(np.array([len(row) for row in rows], np.int64)),
            np.array([weight for _, weight in flat], np.float32) if feature.weighted else None,
        )

    def _weights(self, feature: FeatureSpec, given: Any) -> dict[int, float]:
        """Index of every known value → weight: of an object, or of a list (weights 1)."""
        where, separator = f"{self.what}: {feature.name}", self.features[feature.name].separator
        vocabulary, values, weights = self.vocabularies[feature.name], self._values(feature, given), dict[int, float]()
        weighted = isinstance(values, Mapping)
        for value in values:
            weight = _weight(f"{where}: {shown(value)}", values[value]) if weighted else 1.0
            for part in value.split(separator) if isinstance(value, str) and separator is not None else [value]:
                part = part.strip() if isinstance(part, str) else part
                found = index_in(vocabulary.index_of_key if weighted else vocabulary.index, part, where)
                weights.setdefault(found, weight)
        weights.pop(0, None)
        return weights

    def _values(self, feature: FeatureSpec, given: Any) -> Any:
        """A multi-valued feature's values: a list, or an object if they have weights. RequestError otherwise."""
        if given is None:
            return []
        if isinstance(given, str) and self.features[feature.name].separator is not None:
            return [] if given in self.null_values else [given]
        if isinstance(given, list | tuple) or (isinstance(given, Mapping) and feature.weighted):
            return given
        wanted = "a list of values" + (", or an object of values and their weights" if feature.weighted else "")
        raise RequestError(f"{self.what}: {feature.name} must be {wanted}, found {shown(given)}")

    def _index(self, feature: FeatureSpec, value: Any) -> int:
        where = f"{self.what}: {feature.name}"
        if value is None:
            return 0
        if feature.kind == "categorical":
            return index_in(self.vocabularies[feature.name].index, value, where)
        return numeric_bucket(where, value, self.boundaries[feature.name])


def index_in(find: Callable[[Any], int], value: Any, where: str) -> int:
    """Index of a category by a method of Categories; RequestError if it can't be one. where: the feature."""
    try:
        return find(value)
    except ValueError as problem:
        raise RequestError(f"{where}: {problem}; send one plain value") from None


def _one_each(feature: FeatureSpec, value: Any) -> bool:
    """Whether the value is a list with one for each candidate. A multi-valued feature's own values are plain."""
    many = isinstance(value, list | tuple)
    return many and (feature.kind != "multi" or any(isinstance(each, list | tuple | Mapping) for each in value))


def _check_count(feature: FeatureSpec, values: Any, count: int) -> None:
    if len(values) != count:
        raise RequestError(f"context: {feature.name} has {len(values)} values for {count} candidates; give one each")


def _weight(name: str, value: Any) -> float:
    weight = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
    if not 0 <= weight <= LARGEST_WEIGHT:
        raise RequestError(f"{name} must have a weight that is a number from 0 to 1e18, found {shown(value)}")
    return weight


def numeric_bucket(name: str, value: Any, boundaries: Sequence[float]) -> int:
    """Bucket of a number: 0 if it is NaN or infinite, else 1 + its place among the boundaries (`intended` ones)."""
    try:
        number = intended(float(value))
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{name} must be a number, found {shown(value)}; leave it out if it is unknown") from None
    return 1 + int(np.searchsorted(boundaries, number, side="right")) if np.isfinite(number) else 0
