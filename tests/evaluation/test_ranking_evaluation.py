from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genrank.data.manifest import DataWarning
from genrank.evaluation.baselines import baselines_of
from genrank.evaluation.bootstrap import auc_intervals, difference, user_weights
from genrank.evaluation.metrics import auc, gauc, mae, normalized_entropy, pcoc
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.ranking_evaluation import evaluate
from genrank.schema import TaskSpec

N = 2000

CLICK = TaskSpec(name="click", kind="binary")


def predictions(seed: int = 0, skill: float = 1.0, **changes) -> Predictions:
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1, N)
    truth = 1 / (1 + np.exp(-logit))
    label = (random.random(N) < truth).astype(np.float32)
    dwell = np.where(label > 0, random.gamma(2, 5, N), np.nan).astype(np.float32)
    noisy = 1 / (1 + np.exp(-(skill * logit + random.normal(0, 0.3, N))))
    columns = {
        "exposure": np.arange(N),
        "user": random.integers(0, 60, N),
        "item": random.integers(0, 100, N),
        "request": np.arange(N) // 8,
        "time": 1_700_000_000 + np.arange(N) * 60,
        "position": np.arange(N) % 8,
        "history_length": random.integers(0, 300, N),
        "item_age": random.integers(0, 400_000, N),
        "item_train_count": random.integers(0, 3, N),
        "user_train_count": random.integers(0, 3, N),
        "labels": {"click": label, "dwell": dwell},
        "censored": {"dwell": np.zeros(N, bool)},
        "scores": {"click": noisy, "dwell": np.full(N, 10.0)},
        "oracle": {"click": truth},
    }
    return Predictions(**(columns | changes))


def counting(p: Predictions, score: np.ndarray) -> dict:
    return {"click": {"item_user_rate": score}}


def test_a_model_that_loses_to_a_baseline_is_told_so_with_the_margin() -> None:
    p = predictions(skill=-1.0)
    judged = evaluate(p, counting(p, predictions(skill=1.0).scores["click"]))
    (said,) = (sentence for sentence in judged.verdicts if "LOSES TO the baseline item user rate on AUC" in sentence)
    task = judged.tasks["click"]["auc"], judged.baselines["click"]["item_user_rate"]["auc"]
    assert f"({task[0] - task[1]:+.4f}, 95 % interval -" in said


@pytest.mark.parametrize(("kind", "beats"), [("leakage", False), ("times", True)])
def test_no_verdict_says_that_a_model_beats_where_the_data_leaks(kind: str, beats: bool) -> None:
    p = predictions()
    warning = DataWarning(kind=kind, message="something is wrong")
    judged = evaluate(p, counting(p, np.full(N, 0.3)), warnings=[warning])
    assert any(" beats " in sentence for sentence in judged.verdicts) == beats
    assert any("the model is above the baseline" in sentence for sentence in judged.verdicts) != beats
    assert judged.to_json()["warnings"] == [{"kind": kind, "message": "something is wrong"}]


def test_the_share_of_the_gap_to_the_oracle_is_reported() -> None:
    p = predictions()
    judged = evaluate(p, counting(p, np.full(N, 0.3)))
    model, oracle = judged.tasks["click"]["auc"], judged.baselines["click"]["oracle"]["auc"]
    assert judged.tasks["click"]["gap_closed"] == pytest.approx((model - 0.5) / (oracle - 0.5))
    assert 0.5 < model < oracle


def test_the_interval_is_over_users_and_covers_the_estimate() -> None:
    p = predictions()
    low, high = evaluate(p, {}).tasks["click"]["auc_ci"]
    assert low < evaluate(p, {}).tasks["click"]["auc"] < high
    one_user = predictions(user=np.zeros(N, int))
    low, high = evaluate(one_user, {}).tasks["click"]["auc_ci"]
    assert low == high  # resampling one user changes nothing


@pytest.mark.parametrize("rate", [None, 0.25])  # weighted: of a log that has a quarter of the negatives
def test_intervals_of_ne_pcoc_and_mae_are_those_of_the_metrics_over_drawn_users(rate: float | None) -> None:
    p = predictions()
    weights = None if rate is None else {"click": np.where(p.labels["click"] > 0, 1.0, 1 / rate)}
    p = p if weights is None else replace(p, weights=weights)
    found = evaluate(p, {}, num_bootstrap=40).tasks
    label = p.labels["click"].astype(float)
    clicked = ~np.isnan(p.labels["dwell"])
    weight = np.ones(N) if weights is None else weights["click"]
    values = {"ne": [], "pcoc": []}
    for drawn in user_weights(p.user, 40, 0):
        values["ne"].append(normalized_entropy(p.scores["click"], label, drawn * weight))
        values["pcoc"].append(pcoc(p.scores["click"], label, drawn * weight))
    for name, replicates in values.items():
        assert found["click"][f"{name}_ci"] == pytest.approx(np.quantile(replicates, [0.025, 0.975]))
        assert found["click"][f"{name}_ci"][0] < found["click"][name] < found["click"][f"{name}_ci"][1]
    errors = [
        mae(p.scores["dwell"][clicked], p.labels["dwell"][clicked], drawn)
        for drawn in user_weights(p.user[clicked], 40, 0)
    ]
    assert found["dwell"]["mae_ci"] == pytest.approx(np.quantile(errors, [0.025, 0.975]))


def test_a_paired_difference_is_narrower_than_the_intervals_themselves() -> None:
    p = predictions()
    label, users = p.labels["click"].astype(float), p.user
    scores = {"one": p.scores["click"], "other": p.scores["click"] + 1e-3 * p.oracle["click"]}
    intervals, replicates = auc_intervals(scores, label, users, num_replicates=100, seed=0)
    paired = difference(replicates["one"], replicates["other"])
    assert paired[1] - paired[0] < 0.1 * (intervals["one"][1] - intervals["one"][0])


def test_slices_cover_new_users_cold_items_positions_and_hours() -> None:
    judged = evaluate(predictions(), {}, num_bootstrap=30)
    assert set(judged.slices) == {"user", "item", "history length", "hour (UTC)", "position"}
    for group in ("user", "hour (UTC)", "position"):
        assert sum(part["click"]["num_exposures"] for part in judged.slices[group].values()) == N


def test_one_class_only_is_undefined_and_said() -> None:
    judged = evaluate(predictions(labels={"click": np.ones(N, np.float32)}, scores={"click": np.full(N, 0.5)}), {})
    assert judged.tasks["click"]["auc"] is None
    assert any("only one class" in sentence for sentence in judged.verdicts)


@pytest.mark.realdata
def test_counting_on_ml_100k_is_the_published_baseline(real_data: Path) -> None:
    from worlds import SPEC, builder, timelines

    del SPEC
    user, item, rating, time = np.loadtxt(real_data / "ml-100k" / "u.data", dtype=np.int64).T
    order = np.lexsort((item, time, user))
    user, item, rating, time = (column[order] for column in (user, item, rating, time))
    valid, test = np.quantile(time, [0.8, 0.9])
    t = timelines(lengths=np.bincount(user)[1:].tolist())
    like = (rating >= 4).astype(np.int8)
    t = replace(t, time=time, item=item.astype(np.int32), tasks=t.tasks | {"click": like})
    t = replace(t, request=np.unique(time, return_inverse=True)[1].astype(np.int32))
    b = builder(t)
    rows = np.flatnonzero(time >= test)
    found = baselines_of(t, CLICK, rows=rows, visible_end=b.visible_end, valid_start=int(valid))
    label, users = like[rows].astype(float), user[rows]
    assert auc(found["item_rate"], label) == pytest.approx(0.7055, abs=0.002)
    assert gauc(found["item_rate"], label, users).value == pytest.approx(0.7113, abs=0.002)
    assert auc(found["item_user_rate"], label) == pytest.approx(0.7378, abs=0.002)
