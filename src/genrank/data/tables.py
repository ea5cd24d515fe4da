"""Item and user tables: the features of every row, ready to be gathered into a batch.

Shapes: I rows. Row 0 is the unknown item (or user): every index 0, no values, a zero embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.timelines import gather
from genrank.errors import DataError
from genrank.schema import DataSpec, Owner

LARGEST_COMPONENT = 1e15  # of an embedding: its square, summed over a vector, is still a float32


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features by row. `first_time` is -1 for rows never shown; `train_count` counts exposures in training."""

    ids: Any  # (I) string: an Arrow array, or NumPy's if no row is looked up by its id
    features: Mapping[str, Any]  # (I) int32, Jagged int32, or (I, dim) float32
    first_time: NDArray[np.int64]
    train_count: NDArray[np.int64]
    _categories: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Feature columns of the given rows."""
        return {name: gather(column, rows) for name, column in self.features.items()}

    def categories(self, name: str) -> NDArray[np.int64]:
        """(I) the value of a categorical or multi-valued feature, of several the first; computed once."""
        if name not in self._categories:
            column = self.features[name]
            if isinstance(column, Jagged):
                filled = np.diff(column.offsets) > 0
                first = np.zeros(len(filled), np.int64)
                first[filled] = column.values[column.offsets[:-1][filled]]
                self._categories[name] = first
            else:
                self._categories[name] = column.astype(np.int64)
        return self._categories[name]

    def find(self, ids: list[str]) -> NDArray[np.int64]:
        """Row of every id, 0 if there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return np.asarray(pc.fill_null(pc.index_in(pa.array(ids, pa.string()), self.ids), 0).to_numpy(), np.int64)

    @classmethod
    def load(cls, folder: Path, owner: Owner, spec: DataSpec) -> "FeatureTable":
        """`items.parquet` or `users.parquet` of a prepared folder or bundle, with its embeddings."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from genrank.data.timeline_files import feature_columns
        from genrank.data.vocabulary_files import IndexReader

        path = folder / f"{owner}s.parquet"
        try:
            table = pq.ParquetFile(path).read()
            columns = {name: table.column(name).combine_chunks() for name in table.column_names}
            features = feature_columns(spec.of(owner), columns, IndexReader(folder))
            for feature in spec.of(owner):
                if feature.kind == "embedding":
                    features[feature.name] = np.load(
                        folder / "embeddings" / f"{feature.name}.npy", mmap_mode="r", allow_pickle=False
                    )
            first_time = columns["first_time"].fill_null(-1).to_numpy(zero_copy_only=False)
            train_count = columns["train_count"].fill_null(0).to_numpy(zero_copy_only=False)
        except (pa.ArrowException, OSError, KeyError, ValueError) as problem:
            raise DataError(f"{path}: can't be read ({problem}); run genrank prepare again") from None
        return cls(
            ids=columns["id"].cast(pa.string()).fill_null(""),
            features=features,
            first_time=first_time.astype(np.int64),
            train_count=train_count.astype(np.int64),
        )
