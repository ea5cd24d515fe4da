from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.preparation.fitting import SAMPLE, Sample, bucket_means
from genrank.preparation.vocabulary import Vocabulary, bucket_of, encode, multi_codes, quantile_edges, split_values

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def test_equal_counts_are_in_order_of_text() -> None:
    vocabulary = Vocabulary.fit(pa.array(["a", "b", "c", "d"]), np.array([99, 2, 5, 2, 1]), min_count=2)
    assert vocabulary.values.to_pylist() == ["b", "a", "c"]
    assert vocabulary.index_of_code.tolist() == [0, 2, 1, 3, 0]
    assert vocabulary.size == 4


def test_values_that_training_never_saw_are_unknown_whatever_min_count(tmp_path: Path) -> None:
    vocabulary = Vocabulary.fit(pa.array(["a", "b"]), np.array([0, 0, 3]), min_count=0)
    vocabulary.write(tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet").to_pylist() == [{"value": "b", "index": 1, "count": 3}]


def test_codes_follow_the_order_of_text_with_zero_for_null() -> None:
    values, codes = encode(pa.array(["b", None, "a", "ä", "b"]))
    assert values.to_pylist() == ["a", "b", "ä"]
    assert codes.tolist() == [2, 0, 1, 3, 2]


def test_split_text_loses_blanks_and_repeats_and_keeps_its_order() -> None:
    lists = split_values(pa.array(["b, a,b,,", None, "", "c"]), ",")
    assert lists.to_pylist() == [["b", "a"], [], [], ["c"]]


def test_lists_with_nulls_lose_them() -> None:
    lists = split_values(pa.array([["x", None, "x", "y"], None, []], pa.list_(pa.string())), None)
    assert lists.to_pylist() == [["x", "y"], [], []]


def test_the_limit_counts_known_values_only() -> None:
    codes = multi_codes(pa.array([["a", "b", "c"], ["c"], []]), pa.array(["a", "b", "c"]))
    assert codes.mapped(np.array([0, 0, 7, 8], np.int32), max_values=1).to_pylist() == [[7], [8], []]


@given(NUMBERS, st.integers(2, 20))
def test_edges_increase_and_leave_no_bucket_empty(numbers: list[float], num_buckets: int) -> None:
    values = np.array(numbers)
    edges = quantile_edges(values, num_buckets)
    assert list(edges) == sorted(set(edges))
    assert len(edges) < num_buckets
    assert bucket_of(values, edges).min() == 1
    assert bucket_of(values, edges).max() == len(edges) + 1


def test_a_frequent_lowest_value_has_a_bucket_of_its_own() -> None:
    values = np.array([0.0] * 90 + [float(n) for n in range(1, 11)])
    edges = quantile_edges(values, 6)
    counts = np.bincount(bucket_of(values, edges))
    assert counts.tolist() == [0, 90, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("values", [[], [3.0, 3.0], [np.nan, np.inf]])
def test_constants_and_nothing_have_no_edges(values: list[float]) -> None:
    assert quantile_edges(np.array(values), 8) == ()


@given(NUMBERS, st.lists(st.floats(-100, 100), min_size=1, max_size=5, unique=True))
def test_buckets_hold_what_the_contract_says(numbers: list[float], edges: list[float]) -> None:
    boundaries = tuple(sorted(edges))
    for value, bucket in zip(numbers, bucket_of(np.array(numbers), boundaries), strict=True):
        low, high = (-np.inf, *boundaries)[bucket - 1], (*boundaries, np.inf)[bucket - 1]
        assert low <= value < high


def test_bucket_means_stand_at_an_edge_where_a_bucket_is_empty() -> None:
    assert bucket_means(np.array([1.0, 2.0, 9.0]), (3.0, 5.0)) == (1.5, 3.0, 9.0)
    assert bucket_means(np.zeros(0), ()) == (0.0,)


def test_a_sample_is_evenly_spaced_however_the_values_come() -> None:
    sample = Sample(3 * SAMPLE)
    for part in np.split(np.arange(20), [1, 6, 7, 15]):
        sample.add(part)
    assert sample.values().tolist() == list(range(0, 20, 3))
