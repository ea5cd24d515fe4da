"""Frozen embeddings of items or users: from a column of the side table, an .npy or a Parquet file to one matrix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.tables import LARGEST_COMPONENT
from genrank.errors import LogError, SchemaError
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.staging import with_id
from genrank.preparation.vocabulary import codes_of
from genrank.schema import Feature, SideTable

Matrix = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SideData:
    """One owner's side table, if there is any, and the folder that side files are relative to."""

    engine: Engine
    rows: Expression | None
    table: SideTable | None
    folder: Path

    def path(self, feature: Feature) -> Path:
        """The feature's side file. Raises SchemaError if it does not exist."""
        path = self.folder / str(feature.file)
        if path.is_file():
            return path
        raise SchemaError(f"feature {feature.name!r}: there is no file {path}; it is relative to the schema's folder")


def embedding_matrix(feature: Feature, rows: pa.Table, side: SideData) -> tuple[Matrix, list[str]]:
    """(rows, dim) float32 in order of `rows` (id, …), zeros if there is none, and warnings.

    Raises LogError for vectors of unequal length or with values that are not finite, naming the row.
    """
    if feature.file is None:
        ids, column = rows.column("id"), rows.column(feature.name)
        vectors, known = _from_lists(feature, column.combine_chunks(), ids)
    elif feature.file.endswith(".npy"):
        ids, vectors = _from_npy(feature, side)
        known = np.ones(len(vectors), bool)
    else:
        ids, column = _from_parquet(feature, side)
        vectors, known = _from_lists(feature, column, ids)
    odd = np.flatnonzero(known & ~(np.abs(vectors) <= LARGEST_COMPONENT).all(axis=1))
    if len(odd):
        raise LogError(
            f"feature {feature.name!r}: expected finite numbers up to 1e15, found others in the vector of "
            f"{feature.owner} {ids[int(odd[0])].as_py()!r}; replace it, or leave that {feature.owner} out"
        )
    place = codes_of(rows.column("id").combine_chunks(), _one_chunk(ids).filter(pa.array(known)))
    matrix = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors[known]])[place]
    missing = int((place[1:] == 0).sum())
    warning = f"feature {feature.name!r}: {missing} of {len(place) - 1} {feature.owner}s have no embedding (zeros)"
    return matrix, [warning] if missing else []


def _one_chunk(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _from_lists(feature: Feature, column: pa.Array, ids: pa.Array) -> tuple[Matrix, NDArray[np.bool_]]:
    """(rows, dim) vectors of a list column, and which rows have one."""
    column = column.cast(pa.list_(pa.float32()))
    known = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.diff(column.offsets.to_numpy())
    if not known.any():
        raise LogError(f"feature {feature.name!r}: no {feature.owner} of the log has a vector; check keys and column")
    dim = int(lengths[known][0])
    wrong = np.flatnonzero(known & (lengths != dim))
    if len(wrong) or dim == 0:
        row = int(wrong[0]) if len(wrong) else int(np.flatnonzero(known)[0])
        raise LogError(
            f"feature {feature.name!r}: expected vectors of {max(dim, 1)} numbers as in the first row, found "
            f"{lengths[row]} for {feature.owner} {ids[row].as_py()!r}; make them equally long"
        )
    vectors = np.zeros((len(column), dim), np.float32)
    flat = column.drop_null().flatten().fill_null(float("nan"))
    vectors[known] = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return vectors, known


def _from_npy(feature: Feature, side: SideData) -> tuple[pa.Array, Matrix]:
    path = side.path(feature)
    try:
        vectors = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as problem:
        raise LogError(f"{path}: not a readable .npy file ({problem}); save it with numpy.save") from None
    if side.rows is None or side.table is None:
        raise SchemaError(f"feature {feature.name!r}: an .npy needs [tables.{feature.owner}], whose rows it follows")
    keys = side.rows.select(id=identity(side.rows[side.table.key]).cast("string"))
    ids = side.engine.fetch(keys).column("id")
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.dtype.kind not in "fiu":
        raise LogError(
            f"{path}: expected numbers of shape ({len(ids)}, dim), a row per row of {side.table.path}, "
            f"found {vectors.dtype} of shape {vectors.shape}"
        )
    return ids, vectors.astype(np.float32)


def _from_parquet(feature: Feature, side: SideData) -> tuple[pa.Array, pa.Array]:
    path = side.path(feature)
    if side.table is None:
        raise SchemaError(f"feature {feature.name!r}: a side file needs [tables.{feature.owner}], which names its key")
    vectors = side.engine.parquet([path])
    if feature.column not in vectors.columns:
        raise SchemaError(f"{path}: there is no column {feature.column!r}; there is: {', '.join(vectors.columns)}")
    keyed = with_id(vectors, side.table, f"feature {feature.name!r}, {path.name}")
    found = side.engine.fetch(keyed.select(id=keyed.genrank_id, vector=keyed[feature.column]))
    if not pa.types.is_list(found.schema.field("vector").type):
        raise LogError(f"{path}: expected lists of numbers in column {feature.column!r}")
    return found.column("id"), found.column("vector").combine_chunks()
