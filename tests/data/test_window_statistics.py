"""Window statistics equal the plain NumPy reference bit for bit, with a compiler and without."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from counted_logs import RATES, random_events, random_item_features, schema
from genrank.data import counting
from genrank.data.window_statistics import WindowStatistics
from plain_statistics import PlainStatistics


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("piece", [3, counting.PIECE])
@examples(60, 15)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 90))
def test_answers_equal_the_plain_ones(compiled: bool, piece: int, seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    log, asked, features = random_events(random, size), random_events(random, 40), random_item_features(random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "PIECE", piece)
        if not compiled:
            patch.setattr(counting, "_library", lambda: None)
        wanted = schema(request=True, gap=0)
        counted = WindowStatistics(wanted, log, rates=RATES, item_features=features)
        found = counted.answers(asked.user, asked.item, asked.request_time)
    plain = PlainStatistics(wanted, log, rates=RATES, item_features=features)
    assert found.tobytes() == plain.answers(asked.user, asked.item, asked.request_time).tobytes()
    for owner, tasks in plain.residuals.items():
        for task, residuals in tasks.items():
            known = log.target & (log.labels[task] >= 0)
            assert np.array_equal(counted.residuals[owner][task][known], residuals[known])


def test_a_large_log_is_counted_the_same() -> None:
    random = np.random.default_rng(0)
    size = 30_000
    asked = np.sort(random.integers(0, 20 * 86_400, size))
    log = replace(
        random_events(random, size), user=random.integers(1, 900, size), time=asked + random.integers(0, 99, size),
        request_time=asked,
    )  # fmt: skip
    features, wanted = random_item_features(random), schema(request=True, gap=0)
    found, expected = (
        kind(wanted, log, rates=RATES, item_features=features).answers(log.user, log.item, log.request_time)
        for kind in (WindowStatistics, PlainStatistics)
    )
    assert found.tobytes() == expected.tobytes()


def test_without_a_compiler_numpy_counts_and_the_log_says_why(monkeypatch, caplog) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert counting._library.__wrapped__() is None
    assert "no C++ compiler found" in caplog.text
    assert "NumPy" in caplog.text
