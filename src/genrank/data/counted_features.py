"""The items' features as window statistics count by them: codes, which a value has from its first exposure on.

A model's indices won't do: a value has one only from its admission on, and a model knows those of its training part. By
codes, a value that came later has statistics too, and the same ones whether its days were prepared at once or added.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.statistics import statistics_entities
from genrank.data.timelines import offsets_of
from genrank.data.vocabulary_files import StoredVocabulary, vocabulary_path
from genrank.errors import DataError
from genrank.schema import LogSchema


def counted_features(folder: Path, schema: LogSchema) -> dict[str, Any]:
    """Feature → codes by row of items.parquet: int32, or Jagged of the first `max_values` of each row. DataError."""
    path = folder / "items.parquet"
    most = {feature.name: feature.max_values for feature in schema.features if feature.kind == "multi"}
    names = _names(schema)
    try:
        table = pq.ParquetFile(path).read(columns=names)
        columns = {name: table.column(name).combine_chunks() for name in names}
    except (pa.ArrowException, OSError, KeyError, ValueError) as problem:
        raise DataError(f"{path}: can't be read ({problem}); run genrank prepare again") from None
    return {
        name: _first(column, most[name]) if name in most else column.to_numpy().astype(np.int32)
        for name, column in columns.items()
    }


def codes_of_indices(folder: Path, schema: LogSchema) -> dict[str, NDArray[np.int32]]:
    """Feature → the code of every index, for items whose features were encoded as a model reads them."""
    return {name: StoredVocabulary.load(vocabulary_path(folder, name)).code_of_index() for name in _names(schema)}


def as_codes(column: Any, code_of: NDArray[np.int32]) -> Any:
    """A column of indices as codes, without weights."""
    return Jagged(code_of[column.values], column.offsets) if isinstance(column, Jagged) else code_of[column]


def _names(schema: LogSchema) -> list[str]:
    return list(dict.fromkeys(each.feature for each in statistics_entities(schema) if each.feature is not None))


def _first(column: pa.ListArray, most: int) -> Jagged:
    offsets = np.asarray(column.offsets.to_numpy(), np.int64)
    lengths = np.minimum(np.diff(offsets), most)
    kept = offsets_of(lengths)
    rows = np.repeat(offsets[:-1] - kept[:-1], lengths) + np.arange(kept[-1])
    return Jagged(column.values.to_numpy().astype(np.int32)[rows], kept)
