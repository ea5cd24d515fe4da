"""A weight of k is k copies of the exposure: in every metric, in intervals, in the loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from genrank.data.weights import metric_weights
from genrank.evaluation import metrics as m
from genrank.evaluation.baselines import baselines_of
from genrank.evaluation.bootstrap import auc_intervals, gauc_replicates
from genrank.schema import TaskSpec
from genrank.training.objective import num_known
from worlds import SPEC, builder, timelines

ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25
)  # score, label, user, weight
OF_PROBABILITIES: dict[str, Callable[..., Any]] = {
    "auc": m.auc,
    "logloss": m.logloss,
    "ne": m.normalized_entropy,
    "pcoc": m.pcoc,
}


def same(weighted: float | None, copied: float | None) -> bool:
    return weighted == copied if None in (weighted, copied) else weighted == pytest.approx(copied, rel=1e-9, abs=1e-12)


@examples(150, 40)
@given(ROWS)
def test_a_weight_is_so_many_copies_in_every_metric(rows: list[tuple[int, bool, int, int]]) -> None:
    score, label, user, weight = (np.array(column) for column in zip(*rows, strict=True))
    probability, label, weight = (score + 0.5) / 11, label.astype(np.float64), weight.astype(np.float64)
    copies = np.repeat(np.arange(len(rows)), weight.astype(int))
    for name, metric in OF_PROBABILITIES.items():
        assert same(metric(probability, label, weight), metric(probability[copies], label[copies])), name
    weighted = m.gauc(probability, label, user, weight)
    copied = m.gauc(probability[copies], label[copies], user[copies])
    if copied.value is not None:
        assert [same(*pair) for pair in zip(weighted, copied, strict=True)] == [True, True, True]
    assert same(m.mae(probability, label, weight), m.mae(probability[copies], label[copies]))
    assert same(m.xauc(probability, score, weight), m.xauc(probability[copies], score[copies]))
    # Rows that are predicted alike may be told apart by their order only: each gets a score of its own.
    apart = probability + np.arange(len(rows)) * 1e-6
    assert same(m.ece(apart, label, weights=weight), m.ece(apart[copies], label[copies]))


def test_weights_of_one_change_nothing() -> None:
    random = np.random.default_rng(0)
    score, label, user = random.random(500), (random.random(500) < 0.3).astype(float), random.integers(0, 20, 500)
    one = np.ones(500)
    for metric in (*OF_PROBABILITIES.values(), m.mae, m.xauc):
        assert metric(score, label, one) == pytest.approx(metric(score, label), rel=1e-14)
    assert m.gauc(score, label, user, one) == m.gauc(score, label, user)
    assert m.ece(score, label, weights=one) == m.ece(score, label)
    options = {"num_replicates": 30, "seed": 1}
    for found in (auc_intervals, gauc_replicates):
        assert found({"x": score}, label, user, **options, weights=one) == found({"x": score}, label, user, **options)


def test_intervals_draw_users_with_their_weights() -> None:
    random = np.random.default_rng(0)
    score, label, user = random.random(400), (random.random(400) < 0.4).astype(float), random.integers(0, 40, 400)
    weight = random.integers(1, 4, 400).astype(float)
    copies = np.repeat(np.arange(400), weight.astype(int))
    options = {"num_replicates": 25, "seed": 3}
    weighted = auc_intervals({"x": score}, label, user, **options, weights=weight)[1]["x"]
    copied = auc_intervals({"x": score[copies]}, label[copies], user[copies], **options)[1]["x"]
    np.testing.assert_allclose(weighted, copied, rtol=1e-9)
    weighted = gauc_replicates({"x": score}, label, user, **options, weights=weight)["x"]
    copied = gauc_replicates({"x": score[copies]}, label[copies], user[copies], **options)["x"]
    np.testing.assert_allclose(weighted, copied, rtol=1e-9)


def test_a_kept_negative_stands_for_those_that_were_left_out() -> None:
    t = timelines(lengths=[20], seed=0)
    t = replace(t, tasks=t.tasks | {"click": (np.arange(20) % 3 - 1).astype(np.int8)})
    plain, sampled = TaskSpec(name="click", kind="binary"), TaskSpec(name="click", kind="binary", negative_rate=0.25)
    assert metric_weights(t, plain) is None
    assert metric_weights(t, sampled, np.arange(3)).tolist() == [1.0, 4.0, 1.0]
    t = replace(t, weight=np.full(20, 2.0, np.float32))
    assert metric_weights(t, plain, np.arange(3)).tolist() == [2.0, 2.0, 2.0]
    assert metric_weights(t, sampled, np.arange(3)).tolist() == [2.0, 8.0, 2.0]


def test_counting_counts_weights() -> None:
    t = timelines(lengths=[30, 20], seed=1)
    b, rows = builder(t), np.arange(40, 50)
    options = {"rows": rows, "visible_end": b.visible_end, "valid_start": int(t.time.max())}
    task, dwell = SPEC.tasks
    twice = replace(t, weight=np.full(50, 2.0, np.float32))
    assert baselines_of(twice, task, **options)["base_rate"] == pytest.approx(
        baselines_of(t, task, **options)["base_rate"]
    )
    sampled = baselines_of(t, replace(task, negative_rate=0.1), **options)["base_rate"][0]
    plain = baselines_of(t, task, **options)["base_rate"][0]
    assert sampled / (1 - sampled) == pytest.approx(0.1 * plain / (1 - plain))
    heavy = replace(t, weight=np.where(np.arange(50) == 3, 1e6, 1.0).astype(np.float32))
    assert baselines_of(heavy, dwell, **options)["mean"][0] == pytest.approx(t.tasks["dwell"][3], rel=0.01)


def test_a_loss_is_averaged_over_weights() -> None:
    label = torch.tensor([1.0, 0.0, float("nan"), 1.0])
    assert num_known(label, None).item() == 3
    assert num_known(label, torch.tensor([2.0, 0.5, 9.0, 1.0])).item() == 3.5
