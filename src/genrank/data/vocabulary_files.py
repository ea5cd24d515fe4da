"""Vocabularies on disk: the values of the codes in timelines and tables, with the index and admission time of each.

    vocab/<name>.parquet    value (string), index (int32), count (int64), admitted (int64, seconds; null: not yet)

A file's row c - 1 is the value of code c; code 0 is missing. Codes are given in order of first sight, and indices in
order of admission: at the end of the first day, or part of the split, by which the value had been seen often enough. So
neither changes its meaning when days are added, and a model trained until some time knows exactly the indices below a
size. Files of format 3 have no `admitted`, and rows in order of index: their codes are indices.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.batch import Jagged
from genrank.data.categories import Categories
from genrank.data.timelines import offsets_of

NEVER = np.iinfo(np.int64).max  # of values that aren't admitted yet
MAX_VALUES = b"max_values"  # of a multi-valued feature, in the file's metadata
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StoredVocabulary:
    """V values in order of code. `count`: how often each was seen until admission, or until now if not admitted."""

    values: pa.Array  # (V) string
    index: NDArray[np.int32]  # (V) from 1; 0: not admitted
    count: Ints  # (V)
    admitted: Ints  # (V) seconds since the epoch; NEVER: not yet
    max_values: int | None = None  # of a multi-valued feature: the maximum number of known values in a row

    def __len__(self) -> int:
        return len(self.values)

    def size_at(self, time: int) -> int:
        """Number of indices, 0 included, admitted until `time` (seconds)."""
        return 1 + int((self.admitted <= time).sum())

    def index_of_code(self, size: int) -> NDArray[np.int32]:
        """(V + 1) the index of every code; 0 if that is not below `size`."""
        known = np.where(self.index < size, self.index, 0)
        return np.append(np.int32(0), known).astype(np.int32)

    def code_of_index(self) -> NDArray[np.int32]:
        """The code of every index; 0 of 0."""
        codes = np.zeros(int(self.index.max(initial=0)) + 1, np.int32)
        codes[self.index] = np.arange(1, len(self.index) + 1)
        codes[0] = 0
        return codes

    def categories(self, size: int) -> Categories:
        """The known values and their indices."""
        rows = np.flatnonzero((self.index > 0) & (self.index < size))
        rows = rows[np.argsort(self.index[rows])]
        values = self.values.take(pa.array(rows)).to_pylist()
        return Categories(zip(values, self.index[rows].tolist(), strict=True))

    @classmethod
    def load(cls, path: Path) -> "StoredVocabulary":
        """A vocabulary that `prepare` wrote."""
        table = pq.ParquetFile(path).read()
        metadata = table.schema.metadata or {}
        index = table.column("index").to_numpy().astype(np.int32)
        admitted = np.zeros(len(index), np.int64)
        if "admitted" in table.column_names:
            admitted = table.column("admitted").fill_null(NEVER).to_numpy()
        return cls(
            values=table.column("value").cast(pa.string()).combine_chunks(),
            index=index,
            count=table.column("count").to_numpy(),
            admitted=admitted,
            max_values=int(metadata[MAX_VALUES]) if MAX_VALUES in metadata else None,
        )

    def write(self, path: Path) -> None:
        """Writes the file; code 0 has no row."""
        table = pa.table(
            {
                "value": self.values,
                "index": pa.array(self.index),
                "count": pa.array(self.count),
                "admitted": pa.array(self.admitted, mask=self.admitted == NEVER),
            }
        )
        if self.max_values is not None:
            table = table.replace_schema_metadata({MAX_VALUES: str(self.max_values)})
        pq.write_table(table, path)


def vocabulary_path(folder: Path, name: str) -> Path:
    """The vocabulary of a feature, feedback, or of `item_id` and `user_id`."""
    return folder / "vocab" / f"{name}.parquet"


def read_vocabulary(folder: Path, name: str, size: int) -> Categories:
    """The values of a vocabulary of `size` indices."""
    return StoredVocabulary.load(vocabulary_path(folder, name)).categories(size)


class IndexReader:
    """Maps codes of a prepared folder to indices of vocabularies of given sizes, by name; files are read once.

    Safe to use from several threads.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[tuple[str, int], tuple[NDArray[np.int32], int | None]] = {}

    def indices(self, name: str, size: int, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """The index of every code."""
        found: NDArray[np.int32] = self._vocabulary(name, size)[0][codes]
        return found

    def lists(self, name: str, size: int, codes: Jagged) -> Jagged:
        """The known values of every row, at most `max_values`, the first ones."""
        index_of_code, most = self._vocabulary(name, size)
        index = index_of_code[codes.values]
        lengths = np.diff(codes.offsets)
        if len(index) == 0 or (index.min() > 0 and (most is None or lengths.max() <= most)):
            return Jagged(index, codes.offsets, codes.weights)
        known = np.flatnonzero(index > 0)
        row = np.repeat(np.arange(len(lengths)), lengths)[known]
        if most is not None:
            first = np.arange(len(row)) - np.searchsorted(row, row) < most
            known, row = known[first], row[first]
        weights = None if codes.weights is None else codes.weights[known]
        return Jagged(index[known], offsets_of(np.bincount(row, minlength=len(lengths))), weights)

    def _vocabulary(self, name: str, size: int) -> tuple[NDArray[np.int32], int | None]:
        """The index of every code, and the maximum number of known values in a row."""
        if (name, size) not in self._read:
            stored = StoredVocabulary.load(vocabulary_path(self.folder, name))
            self._read[name, size] = stored.index_of_code(size), stored.max_values
        return self._read[name, size]
