import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from genrank.evaluation import metrics as m

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=60)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, label, other = np.array(rows).T
    return score / 7, label.astype(float), other


def pair_auc(score: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float | None:
    """Every pair of a positive and a negative, one by one."""
    won = total = 0.0
    for i in np.flatnonzero(label == 1):
        for j in np.flatnonzero(label == 0):
            pair = weight[i] * weight[j]
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
            total += pair
    return won / total if total else None


@given(ROWS)
def test_auc_equals_counting_pairs_with_ties_and_weights(rows) -> None:
    score, label, weight = columns(rows)
    for found, weights in ((m.auc(score, label), np.ones(len(label))), (m.auc(score, label, weight), weight)):
        expected = pair_auc(score, label, weights)
        assert (found is None) == (expected is None)
        assert found is None or found == pytest.approx(expected)


@given(ROWS)
def test_gauc_equals_a_loop_over_users(rows) -> None:
    score, label, user = columns(rows)
    total = weight = 0.0
    each = []
    for number in np.unique(user):
        mine = user == number
        value = pair_auc(score[mine], label[mine], np.ones(mine.sum()))
        if value is not None:
            total, weight = total + value * mine.sum(), weight + mine.sum()
            each.append(value)
    found = m.gauc(score, label, user)
    assert found.coverage == pytest.approx(weight / len(label))
    assert (found.value is None) == (weight == 0)
    if weight:
        assert found.value == pytest.approx(total / weight)
        assert found.unweighted == pytest.approx(np.mean(each))


@given(ROWS)
def test_auc_does_not_change_under_a_monotone_transform(rows) -> None:
    score, label, _ = columns(rows)
    assert m.auc(np.exp(3 * score), label) == m.auc(score, label)


def test_probabilities_that_are_the_rate_have_normalized_entropy_one_and_are_calibrated() -> None:
    label = np.array([1.0, 0, 0, 0] * 50)
    constant = np.full(200, 0.25)
    assert m.normalized_entropy(constant, label) == pytest.approx(1)
    assert m.pcoc(constant, label) == pytest.approx(1)
    assert m.logloss(constant, label) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    assert m.ece(np.full(200, 0.35), label, num_bins=1) == pytest.approx(0.1)


@examples(50, 20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_xauc_equals_counting_pairs(rows) -> None:
    predicted, actual = np.array(rows, float).T
    right = total = 0.0
    for i in range(len(rows)):
        for j in range(i):
            if actual[i] != actual[j]:
                agreement = np.sign(actual[i] - actual[j]) * np.sign(predicted[i] - predicted[j])
                right, total = right + (1 + agreement) / 2, total + 1
    found = m.xauc(predicted, actual)
    assert (found is None) == (total == 0)
    assert found is None or found == pytest.approx(right / total)


def test_sampled_xauc_is_close_to_the_exact_one() -> None:
    random = np.random.default_rng(0)
    actual = random.gamma(2, 1, 1400)
    predicted = actual + random.normal(0, 1, 1400)
    exact = m.xauc(predicted, actual)
    sampled = m.xauc(np.tile(predicted, 2), np.tile(actual, 2))
    assert sampled == pytest.approx(exact, abs=0.003)


def test_what_is_not_defined_is_none() -> None:
    nothing = np.zeros(0)
    assert m.auc(nothing, nothing) is None
    assert m.logloss(nothing, nothing) is None
    assert m.mae(nothing, nothing) is None
    assert m.gauc(np.ones(3), np.ones(3), np.arange(3)).value is None
    assert m.pcoc(np.ones(2), np.zeros(2)) is None
