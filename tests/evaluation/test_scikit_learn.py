"""Our metrics against those of scikit-learn, on random data with ties and weights."""

from types import ModuleType

import numpy as np
import pytest

from genrank.evaluation import metrics as m
from genrank.evaluation.retrieval_metrics import HR, NDCG, request_metrics

SEEDS = range(5)


@pytest.fixture(scope="module")
def sk() -> ModuleType:
    """scikit-learn's metrics, which take a second to import: workers that run none of these tests go without."""
    from sklearn import metrics

    return metrics


def random_rows(seed: int, *, num_rows: int = 400, num_scores: int = 23) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N) probabilities with many ties, labels that lean on them, weights of which some are 0."""
    random = np.random.default_rng(seed)
    probability = random.integers(1, num_scores, num_rows) / num_scores
    label = (random.random(num_rows) < probability**2).astype(float)
    return probability, label, random.gamma(0.7, 2.0, num_rows).round(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_log_loss_are_those_of_scikit_learn(sk: ModuleType, seed: int, weighted: bool) -> None:
    probability, label, weight = random_rows(seed)
    weights = weight if weighted else None
    assert m.auc(probability, label, weights) == pytest.approx(
        sk.roc_auc_score(label, probability, sample_weight=weights), rel=1e-12
    )
    assert m.logloss(probability, label, weights) == pytest.approx(
        sk.log_loss(label, probability, sample_weight=weights), rel=1e-12
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_normalized_entropy_is_log_loss_over_that_of_the_rate(sk: ModuleType, seed: int, weighted: bool) -> None:
    probability, label, weight = random_rows(seed)
    weights = weight if weighted else None
    rate = np.full(len(label), np.average(label, weights=weights))
    expected = sk.log_loss(label, probability, sample_weight=weights) / sk.log_loss(label, rate, sample_weight=weights)
    assert m.normalized_entropy(probability, label, weights) == pytest.approx(expected, rel=1e-12)
    # With D² = 1 - NE, scikit-learn has the same figure under another name.
    explained = sk.d2_log_loss_score(label, probability, sample_weight=weights)
    assert m.normalized_entropy(probability, label, weights) == pytest.approx(1 - explained, rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_gauc_is_the_mean_of_scikit_learns_auc_per_user(sk: ModuleType, seed: int) -> None:
    probability, label, weight = random_rows(seed)
    user = np.random.default_rng(100 + seed).integers(0, 40, len(label))
    aucs, masses = [], []
    for number in np.unique(user):
        mine = (user == number) & (weight > 0)
        if len(np.unique(label[mine])) == 2:
            aucs.append(sk.roc_auc_score(label[mine], probability[mine], sample_weight=weight[mine]))
            masses.append(weight[mine].sum())
    found = m.gauc(probability, label, user, weight)
    assert found.value == pytest.approx(np.average(aucs, weights=masses), rel=1e-12)
    assert found.unweighted == pytest.approx(np.mean(aucs), rel=1e-12)
    assert found.coverage == pytest.approx(np.sum(masses) / weight.sum(), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_is_scikit_learns_curve_of_quantiles(seed: int) -> None:
    from sklearn.calibration import calibration_curve

    random = np.random.default_rng(seed)
    probability = random.permutation(np.linspace(0.01, 0.99, 400))  # no ties: scikit-learn keeps them in one bin
    label = (random.random(400) < probability**1.5).astype(float)
    observed, predicted = calibration_curve(label, probability, n_bins=20, strategy="quantile")
    found = m.calibration(probability, label, num_bins=20)
    np.testing.assert_allclose(found.observed, observed, rtol=1e-9)
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-9)
    assert m.ece(probability, label, num_bins=20) == pytest.approx(np.abs(predicted - observed).mean(), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_absolute_error_is_that_of_scikit_learn(sk: ModuleType, seed: int, weighted: bool) -> None:
    predicted, _, weight = random_rows(seed)
    actual = np.random.default_rng(seed).gamma(2, 1, len(predicted))
    weights = weight if weighted else None
    expected = sk.mean_absolute_error(actual, predicted, sample_weight=weights)
    assert m.mae(predicted, actual, weights) == pytest.approx(expected, rel=1e-12)


def random_lists(seed: int, *, num_targets: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(R, I) which items are targets, every request having some, and scores without ties, which ours count half."""
    random = np.random.default_rng(seed)
    scores = random.random((50, 60)).argsort(1).argsort(1).astype(float)
    wanted = np.zeros_like(scores)
    for row in wanted:
        row[random.choice(60, num_targets or random.integers(1, 8), replace=False)] = 1
    return wanted, scores


def ranked(wanted: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Our metrics of them, per request."""
    request, item = np.nonzero(wanted)
    return request_metrics(request, (-scores).argsort(1).argsort(1)[request, item].astype(float))


@pytest.mark.parametrize("seed", SEEDS)
def test_ndcg_is_that_of_scikit_learn(sk: ModuleType, seed: int) -> None:
    wanted, scores = random_lists(seed, num_targets=None)
    found = ranked(wanted, scores)
    for k in NDCG:
        expected = [sk.ndcg_score(wanted[i : i + 1], scores[i : i + 1], k=k) for i in range(len(wanted))]
        np.testing.assert_allclose(found[f"ndcg@{k}"], expected, rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_hit_rate_and_reciprocal_rank_of_one_target_are_those_of_scikit_learn(sk: ModuleType, seed: int) -> None:
    wanted, scores = random_lists(seed, num_targets=1)
    found = ranked(wanted, scores)
    for k in HR:
        expected = sk.top_k_accuracy_score(wanted.argmax(1), scores, k=k, labels=np.arange(60))
        assert found[f"hr@{k}"].mean() == pytest.approx(expected, rel=1e-12)
    expected = sk.label_ranking_average_precision_score(wanted, scores)
    assert found["mrr"].mean() == pytest.approx(expected, rel=1e-12)
