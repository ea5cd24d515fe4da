"""Assigns exposures to requests, and numbers and times the requests.

A request is the exposures of one (user, request key) without a gap above a bound, so a key that is used again the next
day is another request. N: exposures in order of (user, time).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
NEVER = np.int64(np.iinfo(np.int64).max)


def number_requests(
    user: Ints, key: Ints, time: Ints, ties: tuple[NDArray[Any], ...], *, max_gap: int
) -> tuple[NDArray[np.int32], int]:
    """(N) the number of each row's request among those of its user; and how many requests repeat an earlier key.

    Numbers are in order of the first exposure's time, then of `ties`. Rows are in order of user and time.
    """
    quick = _number_runs(user, key, time, max_gap)
    if quick is not None:
        return quick, 0
    order = np.lexsort((time, key, user))  # stable
    user, key, time = user[order], key[order], time[order]
    same_key = repeats([user, key])
    begins = ~same_key
    begins[1:] |= np.diff(time) > max_gap
    opening = np.flatnonzero(begins)
    tied = time == np.repeat(time[opening], np.diff(np.append(opening, len(time))))
    firsts = [np.minimum.reduceat(np.where(tied, column[order], NEVER), opening) for column in ties]
    rank = np.empty(len(opening), np.int64)
    rank[np.lexsort((*firsts[::-1], time[opening], user[opening]))] = np.arange(len(opening))
    new_user = np.flatnonzero(~repeats([user[opening]]))  # requests are in order of user before and after
    number = rank - np.repeat(new_user, np.diff(np.append(new_user, len(opening))))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = number[np.cumsum(begins) - 1]
    return numbers, int((begins & same_key).sum())


def _number_runs(user: Ints, key: Ints, time: Ints, max_gap: int) -> NDArray[np.int32] | None:
    """The numbers, if every run of equal keys is a separate request, in order of first times; else None."""
    begins = ~repeats([user, key])
    opening = np.flatnonzero(begins)
    same_user = user[opening[1:]] == user[opening[:-1]]
    if np.any(same_user & (time[opening[1:]] <= time[opening[:-1]])) or np.any(~begins[1:] & (np.diff(time) > max_gap)):
        return None
    if np.any(same_user & (key[opening[1:]] <= key[opening[:-1]])):  # rising keys differ; others are compared
        order = np.lexsort((key[opening], user[opening]))
        if np.any(repeats([user[opening][order], key[opening][order]])):
            return None
    new_user = np.flatnonzero(np.append(True, ~same_user)) if len(opening) else opening
    run = np.arange(len(opening)) - np.repeat(new_user, np.diff(np.append(new_user, len(opening))))
    numbers: NDArray[np.int32] = run[np.cumsum(begins) - 1].astype(np.int32)
    return numbers


def requests_by_gap(user: Ints, time: Ints, gap_seconds: int) -> NDArray[np.int32]:
    """(N) number of every row's request; a gap of more than `gap_seconds` ends a request."""
    new_user = ~repeats([user])
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
    """(N) whether an exposure became known only after the user's next request (of a later time) had begun.

    Rows are in order of user.
    """
    ordinal, num_requests = request_ordinals(user, request)
    time, owner = np.zeros(num_requests, np.int64), np.zeros(num_requests, np.int64)
    time[ordinal], owner[ordinal] = request_time, user
    begins = ~repeats([owner, time])  # requests at the same time don't follow one another
    opening = np.flatnonzero(begins)
    following = np.full(len(opening), NEVER)
    same_user = owner[opening[1:]] == owner[opening[:-1]]
    following[:-1][same_user] = time[opening[1:]][same_user]
    late: Mask = known_at >= following[np.cumsum(begins) - 1][ordinal]
    return late


def request_ordinals(user: Ints, request: NDArray[np.int32]) -> tuple[Ints, int]:
    """(N) number of every row's request among all requests of the bucket; and their number."""
    if not len(user):
        return np.zeros(0, np.int64), 0
    starts = np.flatnonzero(~repeats([user]))
    counts: Ints = np.maximum.reduceat(request.astype(np.int64), starts) + 1
    before: Ints = np.cumsum(counts) - counts
    ordinal = np.repeat(before, np.diff(np.append(starts, len(user)))) + request
    return ordinal, int(counts.sum())


def repeats(columns: list[NDArray[Any]]) -> Mask:
    """(N) whether a row equals the one before it in all columns."""
    same = np.ones(len(columns[0]), bool)
    same[:1] = False
    for column in columns:
        same[1:] &= column[1:] == column[:-1]
    return same
