"""items.parquet and users.parquet: one row per item or user, its features as codes, its embeddings beside it."""

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.data.manifest import DataWarning, SplitTimes
from genrank.data.timeline_files import WEIGHTS
from genrank.data.vocabulary_files import NEVER, StoredVocabulary, vocabulary_path
from genrank.preparation.admission import DAY, PeriodCounts, Periods, admit, first_sight
from genrank.preparation.content_embeddings import SideData, embedding_matrix
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.logs import Relations, feature_column
from genrank.preparation.staging import Identities, with_id
from genrank.preparation.vocabulary import MultiCodes, bucket_of, multi_codes, quantile_edges, split_values
from genrank.preparation.weighted import split_weighted
from genrank.schema import Feature, FeatureSpec, LogSchema, Owner


@dataclass(frozen=True, kw_only=True)
class Entities:
    """The result of writing one owner's files. `boundaries`: by numeric feature."""

    specs: tuple[FeatureSpec, ...]
    boundaries: dict[str, tuple[float, ...]]
    warnings: tuple[DataWarning, ...]


class EntitiesBefore(Protocol):
    """Items and users of the folder that is extended."""

    @property
    def boundaries(self) -> Mapping[str, tuple[float, ...]]:
        """The boundaries by numeric feature."""
        ...

    def table(self, owner: Owner) -> pa.Table:
        """The folder's items.parquet or users.parquet."""
        ...

    def vocabulary(self, name: str) -> StoredVocabulary:
        """A vocabulary of the folder."""
        ...

    def embedding(self, name: str) -> NDArray[np.float32]:
        """The matrix of a frozen embedding."""
        ...


@dataclass(frozen=True, kw_only=True)
class EntityWriter:
    """Writes items or users. `log`: the clean log with the columns of the schema; `folder`: side files' folder.

    `before`: the folder that is extended, and its boundaries; its rows stay, and new ones follow them.
    """

    engine: Engine
    schema: LogSchema
    relations: Relations
    log: Callable[[], Expression]
    folder: Path
    periods: Periods
    split: SplitTimes
    before: EntitiesBefore | None = None

    def write(self, owner: Owner, ids: Identities, shown: PeriodCounts, out: Path) -> Entities:
        """Writes `<owner>s.parquet`, vocabularies and embeddings below `out`.

        `shown`: how often every row was shown in each period; features are fitted on the rows that training shows.
        """
        features = [feature for feature in self.schema.features if feature.owner == owner]
        min_count = self.schema.item_min_count if owner == "item" else self.schema.user_min_count
        side = self._side(owner)
        rows = self._rows(owner, ids, features, side)
        old = self.before.table(owner) if self.before is not None else None
        first_time = _merged_times(rows.column("first_time"), old)
        columns: dict[str, Any] = {
            "id": rows.column("id").combine_chunks(),
            "first_time": pa.array(first_time, mask=first_time == NEVER),
            "train_count": pa.array(self._train_count(shown, old)),
            f"{owner}_id": pa.array(np.arange(len(rows), dtype=np.int32)),
        }
        vocabulary = admit(
            columns["id"].slice(1), shown, self.periods, min_count=min_count, known=self._known(f"{owner}_id")
        )
        vocabulary.write(vocabulary_path(out, f"{owner}_id"))
        size = vocabulary.size_at(self.split.valid_start)
        specs = [FeatureSpec(name=f"{owner}_id", owner=owner, kind="categorical", size=size)]
        fitting = _Fitting(
            first_time=first_time,
            appeared=_appeared(first_time, old),
            from_table=side.rows is not None,
            periods=self.periods,
            valid_start=self.split.valid_start,
        )
        boundaries, warnings = {}, []
        for feature in features:
            if feature.kind == "embedding":
                matrix, found = embedding_matrix(feature, rows, side)
                if old is not None and self.before is not None:
                    matrix = np.concatenate([self.before.embedding(feature.name), matrix[old.num_rows :]])
                np.save(out / "embeddings" / f"{feature.name}.npy", matrix, allow_pickle=False)
                specs.append(FeatureSpec(name=feature.name, owner=owner, kind="embedding", dim=matrix.shape[1]))
                warnings += [DataWarning(kind="keys", message=message) for message in found]
                continue
            column = rows.column(feature.name).combine_chunks()
            if feature.kind == "numeric":
                edges = self.before.boundaries[feature.name] if self.before is not None else None
                column, edges = fitting.numbers(feature, column, edges)
                columns[feature.name] = _behind(old, feature.name, pa.array(column))
                boundaries[feature.name], size = edges, len(edges) + 2
            else:
                coded, vocabulary = fitting.categories(feature, column, old, self._known(feature.name))
                columns |= coded
                vocabulary.write(vocabulary_path(out, feature.name))
                size = vocabulary.size_at(self.split.valid_start)
            weighted = feature.weights is not None
            specs.append(FeatureSpec(name=feature.name, owner=owner, kind=feature.kind, size=size, weighted=weighted))
        pq.write_table(pa.table(columns), out / f"{owner}s.parquet")
        return Entities(specs=tuple(specs), boundaries=boundaries, warnings=tuple(warnings))

    def _train_count(self, shown: PeriodCounts, old: pa.Table | None) -> NDArray[np.int64]:
        """(rows) exposures in training."""
        counts = shown.until(int((self.periods.ends <= self.split.valid_start).sum()))
        if old is not None:
            counts[: old.num_rows] += old.column("train_count").to_numpy()
        return counts

    def _known(self, name: str) -> StoredVocabulary | None:
        return self.before.vocabulary(name) if self.before is not None else None

    def _side(self, owner: Owner) -> SideData:
        table = self.schema.tables.item if owner == "item" else self.schema.tables.user
        return SideData(engine=self.engine, rows=self.relations.of(owner), table=table, folder=self.folder)

    def _rows(self, owner: Owner, ids: Identities, features: list[Feature], side: SideData) -> pa.Table:
        """id, first_time in this log and the features' values of every row; row 0 has nulls, and so have known rows."""
        columns = [feature for feature in features if feature.file is None]
        rows = ids.rows
        if columns:
            from_log = side.rows is None or side.table is None
            values = self._from_log(owner, ids, columns) if from_log else self._from_table(owner, side, columns)
            names = {feature.name: values[feature.name] for feature in columns}
            key = rows.row if from_log else rows.id
            rows = rows.left_join(values, key == values.genrank_key).select(
                id=rows.id, row=rows.row, first_time=rows.first_time, **names
            )
        table = self.engine.fetch(rows.order_by("row")).drop_columns("row")
        unknown = pa.table({field.name: pa.nulls(1, field.type) for field in table.schema}, schema=table.schema)
        return pa.concat_tables([unknown, table])

    def _from_table(self, owner: Owner, side: SideData, features: list[Feature]) -> Expression:
        assert side.table is not None
        keyed = with_id(side.rows, side.table, f"tables.{owner}")
        values = {feature.name: _value(keyed, feature) for feature in features}
        return keyed.select(genrank_key=keyed.genrank_id, **values)

    def _from_log(self, owner: Owner, ids: Identities, features: list[Feature]) -> Expression:
        """Without a side table: the values at the first exposure that has any, the smallest ones where they differ."""
        log = self.log()
        values = {feature.name: _value(log, feature) for feature in features}
        shown = log.select(genrank_id=log[f"genrank_{owner}"], genrank_time=log.genrank_time, **values)
        shown = shown.filter(functools.reduce(operator.or_, (shown[name].notnull() for name in values)))
        keys = ids.keys.view()
        first = shown.inner_join(keys, shown.genrank_id == keys.key)
        first = first.select(genrank_row=keys.row, genrank_time=shown.genrank_time, **{n: shown[n] for n in values})
        earliest = first.group_by(genrank_key=first.genrank_row).aggregate(start=first.genrank_time.min())
        both = first.inner_join(
            earliest, [first.genrank_row == earliest.genrank_key, first.genrank_time == earliest.start]
        )
        both = both.select(earliest.genrank_key, **{name: first[name] for name in values})
        return both.group_by("genrank_key").aggregate(**{name: both[name].min() for name in values})


def _value(table: Expression, feature: Feature) -> Any:
    value = feature_column(table, feature)
    return value.cast("string") if feature.kind == "categorical" else value


@dataclass(frozen=True, kw_only=True)
class _Fitting:
    """Side features of R rows. `first_time`: (R); `appeared`: the rows that this log is the first to show."""

    first_time: NDArray[np.int64]
    appeared: NDArray[np.int64]
    from_table: bool
    periods: Periods
    valid_start: int

    def numbers(
        self, feature: Feature, column: pa.Array, edges: tuple[float, ...] | None
    ) -> tuple[NDArray[np.int32], tuple[float, ...]]:
        """(R) buckets of a numeric feature, and its boundaries: those given, or those of the rows in training."""
        values = column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
        if edges is None:
            trained = self.first_time < self.valid_start
            edges = feature.boundaries or quantile_edges(values[trained], feature.num_buckets)
        return bucket_of(values, edges), edges

    def categories(
        self, feature: Feature, column: pa.Array, old: pa.Table | None, known: StoredVocabulary | None
    ) -> tuple[dict[str, pa.Array], StoredVocabulary]:
        """The columns of a categorical or multi-valued feature as codes, and its vocabulary."""
        lists, weights = _as_lists(feature, column)
        num_old = 0 if old is None else old.num_rows
        values = self._values(lists.slice(num_old), num_old, known)
        codes = multi_codes(lists, values)
        columns = {feature.name: _coded(feature, codes)}
        if weights is not None:
            columns[feature.name + WEIGHTS] = weights
        columns = {name: _behind(old, name, part) for name, part in columns.items()}
        counts = PeriodCounts(len(values) + 1, len(self.periods))
        shown = columns[feature.name].take(pa.array(self.appeared))
        period = self.periods.of_times(self.first_time[self.appeared])
        if feature.kind == "multi":
            counts.add(shown.flatten().to_numpy(), np.repeat(period, pc.list_value_length(shown).to_numpy()))
        else:
            counts.add(shown.to_numpy(), period)
        most = feature.max_values if feature.kind == "multi" else None
        vocabulary = admit(values, counts, self.periods, min_count=feature.min_count, known=known, max_values=most)
        return columns, vocabulary

    def _values(self, lists: pa.ListArray, first_row: int, known: StoredVocabulary | None) -> pa.Array:
        """All values in order of code: by the day on which a row with it was first shown, at once where they are from
        a side table."""
        flat = lists.flatten().cast(pa.string())
        row = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy()) + first_row
        days = np.full(len(flat), -1) if self.from_table else self.first_time[row] // DAY
        values = first_sight([flat], [days])
        if known is None:
            return values
        return pa.concat_arrays([known.values, values.filter(pc.invert(pc.is_in(values, known.values)))])


def _as_lists(feature: Feature, column: pa.Array) -> tuple[pa.ListArray, pa.ListArray | None]:
    """The feature's values per row, one or none of a categorical one, and their weights."""
    if feature.kind == "multi":
        if feature.weights is not None:
            return split_weighted(column, feature)
        return split_values(column, feature.separator), None
    counts = column.is_valid().to_numpy(zero_copy_only=False).astype(np.int32)
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), column.drop_null().cast(pa.string())), None


def _coded(feature: Feature, codes: MultiCodes) -> pa.Array:
    if feature.kind == "multi":
        return pa.ListArray.from_arrays(pa.array(codes.offsets), pa.array(codes.codes))
    plain = np.zeros(len(codes.offsets) - 1, np.int32)
    plain[codes.rows] = codes.codes
    return pa.array(plain)


def _behind(old: pa.Table | None, name: str, column: pa.Array) -> pa.Array:
    """The column with the known rows' values as they were."""
    if old is None:
        return column
    before = old.column(name).combine_chunks()
    return pa.concat_arrays([before.cast(column.type), column.slice(len(before))])


def _merged_times(column: pa.ChunkedArray, old: pa.Table | None) -> NDArray[np.int64]:
    """(rows) when each was first shown, in this log or before; NEVER: not yet."""
    times = np.array(column.cast(pa.int64()).fill_null(NEVER).to_numpy(), np.int64)
    if old is not None:
        before = old.column("first_time").fill_null(NEVER).to_numpy()
        times[: len(before)] = np.minimum(times[: len(before)], before)
    return times


def _appeared(first_time: NDArray[np.int64], old: pa.Table | None) -> NDArray[np.int64]:
    """The rows that are shown now and were not before."""
    shown = first_time != NEVER
    if old is not None:
        shown[: old.num_rows] &= np.asarray(old.column("first_time").is_null())
    return np.flatnonzero(shown)
