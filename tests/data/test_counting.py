"""Sums over windows against a loop in Python, in C++ and in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.data import counting
from genrank.data.counting import EventCounts, Questions, sorted_rows

events = st.lists(st.tuples(st.integers(0, 6), st.integers(-5, 5), st.integers(-9, 9)), max_size=30)
questions = st.lists(st.tuples(st.integers(-2, 9), st.integers(-8, 8)), min_size=1, max_size=10)
WINDOWS = (4, None, 1)


@pytest.mark.parametrize("compiled", [True, False])
@given(rows=events, asked=questions)
def test_sums_are_of_the_keys_events_from_begin_to_before_end(
    compiled: bool, rows: list[tuple[int, int, int]], asked: list[tuple[int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(counting, "_library", lambda: None)
        assert (counting._library() is not None) == compiled
        key, time, value = np.array(rows, np.int64).reshape(-1, 3).T.copy()
        index = EventCounts(key, time, np.stack([np.ones_like(value), value], axis=1, dtype=np.int32))
        wanted, end = np.array(asked, np.int64).T.copy()
        distinct = Questions(wanted, end)
        found = index.within(distinct.keys, distinct.times, WINDOWS)[..., distinct.number]
    assert len(distinct) == len(set(asked))
    for number, (k, e) in enumerate(asked):
        for window, sums in zip(WINDOWS, found, strict=True):
            inside = [v for key_, t, v in rows if key_ == k and t < e and (window is None or t >= e - window)]
            assert sums[:, number].tolist() == [len(inside), sum(inside)]


@given(rows=events)
def test_questions_out_of_order_are_answered_too(rows: list[tuple[int, int, int]]) -> None:
    key, time, value = np.array([*rows, (1, 1, 1)], np.int64).T.copy()
    index = EventCounts(key, time, value[:, None].astype(np.int32))
    forwards = index.within(key, time + 1, WINDOWS)
    backwards = index.within(key[::-1].copy(), time[::-1] + 1, WINDOWS)
    assert np.array_equal(forwards, backwards[..., ::-1])
    by_question = index.within(key, time + 1, WINDOWS, by_question=True)
    assert np.array_equal(forwards, np.moveaxis(by_question, 0, -1))


numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)


@given(st.lists(st.tuples(numbers, numbers), max_size=40))
def test_rows_are_in_order_of_key_and_time_and_equal_ones_keep_theirs(pairs: list[tuple[int, int]]) -> None:
    keys, times = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
    assert sorted_rows(keys, times).tolist() == np.lexsort((times, keys)).tolist()
