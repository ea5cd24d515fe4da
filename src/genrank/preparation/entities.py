"""items.parquet and users.parquet: one row per item or user, its features as indices, its embeddings beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.data.manifest import DataWarning
from genrank.data.timeline_files import WEIGHTS
from genrank.preparation.content_embeddings import SideData, embedding_matrix
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.logs import Relations, feature_column
from genrank.preparation.staging import Identities, with_id
from genrank.preparation.vocabulary import (
    Vocabulary,
    bucket_of,
    count_codes,
    encode,
    multi_codes,
    quantile_edges,
    split_values,
)
from genrank.preparation.weighted import split_weighted
from genrank.schema import Feature, FeatureSpec, LogSchema, Owner


@dataclass(frozen=True, kw_only=True)
class Entities:
    """What was written for one owner."""

    specs: tuple[FeatureSpec, ...]
    boundaries: dict[str, tuple[float, ...]]
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True, kw_only=True)
class EntityWriter:
    """Writes items or users. `log`: the clean log with the columns of the schema; `folder`: side files' folder."""

    engine: Engine
    schema: LogSchema
    relations: Relations
    log: Callable[[], Expression]
    folder: Path

    def write(self, owner: Owner, ids: Identities, train_count: NDArray[np.int64], out: Path) -> Entities:
        """Writes `<owner>s.parquet`, vocabularies and embeddings below `out`.

        `train_count`: (rows) exposures in training; features are fitted on the rows that have any.
        """
        features = [feature for feature in self.schema.features if feature.owner == owner]
        side = self._side(owner)
        rows = self._rows(owner, ids, features, side)
        trained = np.asarray(train_count > 0)
        row_ids = rows.column("id").combine_chunks()
        min_count = self.schema.item_min_count if owner == "item" else self.schema.user_min_count
        vocabulary = Vocabulary.fit(row_ids.slice(1), train_count, min_count=min_count)
        vocabulary.write(out / "vocab" / f"{owner}_id.parquet")
        columns: dict[str, Any] = {
            "id": row_ids,
            "first_time": rows.column("first_time"),
            "train_count": pa.array(train_count),
            f"{owner}_id": pa.array(vocabulary.index_of_code),
        }
        specs = [FeatureSpec(name=f"{owner}_id", owner=owner, kind="categorical", size=vocabulary.size)]
        boundaries, warnings = {}, []
        for feature in features:
            if feature.kind == "embedding":
                matrix, found = embedding_matrix(feature, rows, side)
                np.save(out / "embeddings" / f"{feature.name}.npy", matrix, allow_pickle=False)
                specs.append(FeatureSpec(name=feature.name, owner=owner, kind="embedding", dim=matrix.shape[1]))
                warnings += [DataWarning(kind="keys", message=message) for message in found]
                continue
            column = rows.column(feature.name).combine_chunks()
            fitted, size, edges = fit_feature(feature, column, trained, out / "vocab")
            columns |= fitted
            weighted = feature.weights is not None
            specs.append(FeatureSpec(name=feature.name, owner=owner, kind=feature.kind, size=size, weighted=weighted))
            if feature.kind == "numeric":
                boundaries[feature.name] = edges
        pq.write_table(pa.table(columns), out / f"{owner}s.parquet")
        return Entities(specs=tuple(specs), boundaries=boundaries, warnings=tuple(warnings))

    def _side(self, owner: Owner) -> SideData:
        table = self.schema.tables.item if owner == "item" else self.schema.tables.user
        return SideData(engine=self.engine, rows=self.relations.of(owner), table=table, folder=self.folder)

    def _rows(self, owner: Owner, ids: Identities, features: list[Feature], side: SideData) -> pa.Table:
        """id, first_time and the features' values of every row; row 0 has nulls."""
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
        """Without a side table: the values at the first exposure, the smallest ones where they differ."""
        log = self.log()
        values = {feature.name: _value(log, feature) for feature in features}
        shown = log.select(genrank_id=log[f"genrank_{owner}"], genrank_time=log.genrank_time, **values)
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


def fit_feature(
    feature: Feature, column: pa.Array, trained: NDArray[np.bool_], vocab: Path
) -> tuple[dict[str, pa.Array], int, tuple[float, ...]]:
    """A side feature's columns, the number of its indices, and a numeric one's boundaries.

    Its vocabulary goes to `vocab`.
    """
    if feature.kind == "numeric":
        values = column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
        edges = feature.boundaries or quantile_edges(values[trained], feature.num_buckets)
        return {feature.name: pa.array(bucket_of(values, edges))}, len(edges) + 2, edges
    if feature.kind == "categorical":
        values, codes = encode(column)
        vocabulary = Vocabulary.fit(values, count_codes(codes[trained], len(values)), min_count=feature.min_count)
        columns = {feature.name: pa.array(vocabulary.index_of_code[codes])}
    else:
        lists, weights = split_values(column, feature.separator), None
        if feature.weights is not None:
            lists, weights = split_weighted(column, feature)
        values, _ = encode(lists.flatten())
        multi = multi_codes(lists, values)
        counts = count_codes(multi.codes[trained[multi.rows]], len(values))
        vocabulary = Vocabulary.fit(values, counts, min_count=feature.min_count)
        index = vocabulary.index_of_code
        columns = {feature.name: multi.mapped(index, max_values=feature.max_values)}
        if weights is not None:
            columns[feature.name + WEIGHTS] = multi.beside(weights, index, max_values=feature.max_values)
    vocabulary.write(vocab / f"{feature.name}.parquet")
    return columns, vocabulary.size, ()
