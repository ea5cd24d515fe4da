"""From sorted rows to timelines: duplicates dropped, requests numbered, exposures in the order of their known times.

Plain NumPy on one bucket, from the engine (in `prepare`) or from the bucket's parts on disk. A request is the
exposures of one (user, request key) without a gap above a bound, so a key that is used again the next day is another
request. Stored order is the order of (user, time, position); equal rows keep the order of the log.

N: exposures of a bucket.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.data.requests import late_actions, number_requests, repeats, request_times, requests_by_gap
from genrank.log_settings import RequestSettings

PLACE = ("user", "time", "position")  # of stored order
KEY = (*PLACE, "request", "item")  # equal in all: one exposure, logged several times


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A bucket's exposures. `order`: (N) the place of each in stored order.

    `num_recurring`: requests with the key of an earlier request of the same user; `num_late`: exposures with actions
    that became known only after the user's next request had begun.
    """

    table: pa.Table
    order: NDArray[np.int64]
    num_recurring: int
    num_late: int


def arrange(table: pa.Table, requests: RequestSettings) -> Arranged:
    """The rows in order of (user, known time, time, request, position, stored order).

    `table` is in stored order, with one chunk per column, without duplicates. Its column `request` becomes the int32
    number of the request among the user's, from 0 in order of (time, position, stored order) of its first exposure;
    `request_time` (int64 seconds) is added: the time of that exposure.
    """
    user, time = array(table, "user"), array(table, "time")
    row = np.arange(len(user))
    position = array(table, "position") if "position" in table.column_names else np.zeros(len(user), np.int32)
    recurring = 0
    if "request" in table.column_names:
        key = array(table, "request")
        number, recurring = number_requests(user, key, time, (position, row), max_gap=requests.max_gap_seconds)
    else:
        number = requests_by_gap(user, time, requests.gap_seconds)
    request_time = request_times(user, number, time)
    known_at = array(table, "known_at") if "known_at" in table.column_names else time
    columns = {name: table.column(name) for name in table.column_names}
    table = pa.table(columns | {"request": pa.array(number), "request_time": pa.array(request_time)})
    late = int(late_actions(user, number, request_time, known_at).sum()) if known_at is not time else 0
    keys = (user, known_at, time, number, position)
    if not _in_order(keys):
        row = np.lexsort(keys[::-1])  # stable
        table = take(table, row)
    return Arranged(table=table, order=row, num_recurring=recurring, num_late=late)


def array(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as NumPy."""
    column = table.column(name)
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def take(table: pa.Table, rows: NDArray[Any]) -> pa.Table:
    """The given rows of a table, in one chunk."""
    return table.take(pa.array(rows)).combine_chunks()


def in_stored_order(table: pa.Table) -> pa.Table:
    """The rows in stored order; equal rows keep their order."""
    keys = [array(table, name) for name in PLACE if name in table.column_names]
    return table if _in_order(tuple(keys)) else take(table, np.lexsort(keys[::-1]))


def drop_duplicates(table: pa.Table, *, but: str = "") -> tuple[pa.Table, int]:
    """One row per (user, time, request, position, item): the one with the largest other values (a click over none).

    Rows are in stored order, and remain so. `but`: a column to ignore in the comparison.
    """
    group, members = _alike(table)
    if not len(members):
        return table, 0
    others = [
        _rank(table.column(name).take(pa.array(members))) for name in table.column_names if name not in (*KEY, but)
    ]
    order = np.lexsort([-members, *reversed(others), group])  # of equal rows, the first of the log is kept
    last = np.append(np.diff(group[order]) != 0, True)
    keep = np.ones(table.num_rows, bool)
    keep[members] = False
    keep[members[order[last]]] = True
    return take(table, np.flatnonzero(keep)), int((~keep).sum())


def _alike(table: pa.Table) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows that equal another one in all of `KEY`: the group of each, and the row. Rows are in stored order."""
    same_place = repeats([array(table, name) for name in PLACE if name in table.column_names])
    tied = same_place.copy()
    tied[:-1] |= same_place[1:]
    rows = np.flatnonzero(tied)
    others = [array(table, name)[rows] for name in KEY if name in table.column_names and name not in PLACE]
    keys = [np.cumsum(~same_place)[rows], *others]
    order = np.lexsort(keys[::-1])
    repeated = repeats([key[order] for key in keys])
    alike = repeated.copy()
    alike[:-1] |= repeated[1:]
    return np.cumsum(~repeated)[alike], rows[order[alike]]


def _in_order(columns: tuple[NDArray[Any], ...]) -> bool:
    """Whether rows are in ascending order, by the first column first."""
    tied = np.ones(max(len(columns[0]) - 1, 0), bool)
    for column in columns:
        if np.any(tied & (column[1:] < column[:-1])):
            return False
        tied &= column[1:] == column[:-1]
    return True


def _rank(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers in the order of the column's values; NaN is lowest."""
    if pa.types.is_list(column.type):
        texts = column.combine_chunks().cast(pa.list_(pa.string()))
        column = pa.chunked_array([pc.binary_join(texts, "\x1f")])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = np.array(column.fill_null("").to_pylist(), dtype=object)
        codes: NDArray[Any] = np.unique(texts, return_inverse=True)[1]
        return codes
    values = column.to_numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    return np.asarray(values)
