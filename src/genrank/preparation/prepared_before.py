"""A prepared folder to be extended: its numbers of values and fits, and its exposures around the new ones."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.data.arranging import Arranged, arrange, array, drop_duplicates, in_stored_order, take
from genrank.data.manifest import FolderLayout, Manifest
from genrank.data.timeline_files import part_table, parts_of
from genrank.data.vocabulary_files import StoredVocabulary, vocabulary_path
from genrank.preparation.admission import DAY
from genrank.preparation.buckets import BucketFindings, with_place
from genrank.preparation.fitting import FittedBefore
from genrank.preparation.staging import KnownValues
from genrank.preparation.writing import BucketCounts, count_bucket
from genrank.schema import LogSchema, Owner

REACH = {False: 3600, True: DAY}  # known later → seconds before new rows that are read at first; ours
NEW = "new"  # a row's place among the new ones; below 0 where it was there before, each with another number


@dataclass(frozen=True)
class PreparedBefore:
    """The folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def boundaries(self) -> Mapping[str, tuple[float, ...]]:
        """Those of numeric features, by name."""
        return self.manifest.boundaries

    def table(self, owner: Owner) -> pa.Table:
        """items.parquet or users.parquet."""
        return pq.ParquetFile(self.folder / f"{owner}s.parquet").read()

    def vocabulary(self, name: str) -> StoredVocabulary:
        """A vocabulary by its name."""
        return StoredVocabulary.load(vocabulary_path(self.folder, name))

    def embedding(self, name: str) -> NDArray[np.float32]:
        """(rows, dim) of a frozen embedding."""
        matrix: NDArray[np.float32] = np.load(self.folder / "embeddings" / f"{name}.npy", allow_pickle=False)
        return matrix

    def known_values(self) -> KnownValues:
        """Ids in order of row, and values in order of code of all columns but lists."""
        owners: tuple[Owner, Owner] = ("item", "user")
        ids = {owner: self.table(owner).column("id").combine_chunks().slice(1) for owner in owners}
        named = {name: part.values for name, part in self._vocabularies.items() if name not in self.lists}
        return KnownValues(ids=ids, categories=named)

    @cached_property
    def lists(self) -> dict[str, pa.Array]:
        """Multi-valued column → its values in order of code."""
        multi = {f"feature_{f.name}" for f in self.manifest.spec.of("exposure") if f.kind == "multi"}
        return {name: part.values for name, part in self._vocabularies.items() if name in multi}

    def fitted(self) -> FittedBefore:
        """Vocabularies, boundaries and means, by column."""
        spec = self.manifest.spec
        numbers = {f"feature_{f.name}": f.name for f in spec.of("exposure") if f.kind == "numeric"}
        edges = {column: self.manifest.boundaries[name] for column, name in numbers.items()}
        durations = {f"task_{task.name}": task for task in spec.tasks if task.kind == "duration"}
        return FittedBefore(
            vocabularies=self._vocabularies,
            boundaries=edges | {column: task.boundaries for column, task in durations.items()},
            means={column: task.means for column, task in durations.items()},
        )

    @cached_property
    def _vocabularies(self) -> dict[str, StoredVocabulary]:
        spec = self.manifest.spec
        names = {f"feature_{f.name}": f.name for f in spec.of("exposure") if f.kind in ("categorical", "multi")}
        names |= {f"feedback_{part.name}": part.name for part in spec.feedback}
        return {column: self.vocabulary(name) for column, name in names.items()}

    def arrange(self, number: int, table: pa.Table, schema: LogSchema) -> tuple[pa.Table, BucketFindings]:
        """See Earlier. Stored requests may continue in new rows; an exposure already stored is not written again.

        The exposures of the new rows' users are read from an hour or two before the first row on (a day where actions
        become known later), and further back if a request has lasted longer.
        """
        if not table.num_rows:
            found = arrange(table, schema.requests)
            return with_place(found, table), BucketFindings(num_recurring=0, num_late=0)
        new = _narrow(table, schema).append_column(NEW, pa.array(np.arange(table.num_rows)))
        gap, first = max(schema.requests.gap_seconds, schema.requests.max_gap_seconds), int(array(table, "time").min())
        for reach in (REACH[schema.known_later] << power for power in itertools.count()):
            begin = first - gap - reach
            old = self.exposures(number, begin=begin, users=array(table, "user"))
            both = in_stored_order(pa.concat_tables([old, new.select(old.column_names)]).combine_chunks())
            both, _ = drop_duplicates(both, but=NEW)
            before, after = arrange(old, schema.requests), arrange(both, schema.requests)
            is_new = array(after.table, NEW) >= 0
            if begin <= self.manifest.split.first_time or np.all(
                array(after.table, "request_time")[is_new] > begin + gap
            ):
                break  # every request with a new row began within reach
        place = array(after.table, NEW)
        written = np.flatnonzero(place >= 0)
        rows = pa.array(place[written])
        taken = table.take(rows).combine_chunks()
        requests = {name: after.table.column(name).take(pa.array(written)) for name in ("request", "request_time")}
        columns = {name: taken.column(name) for name in taken.column_names} | requests
        joint = Arranged(
            table=pa.table(columns),
            order=place[written],
            num_recurring=after.num_recurring - before.num_recurring,
            num_late=after.num_late - before.num_late,
        )
        return with_place(joint, table), BucketFindings(
            num_duplicates=old.num_rows + table.num_rows - both.num_rows,
            num_recurring=joint.num_recurring,
            num_late=joint.num_late,
            grown=(self._counted(after, schema, before),),
            replaced=_dropped(before.table, array(after.table, NEW)),
        )

    def _counted(self, after: Arranged, schema: LogSchema, before: Arranged | None = None) -> BucketCounts:
        counts = count_bucket(after.table, schema, self.manifest.split)
        return counts if before is None else difference(counts, count_bucket(before.table, schema, self.manifest.split))

    def exposures(self, number: int, *, begin: int, users: NDArray[np.integer] | None = None) -> pa.Table:
        """A bucket's exposures in stored order, from `begin` (seconds) on; of the given users, or of all.

        Columns: what requests and labels need, and `new`, which is below 0.
        """
        width = self.manifest.layout.days_per_part
        paths = [path for day, path in parts_of(self.folder, number) if (day + width) * DAY > begin]
        schema = self.manifest.schema
        names = _columns(schema)
        parts = [_chosen(_narrow(part_table(path, names), schema), begin, users) for path in paths]
        table = in_stored_order(pa.concat_tables(parts or [_nothing(schema)]).combine_chunks())
        table, _ = drop_duplicates(table)
        return table.append_column(NEW, pa.array(-1 - np.arange(table.num_rows)))

    def counts(self, *, first_day: int) -> Iterator[BucketCounts]:
        """What every bucket counts, of partitions that begin on `first_day` (since the epoch) or later."""
        for number in range(self.manifest.layout.num_buckets):
            found = arrange(self.exposures(number, begin=first_day * DAY), self.manifest.schema.requests)
            yield self._counted(found, self.manifest.schema)


def _dropped(before: pa.Table, left: NDArray[np.int64]) -> pa.Table | None:
    """The rows of `before` that are not left: a new row has taken their place. None if there are none."""
    gone = ~np.isin(array(before, NEW), left)
    return take(before, np.flatnonzero(gone)) if gone.any() else None


def new_parts(folder: Path, layout: FolderLayout) -> dict[tuple[int, int], int]:
    """(first day of a partition, bucket) → the number of a part to add to the existing ones."""
    numbers: dict[tuple[int, int], int] = {}
    for bucket in range(layout.num_buckets):
        for day, path in parts_of(folder, bucket):
            numbers[day, bucket] = max(numbers.get((day, bucket), 0), 1 + int(path.stem.partition("-")[2]))
    return numbers


def difference(whole: BucketCounts, part: BucketCounts) -> BucketCounts:
    """The difference of two counts."""
    return BucketCounts(
        requests=whole.requests - part.requests,
        exposures=whole.exposures - part.exposures,
        parts=tuple(one - other for one, other in zip(whole.parts, part.parts, strict=True)),
        known=tuple(
            {task: one[task] - other[task] for task in one} for one, other in zip(whole.known, part.known, strict=True)
        ),
        weights=tuple(one - other for one, other in zip(whole.weights, part.weights, strict=True)),
    )


TYPES = {
    "user": pa.int32(),
    "time": pa.int64(),
    "known_at": pa.int64(),
    "weight": pa.float32(),
    "request": pa.int64(),
    "position": pa.int32(),
    "item": pa.int32(),
    "target": pa.bool_(),
}


def _columns(schema: LogSchema) -> list[str]:
    """The columns that requests, duplicates and counts need."""
    optional = {
        "known_at": schema.known_later,
        "weight": schema.weighted,
        "request": schema.columns.request is not None,
    }
    return [name for name in TYPES if optional.get(name, True)] + [f"task_{task.name}" for task in schema.tasks]


def _narrow(table: pa.Table, schema: LogSchema) -> pa.Table:
    """Those columns of new or stored rows, alike in both."""
    constants = {"position": pa.scalar(-1, pa.int32()), "target": pa.scalar(True)}
    columns = {}
    for name in _columns(schema):
        if name in table.column_names:
            column = table.column(name).combine_chunks()
        else:
            column = pa.repeat(constants[name], table.num_rows)
        columns[name] = column.cast(TYPES.get(name, _task_type(schema, name)))
    return pa.table(columns)


def _chosen(table: pa.Table, begin: int, users: NDArray[np.integer] | None) -> pa.Table:
    """The rows from `begin` on, of these users."""
    chosen = array(table, "time") >= begin
    if users is not None and len(users):
        listed = np.zeros(max(int(users.max()), int(array(table, "user").max(initial=0))) + 1, np.bool_)
        listed[users] = True
        chosen &= listed[array(table, "user")]
    return table if chosen.all() else take(table, np.flatnonzero(chosen))


def _nothing(schema: LogSchema) -> pa.Table:
    return pa.table({name: pa.array([], TYPES.get(name, _task_type(schema, name))) for name in _columns(schema)})


def _task_type(schema: LogSchema, column: str) -> pa.DataType:
    kinds = {f"task_{task.name}": task.kind for task in schema.tasks}
    return pa.int8() if kinds.get(column) == "binary" else pa.float32()
