"""Counting by key and time against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrank.data.counting import EventCounts

events = st.lists(st.tuples(st.integers(0, 6), st.integers(-5, 5), st.integers(-9, 9)), max_size=30)
questions = st.lists(st.tuples(st.integers(-2, 9), st.integers(-8, 8), st.integers(0, 6)), min_size=1, max_size=10)


@given(rows=events, asked=questions)
def test_sums_are_of_the_keys_events_from_begin_to_before_end(
    rows: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]
) -> None:
    key, time, value = np.array(rows, np.int64).reshape(-1, 3).T
    index = EventCounts(key, np.arange(len(key)), times=time, values=[np.ones_like(value), value])
    wanted, end, length = np.array(asked, np.int64).T
    recent, ever = index.between(wanted, [end - length, None], end)
    for number, (k, e, w) in enumerate(asked):
        before = [(t, v) for key_, t, v in rows if key_ == k and t < e]
        assert ever[number].tolist() == [len(before), sum(v for _, v in before)]
        inside = [v for t, v in before if t >= e - w]
        assert recent[number].tolist() == [len(inside), sum(inside)]
