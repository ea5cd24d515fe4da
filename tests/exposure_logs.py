"""Tiny exposure logs for tests of preparation, and what came out of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrank.batch import Jagged
from genrank.data.manifest import Manifest
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import WEIGHTS, load_timelines
from genrank.data.vocabulary_files import StoredVocabulary
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.schema import Columns, LogSchema, Owner, Task

START = 1_600_000_000
CLICK = Task(name="click", kind="binary", column="click")
SCHEMA = LogSchema(name="tiny", columns=Columns(user="user", item="item", time="time"), tasks=(CLICK,))


@dataclass(frozen=True)
class Prepared:
    """A prepared folder and its manifest."""

    folder: Path
    manifest: Manifest

    def table(self, name: str) -> pa.Table:
        """A Parquet file of the folder; of items and users, with the indices that training knows for codes."""
        if name in ("items.parquet", "users.parquet"):
            return self._entities("item" if name == "items.parquet" else "user")
        return pq.ParquetFile(self.folder / name).read()

    def _entities(self, owner: Owner) -> pa.Table:
        table = FeatureTable.load(self.folder, owner, self.manifest.spec)
        stored = pq.read_table(self.folder / f"{owner}s.parquet", columns=["id", "first_time", "train_count"])
        columns = {name: stored.column(name) for name in stored.column_names}
        for name, column in table.features.items():
            if isinstance(column, Jagged):
                columns |= _lists(name, column)
            elif column.ndim == 1:
                columns[name] = pa.array(column)
        return pa.table(columns)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per exposure in order of user and time, with the ids of user and item, and indices for values."""
        users, items = (self.table(f"{owner}s.parquet")["id"].to_pylist() for owner in ("user", "item"))
        t = load_timelines(self.folder, self.manifest.spec)
        columns: dict[str, Any] = {"user": pa.array(t.users[t.user_of_row()]), "item": pa.array(t.item)}
        for name in ("time", "known_at", "weight", "request", "position", "target"):
            if getattr(t, name) is not None:
                columns[name] = pa.array(getattr(t, name))
        for prefix, group in (("task", t.tasks), ("censored", t.censored), ("feedback", t.feedback)):
            columns |= {f"{prefix}_{name}": pa.array(column) for name, column in group.items()}
        columns |= {f"oracle_{name}": pa.array(column) for name, column in t.oracle.items()}
        for name, column in t.features.items():
            named = f"feature_{name}"
            columns |= _lists(named, column) if isinstance(column, Jagged) else {named: pa.array(column)}
        rows = [row | {"user": users[row["user"]], "item": items[row["item"]]} for row in pa.table(columns).to_pylist()]
        return sorted(rows, key=lambda row: row["user"])

    def vocabulary(self, name: str) -> list[tuple[str, int, int]]:
        """(value, index, count) of what training knows, in order of index."""
        stored = StoredVocabulary.load(self.folder / "vocab" / f"{name}.parquet")
        known = np.flatnonzero((stored.index > 0) & (stored.admitted <= self.manifest.split.valid_start))
        rows = known[np.argsort(stored.index[known])]
        values = stored.values.take(pa.array(rows)).to_pylist()
        return list(zip(values, stored.index[rows].tolist(), stored.count[rows].tolist(), strict=True))

    def bytes(self) -> dict[str, bytes]:
        """Every file but the manifest and the note that all was found whole."""
        but = ("manifest.json", ".verified")
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.name not in but]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


def _lists(name: str, column: Jagged) -> dict[str, pa.Array]:
    offsets = pa.array(column.offsets.astype(np.int32))
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(column.values))}
    if column.weights is not None:
        lists[name + WEIGHTS] = pa.ListArray.from_arrays(offsets, pa.array(column.weights))
    return lists


def messages(manifest: Manifest) -> tuple[str, ...]:
    """What the manifest warns of."""
    return tuple(warning.message for warning in manifest.warnings)


def log(num_rows: int = 60, **columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """A log of 4 users and 10 items, a second apart; every third exposure is clicked. `columns` replace or add."""
    rows = range(num_rows)
    plain: dict[str, Sequence[Any]] = {
        "user": [f"u{row % 4}" for row in rows],
        "item": [f"i{row * 7 % 10}" for row in rows],
        "time": [START + row for row in rows],
        "click": [int(row % 3 == 0) for row in rows],
    }
    return plain | columns


def prepare_log(
    folder: Path,
    rows: dict[str, Sequence[Any]] | pa.Table,
    schema: LogSchema = SCHEMA,
    options: PrepareOptions | None = None,
    **changes: Any,
) -> Prepared:
    """The log written as Parquet in `folder` and prepared; `changes` replace parts of the schema."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    pq.write_table(table, folder / "log.parquet")
    source = files([folder / "log.parquet"], schema=replace(schema, **changes), folder=folder)
    out = folder / "prepared"
    options = options or PrepareOptions(threads=2, memory_limit="1GB", num_buckets=2)
    return Prepared(out, prepare(source, out=out, options=options))


def shuffled(columns: dict[str, Sequence[Any]], seed: int = 0) -> dict[str, Sequence[Any]]:
    """The same rows in another order."""
    order = np.random.default_rng(seed).permutation(len(next(iter(columns.values()))))
    return {name: [values[row] for row in order] for name, values in columns.items()}
