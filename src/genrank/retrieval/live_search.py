"""The index of a running service: items are rows of its item table, and can be added, changed and removed.

Most items are in a large flat index. Items that were added or changed since it was built are in a small second one, in
float32, and their older vectors in the first are masked. When the second has grown, both are built again as one.
Readers keep the snapshot that they began with, so that no search waits for a build.

Shapes: Q queries, I items, K results, W width, R rows of the item table.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genrank.retrieval.item_search import FlatSearch, Precision, SearchResult

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
NOWHERE = -1
MIN_REBUILD = 1024  # least number of items in the small part at which both parts are built as one


@dataclass(frozen=True)
class _Part:
    """One of the two indexes. stale: items that must no longer be found in it."""

    rows: Ints
    embedded: Floats
    search: FlatSearch
    stale: Mask


@dataclass(frozen=True)
class _Snapshot:
    built: _Part
    added: _Part | None
    place_of_row: Ints  # (R) position among built, then added; NOWHERE if not in the index

    @property
    def parts(self) -> list[_Part]:
        return [self.built] if self.added is None else [self.built, self.added]


class LiveIndex:
    """Items by row of the item table. Safe to use from several threads."""

    def __init__(self, rows: Ints, embedded_IW: Floats, *, vectors: Callable[[Floats], Floats], precision: Precision):
        """vectors: from embedded items to the vectors of inner products. ValueError if one is not finite."""
        self.vectors, self.precision = vectors, precision
        self._lock = threading.Lock()
        self._now = self._built(np.asarray(rows, np.int64), embedded_IW)

    def __len__(self) -> int:
        return sum(int((~part.stale).sum()) for part in self._now.parts)

    def search(
        self, queries_QW: Floats, k: int, *, excluded: Sequence[Ints] | None = None, allowed: Mask | None = None
    ) -> tuple[SearchResult, "EmbeddedItems"]:
        """The best rows of every query, best first, -1 if there are fewer, and the items' embeddings.

        excluded: rows that may not be found, per query. allowed: (R), rows that may be found; rows after its end may
        not.
        """
        now = self._now
        found = [
            _search(part, now.place_of_row, offset, queries_QW, k, excluded, allowed) for part, offset in _placed(now)
        ]
        return _merged(found, k), EmbeddedItems(now)

    def put(self, rows: Ints, embedded_NW: Floats) -> None:
        """Add items, or change known ones. ValueError if a vector is not finite."""
        with self._lock:
            now = self._without(self._now, rows)
            old_rows, old = np.zeros(0, np.int64), embedded_NW[:0]
            if now.added is not None:
                old_rows, old = now.added.rows[~now.added.stale], now.added.embedded[~now.added.stale]
            rows, embedded = np.concatenate([old_rows, rows]), np.concatenate([old, embedded_NW])
            kept = ~now.built.stale
            if len(rows) > max(MIN_REBUILD, kept.sum() // 10):
                self._now = self._built(
                    np.concatenate([now.built.rows[kept], rows]), np.concatenate([now.built.embedded[kept], embedded])
                )
                return
            place = _room(now.place_of_row, rows)
            place[rows] = len(now.built.rows) + np.arange(len(rows))
            self._now = _Snapshot(now.built, self._part(rows, embedded, "float32"), place)

    def remove(self, rows: Ints) -> None:
        """Remove items, until they are put again."""
        with self._lock:
            self._now = self._without(self._now, rows)

    def _without(self, now: _Snapshot, rows: Ints) -> _Snapshot:
        known = rows[rows < len(now.place_of_row)]
        places = now.place_of_row[known]
        size = len(now.built.rows)
        built = _staled(now.built, places[(places != NOWHERE) & (places < size)])
        added = now.added if now.added is None else _staled(now.added, places[places >= size] - size)
        place_of_row = now.place_of_row.copy()
        place_of_row[known] = NOWHERE
        return _Snapshot(built, added, place_of_row)

    def _built(self, rows: Ints, embedded: Floats) -> _Snapshot:
        place = _room(np.zeros(0, np.int64), rows)
        place[rows] = np.arange(len(rows))
        return _Snapshot(self._part(rows, embedded, self.precision), None, place)

    def _part(self, rows: Ints, embedded: Floats, precision: Precision) -> _Part:
        search = FlatSearch(self.vectors(embedded), precision=precision)
        return _Part(rows, embedded, search, np.zeros(len(rows), np.bool_))


class EmbeddedItems:
    """The embeddings of a search's rows."""

    def __init__(self, snapshot: _Snapshot):
        self._of = snapshot

    def __call__(self, rows: Ints) -> Floats:
        """(…, W); zeros for rows that are not in the index, such as -1."""
        now = self._of
        inside = (rows >= 0) & (rows < len(now.place_of_row))
        places = np.where(inside, now.place_of_row[np.where(inside, rows, 0)], NOWHERE)
        found = np.zeros((*rows.shape, now.built.embedded.shape[1]), np.float32)
        for part, offset in _placed(now):
            mine = (places >= offset) & (places < offset + len(part.rows))
            found[mine] = part.embedded[places[mine] - offset]
        return found


def _placed(now: _Snapshot) -> list[tuple[_Part, int]]:
    """Every part and the position of its first item."""
    return list(zip(now.parts, (0, len(now.built.rows)), strict=False))


def _search(
    part: _Part,
    place_of_row: Ints,
    offset: int,
    queries: Floats,
    k: int,
    excluded: Sequence[Ints] | None,
    allowed: Mask | None,
) -> SearchResult:
    may = ~part.stale
    if allowed is not None:
        inside = part.rows < len(allowed)
        may = may & inside & allowed[np.where(inside, part.rows, 0)]
    hidden = None
    if excluded is not None:
        hidden = []
        for rows in excluded:
            places = place_of_row[rows[(rows >= 0) & (rows < len(place_of_row))]] - offset
            hidden.append(places[(places >= 0) & (places < len(part.rows))])
    found = part.search(queries, k, excluded=hidden, allowed=None if may.all() else may)
    return SearchResult(np.where(found.rows < 0, -1, part.rows[found.rows]), found.scores)


def _merged(found: Sequence[SearchResult], k: int) -> SearchResult:
    if len(found) == 1:
        return found[0]
    rows = np.concatenate([each.rows for each in found], 1)
    scores = np.concatenate([each.scores for each in found], 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return SearchResult(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def _staled(part: _Part, places: Ints) -> _Part:
    if not len(places):
        return part
    stale = part.stale.copy()
    stale[places] = True
    return replace(part, stale=stale)


def _room(place_of_row: Ints, rows: Ints) -> Ints:
    """A copy that is large enough for every row."""
    size = max(len(place_of_row), int(rows.max(initial=-1)) + 1)
    return np.concatenate([place_of_row, np.full(size - len(place_of_row), NOWHERE)])
