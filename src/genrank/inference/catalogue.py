"""The items of a service: those of the prepared data, and those that were added or changed while it ran.

A table is never changed in place: readers keep the one they have, and `put` makes a new one, which copies every column.
So items should be sent in batches. Shapes: I items.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.config import nearest
from genrank.data.categories import Categories
from genrank.data.counted_features import as_codes
from genrank.data.manifest import Manifest
from genrank.data.request import FeatureEncoder, index_in
from genrank.data.tables import LARGEST_COMPONENT, FeatureTable
from genrank.data.timelines import gather, join_jagged
from genrank.errors import RequestError, shown
from genrank.inference.left_out import LeftOut

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item with raw features by name; embeddings are lists of numbers. Features that are left out are unknown.

    available: false for an item that must not be retrieved. It can still be ranked, and be in a history.
    """

    id: str
    features: Mapping[str, Any] = field(default_factory=dict)
    available: bool = True

    def body(self) -> str:
        """All but the id, as JSON."""
        return json.dumps(dict(self.features) if self.available else [dict(self.features), self.available])

    @classmethod
    def parse(cls, name: str, body: str) -> "Item":
        """The item whose `body` this is. ValueError and TypeError for another text."""
        content = json.loads(body)
        features, available = (content, True) if isinstance(content, dict) else content
        if not isinstance(features, dict) or not isinstance(available, bool):
            raise TypeError("expected features by name")
        return cls(id=name, features=features, available=available)


class Catalogue:
    """Items by id. Safe to use from several threads."""

    def __init__(self, table: FeatureTable, folder: Path, manifest: Manifest):
        """folder: a prepared folder or a bundle, which has the vocabularies."""
        self.table, self.version, self._prepared = table, 0, len(table)
        self.revisions = np.zeros(len(table), np.int64)
        self.available = np.ones(len(table), np.bool_)  # may be retrieved
        self.encoder = FeatureEncoder(folder, manifest, "item")
        self.embeddings = {f.name: f.dim for f in manifest.spec.of("item") if f.kind == "embedding"}
        self._rows = {name: row for row, name in enumerate(table.ids.to_pylist()) if row}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_added(self) -> int:
        """Items that were added to those of the prepared data."""
        return len(self.table) - self._prepared

    def ids_of(self, rows: Ints) -> list[str]:
        """The id of every row."""
        ids: list[str] = self.table.ids.take(pa.array(rows)).to_pylist()
        return ids

    def find(self, ids: Sequence[str]) -> Ints:
        """Row of every id, 0 if there is none."""
        rows = self._rows
        return np.array([rows.get(name, 0) for name in ids], np.int64)

    def vocabulary(self, name: str) -> Categories:
        """The vocabulary of a categorical or multi-valued feature. RequestError for another name."""
        found = self.encoder.vocabularies.get(name)
        if found is None:
            raise RequestError(
                f"without: there is no item feature {shown(name)}; {nearest(name[:200], self.encoder.vocabularies)}"
            )
        return found

    def rows_with(self, name: str, values: Sequence[Any]) -> Ints:
        """Rows that have one of the values of a categorical or multi-valued feature. RequestError for another name."""
        vocabulary = self.vocabulary(name)
        if not isinstance(values, list | tuple):
            raise RequestError(f"without: {name} must be a list of values, found {shown(values)}; put it in a list")
        found = [index_in(vocabulary.index, value, f"without: {name}") for value in values]
        wanted = [index for index in found if index]
        column = self.table.features[name]
        if not isinstance(column, Jagged):
            return np.flatnonzero(np.isin(column, wanted))
        row_of_value = np.repeat(np.arange(len(self.table)), np.diff(column.offsets))
        return np.unique(row_of_value[np.isin(column.values, wanted)])

    def put(self, items: Sequence[Item]) -> int:
        """Add items, or replace the features of known ones; returns how many were new. All or none: RequestError."""
        items = list({item.id: item for item in items}.values())
        for item in items:
            self.check(item)
        with self._lock:
            return self._put(items)

    def put_readable(self, items: Sequence[Item], left_out: LeftOut) -> list[Item]:
        """Put the stored items whose values fit this schema, and returns them; the others are noted in `left_out`.

        They may have been stored under another schema: features that this one lacks are ignored.
        """
        readable: dict[str, Item] = {}
        for item in map(self.with_known_features, items):
            try:
                self.check(item)
                readable[item.id] = item
            except RequestError as problem:
                left_out.item(item.id, str(problem))
        if readable:
            with self._lock:
                self._put(list(readable.values()))
        return list(readable.values())

    def over(self, prepared: Mapping[str, Any], code_of: Mapping[str, NDArray[np.int32]]) -> dict[str, Any]:
        """The given codes of the prepared items, and those of the items that were added or changed here.

        `code_of`: the code of every index of a feature.
        """
        with self._lock:
            rows, changed, features = np.arange(len(self.table)), self.revisions > 0, self.table.features
            source = np.where(changed, self._prepared + rows, rows)
            return {
                name: _rejoin(column, as_codes(features[name], code_of[name]), source)
                for name, column in prepared.items()
            }

    def with_known_features(self, item: Item) -> Item:
        """The item without features that this schema lacks."""
        known = {spec.name for spec in self.encoder.specs} | set(self.embeddings)
        return replace(item, features={name: value for name, value in item.features.items() if name in known})

    def check(self, item: Item) -> None:
        """RequestError if an item has no id, a feature that the schema doesn't have, or a value of another kind."""
        if not item.id:
            raise RequestError("an item's id is empty; give every item one")
        embeddings = {name: value for name, value in item.features.items() if name in self.embeddings}
        self.encoder.check({name: value for name, value in item.features.items() if name not in embeddings})
        self.encoder.encode_each([item.features])
        for name, value in embeddings.items():
            _vector(item.id, name, value, self.embeddings[name])

    def _put(self, items: Sequence[Item]) -> int:
        new = [item for item in items if item.id not in self._rows]
        fresh = {item.id: len(self.table) + place for place, item in enumerate(new)}
        # The source of every row's features: a row of the old table, or a larger number for one of `items`.
        source = np.concatenate([np.arange(len(self.table)), np.zeros(len(new), np.int64)])
        place = np.array([fresh.get(item.id) or self._rows[item.id] for item in items], np.int64)
        source[place] = len(self.table) + np.arange(len(items))
        features = {name: _rejoin(column, self._column(name, items), source)
                    for name, column in self.table.features.items()}  # fmt: skip
        added = len(new)
        self.table = replace(
            self.table,
            ids=pa.concat_arrays([self.table.ids, pa.array([item.id for item in new], self.table.ids.type)]),
            features=features,
            first_time=np.concatenate([self.table.first_time, np.full(added, -1)]),
            train_count=np.concatenate([self.table.train_count, np.zeros(added, np.int64)]),
        )
        self.version += 1
        self.revisions = np.concatenate([self.revisions, np.zeros(added, np.int64)])
        self.revisions[place] = self.version
        available = np.concatenate([self.available, np.ones(added, np.bool_)])
        available[place] = [item.available for item in items]
        self.available = available
        self._rows |= fresh  # after the table that has them; in place, because copying all names takes too long
        return added

    def _column(self, name: str, items: Sequence[Item]) -> Any:
        if name in self.embeddings:
            return np.stack([_vector(i.id, name, i.features.get(name), self.embeddings[name]) for i in items])
        named = [{**item.features, "item_id": item.id} for item in items]
        return self.encoder.encode_each(named)[name]


def _rejoin(old: Any, new: Any, source: Ints) -> Any:
    """Rows of `old` followed by `new`."""
    if isinstance(old, Jagged):
        return gather(join_jagged([old, new]), source, widen=False)
    return np.concatenate([old, new.astype(old.dtype)])[source]


def _vector(item: str, name: str, value: Any, size: int) -> NDArray[np.float32]:
    if value is None:
        return np.zeros(size, np.float32)
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        vector = np.zeros(0, np.float32)
    if vector.shape != (size,) or not (np.abs(vector) <= LARGEST_COMPONENT).all():
        found = f"{len(value)} values" if isinstance(value, list | tuple) else shown(value)
        raise RequestError(f"item {shown(item)}: {name} must be {size} numbers from -1e15 to 1e15, found {found}")
    return vector
