"""From sorted rows to timelines: duplicates dropped, requests numbered, exposures in the order of their known times.

Plain NumPy on one bucket. A request is the exposures of one (user, request key) without a gap above a bound: keys that
begin anew every day are other requests. N: exposures of one bucket, in order of (user, time, request, position, item).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.reading import Requests

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
KEY = ("user", "time", "request", "position", "item")
NEVER = np.int64(np.iinfo(np.int64).max)


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A bucket's exposures. `num_recurring`: requests whose key an earlier request of their user had;
    `num_late`: exposures whose actions were known only after the user's next request had begun."""

    table: pa.Table
    num_duplicates: int
    num_recurring: int
    num_late: int


def arrange(table: pa.Table, requests: Requests) -> Arranged:
    """The bucket's rows without duplicates, in order of (user, known time, time, request, position, row).

    `table` has one chunk per column; `row` is an exposure's place in the log. `request` becomes the int32 number of
    the request among the user's, from 0 in order of (time, position, row) of its first exposure; `request_time` (int64
    seconds) is added: the time of that exposure.
    """
    table, duplicates = drop_duplicates(table)
    user, time, row = (array(table, name) for name in ("user", "time", "row"))
    position = array(table, "position") if "position" in table.column_names else np.zeros(len(user), np.int32)
    recurring = 0
    if "request" in table.column_names:
        key = array(table, "request")
        number, recurring = number_requests(user, key, time, (position, row), max_gap=requests.max_gap_seconds)
    else:
        number = requests_by_gap(user, time, requests.gap_seconds)
    request_time = request_times(user, number, time)
    known_at = array(table, "known_at") if "known_at" in table.column_names else time
    columns = {name: table.column(name) for name in table.column_names if name != "row"}
    table = pa.table(columns | {"request": pa.array(number), "request_time": pa.array(request_time)})
    keys = (user, known_at, time, number, position, row)
    if not _in_order(keys):
        table = take(table, np.lexsort(keys[::-1]))
    late = int(late_actions(user, number, request_time, known_at).sum()) if known_at is not time else 0
    return Arranged(table=table, num_duplicates=duplicates, num_recurring=recurring, num_late=late)


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
    others = [
        _rank(table.column(name).take(pa.array(rows))) for name in table.column_names if name not in (*KEY, "row")
    ]
    order = np.lexsort([-rows, *reversed(others), group])  # of equal ones the first of the log stays
    last = np.append(np.diff(group[order]) != 0, True)
    keep = ~alike
    keep[rows[order[last]]] = True
    return take(table, np.flatnonzero(keep)), dropped


def number_requests(
    user: Ints, key: Ints, time: Ints, ties: tuple[NDArray[Any], ...], *, max_gap: int
) -> tuple[NDArray[np.int32], int]:
    """(N) number of every row's request among its user's, and how many have a key that an earlier one of the user has.

    Numbers are in order of first exposures' times, of equal ones by `ties`. Rows are in order of user and time.
    """
    quick = _number_runs(user, key, time, max_gap)
    if quick is not None:
        return quick, 0
    order = np.lexsort((time, key, user))  # stable
    user, key, time = user[order], key[order], time[order]
    same_key = _repeats([user, key])
    begins = ~same_key
    begins[1:] |= np.diff(time) > max_gap
    opening = np.flatnonzero(begins)
    if not len(opening):
        return np.zeros(0, np.int32), 0
    tied = time == np.repeat(time[opening], np.diff(np.append(opening, len(time))))
    firsts = [np.minimum.reduceat(np.where(tied, column[order], NEVER), opening) for column in ties]
    rank = np.empty(len(opening), np.int64)
    rank[np.lexsort((*firsts[::-1], time[opening], user[opening]))] = np.arange(len(opening))
    new_user = np.flatnonzero(~_repeats([user[opening]]))  # requests are in order of user before and after
    number = rank - np.repeat(new_user, np.diff(np.append(new_user, len(opening))))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = number[np.cumsum(begins) - 1]
    return numbers, int((begins & same_key).sum())


def _number_runs(user: Ints, key: Ints, time: Ints, max_gap: int) -> NDArray[np.int32] | None:
    """The numbers where every run of equal keys is a request: keys and first times rise from run to run. Else None."""
    begins = ~_repeats([user, key])
    opening = np.flatnonzero(begins)
    same_user = user[opening[1:]] == user[opening[:-1]]
    rising = (key[opening[1:]] > key[opening[:-1]]) & (time[opening[1:]] > time[opening[:-1]])
    if np.any(same_user & ~rising) or np.any(~begins[1:] & (np.diff(time) > max_gap)):
        return None
    new_user = np.flatnonzero(np.append(True, ~same_user)) if len(opening) else opening
    run = np.arange(len(opening)) - np.repeat(new_user, np.diff(np.append(new_user, len(opening))))
    numbers: NDArray[np.int32] = run[np.cumsum(begins) - 1].astype(np.int32)
    return numbers


def requests_by_gap(user: Ints, time: Ints, gap_seconds: int) -> NDArray[np.int32]:
    """(N) number of every row's request, where a request ends with a gap of more than `gap_seconds`."""
    new_user = ~_repeats([user])
    begins = new_user.copy()
    begins[1:] |= np.diff(time) > gap_seconds
    number = np.cumsum(begins)
    first = np.repeat(number[new_user], np.diff(np.append(np.flatnonzero(new_user), len(user))))
    return (number - first).astype(np.int32)


def request_times(user: Ints, request: NDArray[np.int32], time: Ints) -> Ints:
    """(N) time of the first exposure of every row's request. Rows are in order of user."""
    ordinal, num_requests = request_ordinals(user, request)
    first = np.full(num_requests, NEVER)
    np.minimum.at(first, ordinal, time)
    times: Ints = first[ordinal]
    return times


def late_actions(user: Ints, request: NDArray[np.int32], request_time: Ints, known_at: Ints) -> Mask:
    """(N) whether an exposure was known only when the user's next request (of a later time) had begun.

    Rows are in order of user.
    """
    ordinal, num_requests = request_ordinals(user, request)
    time, owner = np.zeros(num_requests, np.int64), np.zeros(num_requests, np.int64)
    time[ordinal], owner[ordinal] = request_time, user
    begins = ~_repeats([owner, time])  # of requests at one time none is the next
    opening = np.flatnonzero(begins)
    following = np.full(len(opening), NEVER)
    same_user = owner[opening[1:]] == owner[opening[:-1]]
    following[:-1][same_user] = time[opening[1:]][same_user]
    late: Mask = known_at >= following[np.cumsum(begins) - 1][ordinal]
    return late


def request_ordinals(user: Ints, request: NDArray[np.int32]) -> tuple[Ints, int]:
    """(N) number of every row's request among all of the bucket's, and how many requests there are."""
    if not len(user):
        return np.zeros(0, np.int64), 0
    starts = np.flatnonzero(~_repeats([user]))
    counts: Ints = np.maximum.reduceat(request.astype(np.int64), starts) + 1
    before: Ints = np.cumsum(counts) - counts
    ordinal = np.repeat(before, np.diff(np.append(starts, len(user)))) + request
    return ordinal, int(counts.sum())


def _in_order(columns: tuple[NDArray[Any], ...]) -> bool:
    """Whether rows never fall, the first column counting most."""
    tied = np.ones(max(len(columns[0]) - 1, 0), bool)
    for column in columns:
        if np.any(tied & (column[1:] < column[:-1])):
            return False
        tied &= column[1:] == column[:-1]
    return True


def _repeats(columns: list[NDArray[Any]]) -> Mask:
    """(N) whether a row equals the one before it in all columns."""
    same = np.ones(len(columns[0]), bool)
    same[:1] = False
    for column in columns:
        same[1:] &= column[1:] == column[:-1]
    return same


def _rank(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers in the order of the column's values; NaN is lowest."""
    if pa.types.is_list(column.type):
        texts = column.combine_chunks().cast(pa.list_(pa.string()))
        column = pa.chunked_array([pc.binary_join(texts, "\x1f")])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        codes: NDArray[Any] = np.unique(np.array(column.fill_null("").to_pylist(), dtype=object), return_inverse=True)[
            1
        ]
        return codes
    values = column.to_numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    return np.asarray(values)
