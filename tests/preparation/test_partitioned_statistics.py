"""Statistics counted bucket by bucket and partition by partition are those of the whole log, bit for bit."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from counted_logs import RATES, random_events, random_item_features, schema
from genrank.preparation import key_partitions
from genrank.preparation.partitioned_statistics import PartitionedStatistics
from plain_statistics import PlainStatistics

SCHEMA = schema(request=True, gap=0)


@pytest.mark.parametrize(("records", "chunk"), [(4, 3), (30, 7), (key_partitions.RECORDS, key_partitions.CHUNK)])
@examples(60, 20)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 90), num_buckets=st.integers(1, 4))
def test_buckets_get_what_the_whole_log_would_give(
    records: int, chunk: int, seed: int, size: int, num_buckets: int
) -> None:
    random = np.random.default_rng(seed)
    log, features = random_events(random, size), random_item_features(random)
    rows = [np.flatnonzero(log.user % num_buckets == number) for number in range(num_buckets)]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(key_partitions, "RECORDS", records)
        patch.setattr(key_partitions, "CHUNK", chunk)
        counted = PartitionedStatistics(SCHEMA, RATES, features, Path(folder), num_rows=size)
        for mine in rows:
            counted.add(log.take(mine))
        counted.count()
        found = [counted.answers(number, log.take(mine)) for number, mine in enumerate(rows)]
    plain = PlainStatistics(SCHEMA, log, rates=RATES, item_features=features)
    expected = plain.answers(log.user, log.item, log.request_time)
    for mine, answers in zip(rows, found, strict=True):
        assert answers.tobytes() == expected[mine].tobytes()


def test_records_are_spread_over_partitions_and_counted_in_chunks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(key_partitions, "RECORDS", 10)
    monkeypatch.setattr(key_partitions, "CHUNK", 5)
    random = np.random.default_rng(0)
    log = random_events(random, 90)
    counted = PartitionedStatistics(SCHEMA, RATES, random_item_features(random), tmp_path, num_rows=90)
    counted.add(log)
    (by_item, *_), files = counted.partitions.values(), sorted(tmp_path.glob("*/records-*"))
    assert by_item.num_partitions == 9
    assert len(files) > 10
    assert max(len(list(by_item._chunks(number))) for number in range(9)) > 1
    counted.count()
    assert not list(tmp_path.glob("*/records-*"))
