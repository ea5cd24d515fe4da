"""Of every exposure: its request, and the history that the request sees.

Computed for some users at a time, so that what is needed meanwhile doesn't grow with the log.

Shapes: N exposures, K requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.groups import changes
from genrank.data.timelines import Timelines

Ints = NDArray[np.int64]
Int32s = NDArray[np.int32]
ROWS_AT_ONCE = 1 << 18  # ours: 262,144 rows take some 30 MB meanwhile


@dataclass(frozen=True, kw_only=True)
class RequestIndex:
    """Requests are numbered in order of user, then time. A request is known from when its first exposure is."""

    num_requests: int  # K
    request_key: Int32s  # (N) the number of its request
    request_time: Ints  # (N) seconds since the epoch, of its request
    visible_end: Int32s  # (N) one past the last row that its request sees
    request_index: Int32s  # (N) how many requests of the user its request sees
    requests_before: Int32s  # (N) how many requests the user's rows before it have, without its own
    gap: Ints  # (N) seconds since the latest request that its request sees, -1 if it sees none

    @classmethod
    def of(cls, t: Timelines) -> "RequestIndex":
        """That of timelines with fewer than 2^31 exposures."""
        size = t.num_exposures
        found = cls(
            num_requests=0,
            request_key=np.empty(size, np.int32),
            request_time=np.empty(size, np.int64) if t.request_time is None else t.request_time,
            visible_end=np.empty(size, np.int32),
            request_index=np.empty(size, np.int32),
            requests_before=np.empty(size, np.int32),
            gap=np.empty(size, np.int64),
        )
        num_requests = 0
        for first_user, end_user in pieces_of_users(t.offsets):
            num_requests += found._fill(t, t.offsets[first_user : end_user + 1], num_requests)
        return replace(found, num_requests=num_requests)

    def _fill(self, t: Timelines, offsets: Ints, num_requests: int) -> int:
        """Set the rows of the users with these offsets, whose first request has the number; returns how many it has."""
        rows = slice(int(offsets[0]), int(offsets[-1]))
        starts = offsets - rows.start
        user = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        request = t.request[rows]
        # A request's rows need not be neighbours: another request may lie between them.
        order = _order(user, request)
        begins = changes(user[order]) | changes(request[order])
        first_row = order[begins]  # known first, since rows are in that order
        if t.request_time is None:
            time = np.minimum.reduceat(t.time[rows][order], np.flatnonzero(begins))
        else:
            time = t.request_time[rows][first_row]
        by_time = _order(user[first_row], time)
        number = np.empty(len(by_time), np.int64)
        number[by_time] = np.arange(len(by_time))
        key = np.empty(len(order), np.int64)
        key[order] = number[np.cumsum(begins) - 1]
        self.request_key[rows] = key + num_requests
        self._fill_known(t, rows, starts, user, key, time[by_time], first_row[by_time])
        return len(by_time)

    def _fill_known(
        self, t: Timelines, rows: slice, starts: Ints, user_of_row: Ints, key: Ints, time: Ints, first_row: Ints
    ) -> None:
        """`time`, `first_row`: (K) of the requests. The moments of all users are in one array, user by user."""
        user, known = user_of_row[first_row], t.known_time[rows]
        begin = int(time.min(initial=0))
        span = max(int(time.max(initial=0)), int(known.max(initial=0))) - begin + 1
        moment = user * span + time - begin
        end = np.searchsorted(user_of_row * span + known - begin, moment)
        by_known = np.sort(first_row)
        of_earlier_users = np.searchsorted(by_known, starts[:-1])  # per user
        num_known = np.searchsorted(by_known, end) - of_earlier_users[user]
        latest = np.maximum.accumulate(moment[np.argsort(first_row)])
        previous = latest[np.maximum(num_known + of_earlier_users[user] - 1, 0)] - user * span + begin
        is_first = np.zeros(len(key), bool)
        is_first[first_row] = True
        if t.request_time is None:
            self.request_time[rows] = time[key]
        self.visible_end[rows] = (end + rows.start)[key]
        self.request_index[rows] = num_known[key]
        self.gap[rows] = np.where(num_known > 0, time - previous, -1)[key]
        self.requests_before[rows] = np.cumsum(is_first) - 1 - of_earlier_users[user_of_row]


def _order(user: Ints, value: NDArray[Any]) -> Ints:
    """The stable order by (user, value) of rows in order of user."""
    if np.all((value[1:] >= value[:-1]) | (user[1:] != user[:-1])):
        return np.arange(len(user))
    order: Ints = np.lexsort((value, user))
    return order


def pieces_of_users(offsets: Ints) -> Iterator[tuple[int, int]]:
    """First user, and one past the last, of pieces of at most ROWS_AT_ONCE rows, or of one user."""
    begin, num_users = 0, len(offsets) - 1
    while begin < num_users:
        end = int(np.searchsorted(offsets, offsets[begin] + ROWS_AT_ONCE, side="right")) - 1
        end = min(max(end, begin + 1), num_users)
        yield begin, end
        begin = end
