"""Values as codes: 0 is missing, code c stands for the c-th value; lists of values; numbers as buckets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Codes = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class MultiCodes:
    """Codes of several values per row: row i has `codes[offsets[i]:offsets[i + 1]]`."""

    codes: Codes
    offsets: NDArray[np.int32]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of every code."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def encode(column: pa.Array) -> tuple[pa.Array, Codes]:
    """A text column's distinct values in order, and every row's code."""
    values = pc.unique(column.drop_null())
    values = values.take(pc.sort_indices(values))
    return values, codes_of(column, values)


def codes_of(column: pa.Array, values: pa.Array) -> Codes:
    """Every row's code among `values`, 0 where it is null or not among them."""
    if not len(values):
        return np.zeros(len(column), np.int32)
    positions = pc.index_in(column, values).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(positions, np.int32) + np.int32(1)


def split_values(column: pa.Array, separator: str | None) -> pa.ListArray:
    """Lists of text: the column's own lists, or its text split. No nulls, no blanks, no value twice in a row."""
    if separator is not None:
        column = pc.split_pattern(column.cast(pa.string()), separator)
    return distinct_values(column.cast(pa.list_(pa.string())))[0]


def distinct_values(column: pa.ListArray) -> tuple[pa.ListArray, NDArray[np.int64]]:
    """Lists of text without nulls, blanks and repeated values; and the place of each among the flat values before."""
    column = column.fill_null(pa.scalar([], pa.list_(pa.string())))
    flat = pc.utf8_trim_whitespace(column.flatten())
    row = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy(zero_copy_only=False))
    known = np.flatnonzero(pc.not_equal(flat, "").fill_null(False).to_numpy(zero_copy_only=False))
    row, flat = row[known], flat.take(pa.array(known))
    values, codes = encode(flat)
    _, first = np.unique(row * (len(values) + 1) + codes, return_index=True)
    first.sort()
    counts = np.bincount(row[first], minlength=len(column))
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat.take(pa.array(first))), known[first]


def multi_codes(column: pa.ListArray, values: pa.Array) -> MultiCodes:
    """Codes of a list column's values among `values`."""
    offsets = column.offsets.to_numpy()
    return MultiCodes(codes=codes_of(column.flatten(), values), offsets=(offsets - offsets[0]).astype(np.int32))


def quantile_edges(values: NDArray[Any], num_buckets: int) -> tuple[float, ...]:
    """Edges that spread finite `values` over at most `num_buckets` buckets evenly.

    Where the lowest value alone fills a bucket (a play time of 0), it gets the first one and the rest share the others.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return ()
    above = values[values > values.min()]
    if not len(above):
        return ()
    edges: list[float] = []
    if (len(values) - len(above)) * num_buckets > len(values):
        edges, values, num_buckets = [float(above.min())], above, num_buckets - 1
    quantiles = np.quantile(values, np.linspace(0, 1, num_buckets + 1)[1:-1])
    return tuple(sorted({*edges, *(float(edge) for edge in quantiles if edge > values.min())}))


def bucket_of(values: NDArray[Any], boundaries: tuple[float, ...]) -> Codes:
    """Bucket of every value: 0 missing or infinite, 1 + k for boundaries[k-1] <= x < boundaries[k]."""
    values = values.astype(np.float64)
    bucket = np.searchsorted(np.asarray(boundaries, np.float64), values, side="right") + 1
    return np.where(np.isfinite(values), bucket, 0).astype(np.int32)
