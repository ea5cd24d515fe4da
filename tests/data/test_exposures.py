import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.data.exposures import arrange, array, number_requests, request_times, requests_by_gap

ROWS = st.lists(st.tuples(*(st.integers(0, 3) for _ in range(5)), st.booleans()), max_size=30)


def bucket(rows: list[tuple]) -> pa.Table:
    names = ("user", "time", "request", "position", "item", "task_click")
    columns = list(zip(*sorted(rows), strict=True)) or [()] * 6
    types = (pa.int32(), pa.int64(), pa.int64(), pa.int32(), pa.int32(), pa.int8())
    return pa.table({n: pa.array([int(v) for v in c], t) for n, c, t in zip(names, columns, types, strict=True)})


def plain_requests(rows: list[tuple]) -> dict[tuple[int, int], int]:
    """(user, request key) → number, by a dictionary per user."""
    numbers: dict[int, dict[int, int]] = {}
    for user, _, request, *_ in sorted(rows):
        mine = numbers.setdefault(user, {})
        mine.setdefault(request, len(mine))
    return {(user, request): number for user, mine in numbers.items() for request, number in mine.items()}


@settings(deadline=None, max_examples=150)
@given(ROWS)
def test_arranging_equals_a_plain_loop(rows: list[tuple]) -> None:
    arranged, dropped = arrange(bucket(rows), gap_seconds=0)
    clicks: dict[tuple, int] = {}
    for *key, click in rows:
        clicks[tuple(key)] = max(clicks.get(tuple(key), 0), int(click))
    numbers = plain_requests(rows)
    first: dict[tuple[int, int], int] = {}
    for user, time, request, *_ in clicks:
        first[user, request] = min(time, first.get((user, request), time))
    expected = sorted((u, t, numbers[u, r], p, i, c, first[u, r]) for (u, t, r, p, i), c in clicks.items())
    names = ("user", "time", "request", "position", "item", "task_click", "request_time")
    assert list(zip(*(array(arranged, name).tolist() for name in names), strict=True)) == expected
    assert dropped == len(rows) - len(clicks)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=1, max_size=30), st.integers(0, 10))
def test_gaps_cut_requests_as_a_plain_loop_does(rows: list[tuple[int, int]], gap: int) -> None:
    rows = sorted(rows)
    expected: list[int] = []
    for row, (user, time) in enumerate(rows):
        if row == 0 or rows[row - 1][0] != user:
            expected.append(0)
        else:
            expected.append(expected[-1] + (time - rows[row - 1][1] > gap))
    user, time = (np.array(column) for column in zip(*rows, strict=True))
    assert requests_by_gap(user, time, gap).tolist() == expected


def test_requests_that_come_back_are_told() -> None:
    user, key = np.zeros(4, np.int64), np.array([7, 5, 7, 5])
    number, recurring = number_requests(user, key)
    assert (number.tolist(), recurring) == ([0, 1, 0, 1], True)
    number, recurring = number_requests(user, np.array([7, 7, 5, 5]))
    assert (number.tolist(), recurring) == ([0, 0, 1, 1], False)


def test_a_requests_time_is_that_of_its_first_exposure() -> None:
    user, request, time = np.array([1, 1, 1, 4]), np.array([0, 1, 0, 0], np.int32), np.array([3, 5, 8, 2])
    assert request_times(user, request, time).tolist() == [3, 5, 3, 2]


def test_an_empty_bucket_stays_empty() -> None:
    arranged, dropped = arrange(bucket([]), gap_seconds=0)
    assert (arranged.num_rows, dropped) == (0, 0)
    assert arranged.schema.field("request").type == pa.int32()
