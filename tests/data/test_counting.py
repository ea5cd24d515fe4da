"""Sums over windows against a loop in Python, in C++ and in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.data import counting
from genrank.data.counting import EventCounts, Questions, sorted_rows, to_halves

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


def test_halves_are_rounded_as_numpy_rounds() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = np.unique(every[np.isfinite(every)].astype(np.float64))
    between = (every[1:] + every[:-1]) / 2  # ties
    random = np.random.default_rng(0)
    edges = [65504, 65519.99, 65520, 65536, 1e300, np.inf, np.nan, 2.0**-25, 2.0**-24, 2.0**-14, 5e-324, 0.0]
    one = np.concatenate([every, between, np.nextafter(between, 9e9), np.nextafter(between, -9e9), edges])
    values = np.stack([one, -one, random.permutation(one)])
    values = np.append(values, random.standard_cauchy((3, 1000)) * 2.0 ** random.integers(-30, 10, (3, 1000)), axis=1)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).T
    found = to_halves(values)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint16)[~nan], expected.copy().view(np.uint16)[~nan])
