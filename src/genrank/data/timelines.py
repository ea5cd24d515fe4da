"""Timelines in memory: every user's exposures in the order in which they became known, as flat columns with offsets.

Shapes: U users, N exposures. Row n belongs to user u where offsets[u] <= n < offsets[u + 1]. The columns are those of
docs/architecture.md, "timelines".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.schema import DataSpec


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """The exposures of U users, N rows, sorted by (user, known time, time, request, position).

    An exposure is known, with its actions, at `known_at`; None: each at its `time`. `request_time` is the time of its
    request's first exposure, even if that one is not yet known or not among the rows; None: of the first one here.
    """

    users: NDArray[np.int32]  # (U) row of users.parquet
    offsets: NDArray[np.int64]  # (U + 1)
    time: NDArray[np.int64]  # (N) seconds since the epoch
    request: NDArray[np.int32]  # (N) numbered per user
    position: NDArray[np.int32]  # (N) slot in the feed, -1 unknown
    item: NDArray[np.int32]  # (N) row of items.parquet
    target: NDArray[np.bool_]  # (N)
    tasks: Mapping[str, NDArray[Any]]  # (N) int8 or float32
    censored: Mapping[str, NDArray[np.bool_]]  # (N) per duration task
    feedback: Mapping[str, NDArray[np.int32]]  # (N)
    features: Mapping[str, Any]  # (N) int32, or Jagged
    statistics: NDArray[np.float16]  # (N, S) window statistics at each exposure's request
    oracle: Mapping[str, NDArray[np.float32]]  # (N) simulated logs only
    known_at: NDArray[np.int64] | None = None  # (N) seconds since the epoch, at least `time`
    request_time: NDArray[np.int64] | None = None  # (N) seconds since the epoch
    weight: NDArray[np.float32] | None = None  # (N) the number of exposures that each represents; None: one

    @property
    def num_exposures(self) -> int:
        """N."""
        return len(self.time)

    @property
    def known_time(self) -> NDArray[np.int64]:
        """(N) seconds since the epoch: a request of a later second sees the exposure."""
        return self.time if self.known_at is None else self.known_at

    def user_of_row(self) -> NDArray[np.int64]:
        """(N) index into `users` of every exposure."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    @classmethod
    def empty(cls, spec: DataSpec, user: int) -> "Timelines":
        """The timeline of a user (row of users.parquet) without exposures."""
        none = np.zeros(0, np.int32)
        jagged = Jagged(none, np.zeros(1, np.int64))
        weighted = replace(jagged, weights=none.astype(np.float32))
        return cls(
            users=np.array([user], np.int32),
            offsets=np.zeros(2, np.int64),
            time=none.astype(np.int64),
            request=none,
            position=none,
            item=none,
            target=none.astype(np.bool_),
            tasks={t.name: none.astype(np.int8 if t.kind == "binary" else np.float32) for t in spec.tasks},
            censored={t.name: none.astype(np.bool_) for t in spec.tasks if t.kind == "duration"},
            feedback={part.name: none for part in spec.feedback},
            features={
                f.name: none if f.kind != "multi" else weighted if f.weighted else jagged for f in spec.of("exposure")
            },
            statistics=np.zeros((0, len(spec.statistics)), np.float16),
            oracle={},
            known_at=none.astype(np.int64) if spec.known_later else None,
            request_time=none.astype(np.int64),
            weight=none.astype(np.float32) if spec.weighted else None,
        )

    def of_user(self, index: int) -> "Timelines":
        """One user's timeline, as views."""
        begin, end = int(self.offsets[index]), int(self.offsets[index + 1])
        rows = slice(begin, end)
        return replace(
            self,
            users=self.users[index : index + 1],
            offsets=np.array([0, end - begin]),
            **_columns(self, lambda column: _slice(column, begin, end)),
            statistics=self.statistics[rows],
        )

    def take(self, rows: NDArray[np.int64]) -> "Timelines":
        """The given rows of a single user's timeline, in that order. Their known times must not fall."""
        return replace(
            self,
            offsets=np.array([0, len(rows)]),
            **_columns(self, lambda column: gather(column, rows, widen=False)),
            statistics=self.statistics[rows],
        )

    def of_users(self, chosen: NDArray[np.bool_]) -> "Timelines":
        """The timelines of the chosen users. `chosen`: (U)."""
        lengths = np.diff(self.offsets)
        found = self.where(np.repeat(chosen, lengths))
        return replace(found, users=self.users[chosen], offsets=offsets_of(lengths[chosen]))

    def where(self, chosen: NDArray[np.bool_]) -> "Timelines":
        """The chosen exposures of all users. `chosen`: (N). Users stay, with fewer or none."""
        rows = np.flatnonzero(chosen)
        return replace(
            self,
            offsets=offsets_of(chosen)[self.offsets],
            **_columns(self, lambda column: gather(column, rows, widen=False)),
            statistics=self.statistics[rows],
        )

    def at_once(self) -> "Timelines":
        """The same with every action known at the time of its exposure, as in a log without known times.

        Window statistics stay as they are.
        """
        order = np.lexsort((self.position, self.request, self.time, self.user_of_row()))
        columns = _columns(self, lambda column: gather(column, order, widen=False))
        return replace(
            self,
            **{
                **columns,
                "known_at": None,
                "oracle": {name: column[order] for name, column in self.oracle.items()},
                "statistics": self.statistics[order],
            },
        )


def joined(parts: Sequence[Timelines], *, one_user: bool = False) -> Timelines:
    """All parts, concatenated: parts of one user, in order, or one part per user."""
    return joined_and_freed(list(parts), one_user=one_user)


def joined_and_freed(parts: list[Timelines], *, one_user: bool = False) -> Timelines:
    """As `joined`. The list is emptied: a column of the parts is freed as soon as it has been copied."""
    if len(parts) == 1:
        return parts.pop()
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    users = parts[0].users if one_user else np.concatenate([part.users for part in parts])
    columns = [_columns(part, lambda column: column) | {"statistics": part.statistics} for part in parts]
    parts.clear()
    return Timelines(
        users=users,
        offsets=offsets_of(lengths.sum(keepdims=True) if one_user else lengths),
        **{name: _join([column.pop(name) for column in columns]) for name in tuple(columns[0])},
    )


def _columns(t: Timelines, change: Callable[[Any], Any]) -> dict[str, Any]:
    """The columns with a value per exposure, changed. The oracle's columns are left out."""
    plain = {name: change(getattr(t, name)) for name in ("time", "request", "position", "item", "target")}
    optional = {name: getattr(t, name) for name in ("known_at", "request_time", "weight")}
    plain |= {name: None if column is None else change(column) for name, column in optional.items()}
    groups = ("tasks", "censored", "feedback", "features")
    return plain | {name: {key: change(v) for key, v in getattr(t, name).items()} for name in groups} | {"oracle": {}}


def _join(columns: Sequence[Any]) -> Any:
    if columns[0] is None:
        return None
    if isinstance(columns[0], dict):
        return {name: _join([column.pop(name) for column in columns]) for name in tuple(columns[0])}
    if isinstance(columns[0], Jagged):
        return join_jagged(columns)
    return np.concatenate(columns)


def join_jagged(columns: Sequence[Jagged]) -> Jagged:
    """The rows of all columns, concatenated."""
    lengths = np.concatenate([np.diff(column.offsets) for column in columns])
    weights = None if columns[0].weights is None else np.concatenate([column.weights for column in columns])
    return Jagged(np.concatenate([column.values for column in columns]), offsets_of(lengths), weights)


def _slice(column: Any, begin: int, end: int) -> Any:
    if isinstance(column, Jagged):
        offsets = column.offsets[begin : end + 1]
        kept = slice(int(offsets[0]), int(offsets[-1]))
        weights = None if column.weights is None else column.weights[kept]
        return Jagged(column.values[kept], offsets - offsets[0], weights)
    return column[begin:end]


def gather(column: Any, rows: NDArray[np.int64], *, widen: bool = True) -> Any:
    """The given rows of a feature column, in that order; indices become int64 if `widen`."""
    if isinstance(column, Jagged):
        starts, lengths = column.offsets[rows], np.diff(column.offsets)[rows]
        places = ranges(starts, lengths)
        values, weights = column.values[places], None if column.weights is None else column.weights[places]
        return Jagged(values.astype(np.int64) if widen else values, offsets_of(lengths), weights)
    taken = column[rows]
    return taken.astype(np.int64) if widen and taken.dtype != np.float32 else taken


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concatenation of arange(start, start + length), vectorised."""
    total = int(lengths.sum())
    first = np.repeat(starts - offsets_of(lengths)[:-1], lengths)
    rows: NDArray[np.int64] = first + np.arange(total)
    return rows


def offsets_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Offsets, one more than there are lengths."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
