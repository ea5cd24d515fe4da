"""From sorted rows to requests: duplicates dropped, requests numbered per user. Plain NumPy on one bucket.

N: exposures of one bucket, sorted by (user, time, request key, position, item). A "run" is a stretch of rows of one
user with one request key.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
KEY = ("user", "time", "request", "position", "item")


def arrange(table: pa.Table, *, gap_seconds: int) -> tuple[pa.Table, int]:
    """The bucket's rows without duplicates, in order of (user, time, request, position), and how many were dropped.

    `table` has one chunk per column. `request` becomes the int32 number of the request among the user's, from 0 in
    order of its first exposure; `request_time` (int64 seconds) is added: the time of that exposure.
    """
    table, dropped = drop_duplicates(table)
    user, time = array(table, "user"), array(table, "time")
    if "request" in table.column_names:
        number, recurring = number_requests(user, array(table, "request"))
    else:
        number, recurring = requests_by_gap(user, time, gap_seconds), False
    columns = {name: table.column(name) for name in table.column_names}
    table = pa.table(columns | {"request": pa.array(number)})
    if recurring:
        keys = [array(table, name) for name in reversed(KEY) if name in table.column_names]
        table = take(table, np.lexsort(keys))
    first_time = request_times(array(table, "user"), array(table, "request"), array(table, "time"))
    return table.append_column("request_time", pa.array(first_time)), dropped


def array(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as NumPy."""
    column = table.column(name)
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def take(table: pa.Table, rows: NDArray[Any]) -> pa.Table:
    """The given rows of a table, in one chunk."""
    return table.take(pa.array(rows)).combine_chunks()


def drop_duplicates(table: pa.Table) -> tuple[pa.Table, int]:
    """One row per (user, time, request, position, item): the one with the largest other values, a click over none."""
    repeated = _repeats([array(table, name) for name in KEY if name in table.column_names])
    dropped = int(repeated.sum())
    if not dropped:
        return table, 0
    alike = repeated.copy()
    alike[:-1] |= repeated[1:]
    rows = np.flatnonzero(alike)
    group = np.cumsum(~repeated)[rows]
    others = [_rank(table.column(name).take(pa.array(rows))) for name in table.column_names if name not in KEY]
    order = np.lexsort([*reversed(others), group])
    last = np.append(np.diff(group[order]) != 0, True)
    keep = ~alike
    keep[rows[order[last]]] = True
    return take(table, np.flatnonzero(keep)), dropped


def number_requests(user: Ints, key: Ints) -> tuple[NDArray[np.int32], bool]:
    """(N) number of every row's request among its user's, in order of first rows; and whether requests come back.

    One comes back when another request of the user lies between its exposures.
    """
    starts = ~_repeats([user, key])
    run_user, run_key = user[starts], key[starts]
    if not len(run_user):
        return np.zeros(0, np.int32), False
    new_user = np.append(True, run_user[1:] != run_user[:-1])
    run_number = np.arange(len(run_user))
    recurring = False
    if not np.all(new_user[1:] | (run_key[1:] > run_key[:-1])):
        run_number, recurring = _first_appearance(run_user, run_key)
    first_of_user = np.repeat(run_number[new_user], np.diff(np.append(np.flatnonzero(new_user), len(new_user))))
    return (run_number - first_of_user)[np.cumsum(starts) - 1].astype(np.int32), recurring


def requests_by_gap(user: Ints, time: Ints, gap_seconds: int) -> NDArray[np.int32]:
    """(N) number of every row's request, where a request ends with a gap of more than `gap_seconds`."""
    new_user = ~_repeats([user])
    begins = new_user.copy()
    begins[1:] |= np.diff(time) > gap_seconds
    number = np.cumsum(begins)
    first = np.repeat(number[new_user], np.diff(np.append(np.flatnonzero(new_user), len(user))))
    return (number - first).astype(np.int32)


def request_times(user: Ints, request: NDArray[np.int32], time: Ints) -> Ints:
    """(N) time of the first exposure of every row's request. Rows are sorted by user and time."""
    ordinal, num_requests = request_ordinals(user, request)
    first = np.empty(num_requests, np.int64)
    first[ordinal[::-1]] = time[::-1]  # of several assignments the last one stays: the earliest row
    times: Ints = first[ordinal]
    return times


def request_ordinals(user: Ints, request: NDArray[np.int32]) -> tuple[Ints, int]:
    """(N) number of every row's request among all of the bucket's, and how many requests there are."""
    if not len(user):
        return np.zeros(0, np.int64), 0
    starts = np.flatnonzero(~_repeats([user]))
    counts: Ints = np.maximum.reduceat(request.astype(np.int64), starts) + 1
    before: Ints = np.cumsum(counts) - counts
    ordinal = np.repeat(before, np.diff(np.append(starts, len(user)))) + request
    return ordinal, int(counts.sum())


def _repeats(columns: list[NDArray[Any]]) -> Mask:
    """(N) whether a row equals the one before it in all columns."""
    same = np.ones(len(columns[0]), bool)
    same[:1] = False
    for column in columns:
        same[1:] &= column[1:] == column[:-1]
    return same


def _first_appearance(run_user: Ints, run_key: Ints) -> tuple[Ints, bool]:
    """(runs) number of every run's request in order of first runs, and whether any request has several runs."""
    order = np.lexsort((run_key, run_user))
    begins = ~_repeats([run_user[order], run_key[order]])
    first_run = order[begins]
    rank = np.empty(len(first_run), np.int64)
    rank[np.argsort(first_run)] = np.arange(len(first_run))
    number = np.empty(len(order), np.int64)
    number[order] = rank[np.cumsum(begins) - 1]
    return number, len(first_run) < len(order)


def _rank(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers in the order of the column's values; NaN is lowest."""
    if pa.types.is_list(column.type):
        column = pa.chunked_array([pc.binary_join(column.combine_chunks(), "\x1f")])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        codes: NDArray[Any] = np.unique(np.array(column.fill_null("").to_pylist(), dtype=object), return_inverse=True)[
            1
        ]
        return codes
    values = column.to_numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    return np.asarray(values)
