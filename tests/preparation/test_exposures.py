import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from genrank.data.arranging import arrange, array, drop_duplicates
from genrank.data.requests import number_requests, request_times, requests_by_gap
from genrank.log_settings import RequestSettings

ROWS = st.lists(st.tuples(*(st.integers(0, 3) for _ in range(5)), st.booleans()), max_size=30)


def bucket(rows: list[tuple]) -> pa.Table:
    """`rows`: (user, time, request, position, item, click) in the order of the log."""
    names = ("user", "time", "request", "position", "item", "row", "task_click")
    numbered = [(*row[:5], place, row[5]) for place, row in enumerate(rows)]
    placed = sorted(numbered, key=lambda row: (row[0], row[1], row[3], row[5]))  # stored order
    columns = list(zip(*placed, strict=True)) or [()] * 7
    types = (pa.int32(), pa.int64(), pa.int64(), pa.int32(), pa.int32(), pa.int64(), pa.int8())
    return pa.table({n: pa.array([int(v) for v in c], t) for n, c, t in zip(names, columns, types, strict=True)})


def plain_requests(kept: dict[tuple, tuple], max_gap: int) -> tuple[list[list[tuple]], int]:
    """One user's requests in order, each a list of (time, position, row, item, click, known), and how many recur."""
    of_key: dict[int, list[list[tuple]]] = {}
    for (time, request, position, item), (click, known, row) in sorted(kept.items()):
        mine = of_key.setdefault(request, [])
        if not mine or time - mine[-1][-1][0] > max_gap:
            mine.append([])
        mine[-1].append((time, position, -row, item, click, known))
    requests = [each for mine in of_key.values() for each in mine]

    def opening(request: list[tuple]) -> tuple:
        first = [each for each in request if each[0] == request[0][0]]
        return (request[0][0], *min((each[1], each[2]) for each in first))

    return sorted(requests, key=opening), len(requests) - len(of_key)


@examples(150, 50)
@given(ROWS, st.integers(0, 3), st.integers(0, 2))
def test_arranging_equals_a_plain_loop(rows: list[tuple], max_gap: int, settle: int) -> None:
    table = bucket(rows)
    known_at = array(table, "time") + array(table, "row") % (settle + 1)
    table = table.append_column("known_at", pa.array(known_at)).drop("row")
    kept_rows, num_duplicates = drop_duplicates(table)
    found = arrange(kept_rows, RequestSettings(max_gap_seconds=max_gap))
    kept: dict[int, dict[tuple, tuple]] = {}
    for row, (user, *key, click) in enumerate(rows):
        mine, new = kept.setdefault(user, {}), (int(click), key[0] + row % (settle + 1), -row)
        mine[tuple(key)] = max(mine.get(tuple(key), new), new)
    expected, again, late = [], 0, 0
    for user, mine in sorted(kept.items()):
        requests, recurring = plain_requests(mine, max_gap)
        again += recurring
        for number, request in enumerate(requests):
            later = [other[0][0] for other in requests if other[0][0] > request[0][0]]
            for time, position, row, item, click, known in request:
                late += known >= min(later, default=known + 1)
                expected.append((user, known, time, number, position, row, item, click, request[0][0]))
    names = ("user", "known_at", "time", "request", "position", "item", "task_click", "request_time")
    assert array(kept_rows, "item")[found.order].tolist() == array(found.table, "item").tolist()
    got = list(zip(*(array(found.table, name).tolist() for name in names), strict=True))
    assert got == [(*each[:5], *each[6:]) for each in sorted(expected)]
    assert (num_duplicates, found.num_recurring, found.num_late) == (len(rows) - len(got), again, late)


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


def test_an_id_that_comes_back_after_a_while_is_another_request() -> None:
    user, key, row = np.zeros(5, np.int64), np.array([1, 2, 1, 1, 2]), np.arange(5)
    number, again = number_requests(user, key, np.array([0, 10, 20, 2000, 2010]), (row,), max_gap=1800)
    assert (number.tolist(), again) == ([0, 1, 0, 2, 3], 2)
    number, again = number_requests(user, key, np.array([0, 10, 20, 1820, 1830]), (row,), max_gap=1820)
    assert (number.tolist(), again) == ([0, 1, 0, 0, 1], 0)


def test_of_requests_that_begin_together_the_first_of_the_log_is_first() -> None:
    user, time, row = np.zeros(4, np.int64), np.full(4, 7), np.array([3, 1, 2, 0])
    number, _ = number_requests(user, np.array([9, 9, 5, 4]), time, (row,), max_gap=0)
    assert number.tolist() == [1, 1, 2, 0]


def test_ids_that_fall_and_do_not_come_back_are_numbered_user_by_user_in_order_of_time() -> None:
    user, key, row = np.array([0, 0, 0, 0, 2, 2]), np.array([9, 9, 5, 7, 8, 3]), np.arange(6)
    number, again = number_requests(user, key, np.array([0, 1, 10, 20, 0, 10]), (row,), max_gap=5)
    assert (number.tolist(), again) == ([0, 0, 1, 2, 0, 1], 0)


def test_of_repeated_rows_the_largest_number_and_then_the_largest_list_is_kept() -> None:
    table = pa.table(
        {
            "user": pa.array([1] * 6, pa.int32()),
            "time": pa.array([5, 5, 5, 6, 6, 7], pa.int64()),
            "item": pa.array([2, 2, 2, 2, 2, 2], pa.int32()),
            "dwell": pa.array([np.nan, 0.5, 0.25, 1.0, 1.0, np.nan], pa.float32()),
            "tags": pa.array([[9], [1], [2], [1, 2], [1, 3], []], pa.list_(pa.int32())),
        }
    )
    kept, dropped = drop_duplicates(table.select(["user", "time", "item", "dwell", "tags"]))
    assert dropped == 3
    assert kept.column("tags").to_pylist() == [[1], [1, 3], []]


def test_a_requests_time_is_that_of_its_first_exposure() -> None:
    user, request, time = np.array([1, 1, 1, 4]), np.array([0, 1, 0, 0], np.int32), np.array([3, 5, 8, 2])
    assert request_times(user, request, time).tolist() == [3, 5, 3, 2]


def test_an_empty_bucket_stays_empty() -> None:
    found = arrange(bucket([]), RequestSettings())
    assert (found.table.num_rows, found.num_recurring, found.num_late) == (0, 0, 0)
    assert found.table.schema.field("request").type == pa.int32()
