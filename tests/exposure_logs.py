"""Tiny exposure logs for tests of preparation, and what came out of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrank.data.manifest import Manifest
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.schema import Columns, LogSchema, Task

START = 1_600_000_000
CLICK = Task(name="click", kind="binary", column="click")
SCHEMA = LogSchema(name="tiny", columns=Columns(user="user", item="item", time="time"), tasks=(CLICK,))


@dataclass(frozen=True)
class Prepared:
    """A prepared folder and its manifest."""

    folder: Path
    manifest: Manifest

    def table(self, name: str) -> pa.Table:
        return pq.ParquetFile(self.folder / name).read()

    def rows(self) -> list[dict[str, Any]]:
        """One dict per exposure in order of user and time, with the ids of user and item."""
        users, items = (self.table(f"{owner}s.parquet")["id"].to_pylist() for owner in ("user", "item"))
        rows = []
        for path in sorted((self.folder / "timelines").glob("*/*.parquet")):
            for timeline in pq.ParquetFile(path).read().to_pylist():
                user = timeline.pop("user")
                for values in zip(*timeline.values(), strict=True):
                    row = dict(zip(timeline, values, strict=True))
                    rows.append(row | {"user": users[user], "item": items[row["item"]]})
        return sorted(rows, key=lambda row: row["user"])

    def vocabulary(self, name: str) -> list[tuple[str, int, int]]:
        table = self.table(f"vocab/{name}.parquet")
        return list(zip(*(table[column].to_pylist() for column in ("value", "index", "count")), strict=True))

    def bytes(self) -> dict[str, bytes]:
        """Every file but the manifest and the note that all was found whole."""
        but = ("manifest.json", ".verified")
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.name not in but]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


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
