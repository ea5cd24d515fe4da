from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.batch import Jagged
from genrank.data.vocabulary_files import NEVER, IndexReader, StoredVocabulary
from genrank.preparation import admission
from genrank.preparation.admission import PeriodCounts, Periods, admit, first_sight
from genrank.preparation.fitting import SAMPLE, Sample, bucket_means
from genrank.preparation.vocabulary import bucket_of, encode, quantile_edges, split_values

DAYS = Periods(ends=np.array([100, 200, 300, 400]))
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def admitted(values: list[str], seen: list[tuple[int, int]], **options: Any) -> StoredVocabulary:
    """The vocabulary after code and period were `seen`, with a day for a period."""
    counts = PeriodCounts(len(values) + 1, len(DAYS))
    for code, period in seen:
        counts.add(np.array([code]), np.array([period]))
    return admit(pa.array(values, pa.string()), counts, DAYS, **options)


def test_equal_counts_are_in_order_of_text() -> None:
    seen = [(1, 0)] * 2 + [(2, 0)] * 5 + [(3, 0)] * 2 + [(4, 0), (0, 0)]
    vocabulary = admitted(["c", "b", "a", "d"], seen, min_count=2)
    assert vocabulary.index.tolist() == [3, 1, 2, 0]
    assert vocabulary.admitted.tolist() == [100, 100, 100, NEVER]
    assert vocabulary.size_at(100) == 4


def test_a_value_is_admitted_when_it_was_seen_often_enough_and_keeps_its_index() -> None:
    seen = [(1, 0), (2, 1), (2, 1), (1, 2), (3, 2), (3, 2), (3, 2)]
    vocabulary = admitted(["a", "b", "c"], seen, min_count=2)
    assert vocabulary.index.tolist() == [3, 1, 2]  # of one day, the one that was seen more often on it
    assert vocabulary.count.tolist() == [2, 2, 3]
    assert [vocabulary.size_at(time) for time in (99, 100, 200, 300)] == [1, 1, 2, 4]
    assert vocabulary.index_of_code(2).tolist() == [0, 0, 1, 0]
    assert list(vocabulary.categories(3).items()) == [("b", 1), ("c", 2)]
    late = admitted(["a", "b", "c", "d"], [(4, 1), (4, 1), (1, 0)], min_count=2, known=vocabulary)
    assert late.index.tolist() == [3, 1, 2, 4]
    assert late.count.tolist() == [2, 2, 3, 2]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=40), st.integers(1, 3), st.integers(1, 3))
def test_vocabularies_grow_to_what_they_are_at_once(seen: list[tuple[int, int]], cut: int, min_count: int) -> None:
    values = ["e", "a", "d", "b", "c"]
    whole = admitted(values, seen, min_count=min_count)
    first = admitted(values, [each for each in seen if each[1] < cut], min_count=min_count)
    grown = admitted(values, [each for each in seen if each[1] >= cut], min_count=min_count, known=first)
    assert grown.index.tolist() == whole.index.tolist()
    assert grown.count.tolist() == whole.count.tolist()
    assert grown.admitted.tolist() == whole.admitted.tolist()


def test_counts_are_the_same_whether_few_or_all_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, periods = np.array([3, 1, 3, 2]), np.array([0, 1, 0, 1])
    found = []
    for dense in (2**22, -1):
        monkeypatch.setattr(admission, "DENSE", dense)
        counts = PeriodCounts(100, 2)
        for _ in range(2):
            counts.add(codes, periods)
        found.append([part.tolist() for part in (*counts.seen(), counts.until(1))])
    assert found[0] == found[1]
    assert found[0][:3] == [[1, 2, 3], [1, 1, 0], [2, 2, 4]]


def test_values_that_training_never_saw_are_unknown_whatever_min_count(tmp_path: Path) -> None:
    vocabulary = admitted(["a", "b"], [(2, 0)] * 3, min_count=0)
    vocabulary.write(tmp_path / "v.parquet")
    stored = [{"value": "a", "index": 0, "count": 0, "admitted": None}]
    stored.append({"value": "b", "index": 1, "count": 3, "admitted": 100})
    assert pq.read_table(tmp_path / "v.parquet").to_pylist() == stored
    again = StoredVocabulary.load(tmp_path / "v.parquet")
    assert (again.index.tolist(), again.admitted.tolist()) == ([0, 1], [NEVER, 100])


def test_first_sight_orders_by_day_and_text() -> None:
    values = first_sight([pa.array(["b", "a"]), pa.array(["c", "b"])], [np.array([2, 1]), np.array([1, 0])])
    assert values.to_pylist() == ["b", "a", "c"]


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


def test_the_limit_counts_known_values_only(tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    vocabulary = admitted(["a", "b", "c"], [(2, 0), (2, 0), (3, 0)], max_values=1)
    vocabulary.write(tmp_path / "vocab" / "tags.parquet")
    codes = Jagged(np.array([1, 2, 3, 3], np.int32), np.array([0, 3, 4, 4]), np.array([0.5, 1, 2, 3], np.float32))
    found = IndexReader(tmp_path).lists("tags", 3, codes)
    assert (found.values.tolist(), found.offsets.tolist()) == ([1, 2], [0, 1, 2, 2])
    assert found.weights.tolist() == [1.0, 3.0]


def test_without_a_limit_all_known_values_of_a_list_stay(tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    admitted(["a", "b", "c"], [(1, 0), (2, 0), (3, 1)]).write(tmp_path / "vocab" / "tags.parquet")
    codes = Jagged(np.array([3, 1, 2, 3], np.int32), np.array([0, 3, 4]))
    found = IndexReader(tmp_path).lists("tags", 3, codes)
    assert (found.values.tolist(), found.offsets.tolist(), found.weights) == ([1, 2], [0, 2, 2], None)


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
