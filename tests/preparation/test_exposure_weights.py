"""Weights of exposures and down-sampled negatives: from the schema to losses, probabilities and what is served."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from case_logs import rows as case_rows
from exposure_logs import CLICK, SCHEMA, log, prepare_log
from genrank.batch import map_arrays
from genrank.cli import main
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.errors import LogError
from genrank.evaluation.metrics import pcoc
from genrank.log_settings import Sampling
from genrank.models.ranker import build_ranker
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.schema import Task
from genrank.training.objective import RankingObjective
from parity import assert_ranked_as_judged
from zoo import config

WEIGHTED = replace(SCHEMA, columns=replace(SCHEMA.columns, weight="w"))
RATED = replace(SCHEMA, sampling=Sampling(rate_column="kept"))


def weights_of(folder: Path, schema, **columns: list) -> list[float]:
    """By row of the log."""
    t = PreparedData.load(prepare_log(folder, log(**columns), schema).folder).timelines
    return [weight for _, weight in sorted(zip(t.time.tolist(), t.weight.tolist(), strict=True))]


def test_weights_and_rates_become_weights(tmp_path: Path) -> None:
    w = [float(row % 4) for row in range(60)]
    kept = [0.5 if row % 2 else 1.0 for row in range(60)]
    assert weights_of(tmp_path / "w", WEIGHTED, w=w) == w
    assert weights_of(tmp_path / "r", RATED, kept=kept) == [1 / rate for rate in kept]
    both = replace(RATED, columns=WEIGHTED.columns)
    assert weights_of(tmp_path / "b", both, w=w, kept=kept) == [x / rate for x, rate in zip(w, kept, strict=True)]
    assert PreparedData.load(prepare_log(tmp_path / "none", log()).folder).timelines.weight is None


@pytest.mark.parametrize("odd", [-1.0, float("nan"), float("inf"), 1e39, None])
def test_odd_weights_are_refused(odd: float | None, tmp_path: Path) -> None:
    with pytest.raises(
        LogError, match=r"columns.weight: expected numbers that are 0 or more, at most 1e18 in 'w', found 2 "
    ):
        prepare_log(tmp_path, log(w=[odd if row in (7, 9) else 1.0 for row in range(60)]), WEIGHTED)


@pytest.mark.parametrize("odd", [0.0, 1e-40, 1.5, -0.1])
def test_odd_rates_are_refused(odd: float, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"above 0 and at most 1 in 'kept', found 1 others"):
        prepare_log(tmp_path, log(kept=[odd if row == 7 else 1.0 for row in range(60)]), RATED)


def test_settings_that_would_correct_twice_or_name_no_task_are_refused() -> None:
    with pytest.raises(ValueError, match="correct twice"):
        Sampling(negative_rate=0.5, rate_column="kept")
    with pytest.raises(ValueError, match="negative_rate is 0"):
        Sampling(negative_rate=0)
    with pytest.raises(ValueError, match="give that too"):
        Sampling(task="click", rate_column="kept")
    with pytest.raises(ValueError, match="a binary task is needed"):
        replace(SCHEMA, tasks=(), sampling=Sampling(negative_rate=0.5))
    dwell = Task(name="dwell", kind="duration", column="dwell")
    with pytest.raises(ValueError, match="'dwell' is not a binary task"):
        replace(SCHEMA, tasks=(CLICK, dwell), sampling=Sampling(negative_rate=0.5, task="dwell"))


@pytest.mark.parametrize("name", ["genrank", "hstu", "din"])
def test_the_loss_of_weights_is_that_of_copies(name: str, tmp_path: Path) -> None:
    """Gradients too: a weight of 0 leaves the exposure out, one of 2 counts it twice."""
    prepared = prepare_log(tmp_path, log(w=[float(row % 3) for row in range(60)]), WEIGHTED)
    data = PreparedData.load(prepared.folder)
    b = data.builder(SequenceConfig(max_history=8))
    batch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    torch.manual_seed(0)
    model = build_ranker(config(name), data.manifest.spec, max_history=8).eval()
    objective = RankingObjective(model, {})
    losses, labels, _, weight = objective.measure(objective.forward(batch), batch)
    plain = replace(batch, candidates=replace(batch.candidates, weight=None))
    each = objective.measure(objective.forward(plain), plain).losses["click"]
    copies = torch.repeat_interleave(torch.arange(len(each)), weight.long())
    mean = losses["click"].sum() / weight.sum()
    torch.testing.assert_close(mean, each[copies].mean())
    assert labels["click"].isnan().sum() == 0
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(mean, parameters, allow_unused=True)
    for one, other in zip(ours, torch.autograd.grad(each[copies].mean(), parameters, allow_unused=True), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_models_probability_is_corrected_by_the_rate(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, log(), replace(SCHEMA, sampling=Sampling(negative_rate=0.1)))
    data = PreparedData.load(prepared.folder)
    b = data.builder(SequenceConfig())
    batch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    model = build_ranker(config("genrank"), data.manifest.spec, max_history=256).eval()
    with torch.no_grad():
        logits = model(batch)
        found = model.predict(logits, batch)["click"]
    raw = torch.sigmoid(logits["click"].squeeze(-1))
    torch.testing.assert_close(found, raw / (raw + (1 - raw) / 0.1))


def test_the_case_of_negatives_kept_with_a_known_rate(tmp_path: Path) -> None:
    """Labels are coin flips and half of the negatives was kept, at twice the weight: calibrated, nothing is learnt."""
    rng = np.random.default_rng(1)
    full = case_rows()
    kept = [row | {"w": 1.0 if row["clk"] else 2.0} for row in full if row["clk"] or rng.random() < 0.5]
    columns = {name: [row[key] for row in kept] for name, key in (("user", "uid"), ("item", "iid"), ("time", "ts"))}
    columns |= {"click": [row["clk"] for row in kept], "w": [row["w"] for row in kept]}
    data = prepare_log(tmp_path, columns, WEIGHTED).folder
    arguments = ["--recipe", "mlp-small", "--set", "threads=1", "--set", "training.epochs=1"]
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *arguments]) == 0
    judged = evaluate_run(tmp_path / "run").tasks["click"]
    assert judged["weight"] > judged["num_exposures"]
    assert 0.3 < judged["auc"] < 0.7
    assert 0.6 < judged["pcoc"] < 1.6


@pytest.fixture(scope="module")
def sampled(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated log with a quarter of the negatives, and a model trained on it."""
    folder = tmp_path_factory.mktemp("sampled")
    table = pq.read_table(feed / "exposures")
    keep = (table["click"].to_numpy() == 1) | (np.random.default_rng(0).random(table.num_rows) < 0.25)
    pq.write_table(table.filter(keep), folder / "log.parquet")
    for path in feed.iterdir():
        if path.suffix in (".parquet", ".npy"):
            (folder / path.name).write_bytes(path.read_bytes())
    schema = (feed / "schema.toml").read_text(encoding="utf-8") + "\n[sampling]\nnegative_rate = 0.25\n"
    (folder / "schema.toml").write_text(schema, encoding="utf-8")
    arguments = ["--schema", str(folder / "schema.toml"), "--out", str(folder / "data")]
    assert main(["prepare", str(folder / "log.parquet"), *arguments]) == 0
    settings = ("threads=1", "model.width=16", "model.num_heads=2", "training.epochs=3")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    arguments = ["--recipe", "genrank-small", "--out", str(folder / "run"), *flags]
    assert main(["train", str(folder / "data"), *arguments]) == 0
    return folder


def test_sampled_probabilities_are_those_of_the_whole_feed(sampled: Path, data: Path) -> None:
    judged = evaluate_run(sampled / "run").tasks["click"]
    assert 0.8 < judged["pcoc"] < 1.25
    assert judged["ece"] < 0.1
    whole = PreparedData.load(data).timelines.tasks["click"]
    part = PreparedData.load(sampled / "data").timelines.tasks["click"]
    assert part.mean() > 1.8 * whole.mean()  # without the correction PCOC would be the sampled rate's over the whole's
    assert judged["weight"] / judged["num_exposures"] == pytest.approx((1 - part.mean()) * 4 + part.mean(), rel=0.1)


def test_what_is_ranked_is_corrected_as_what_is_evaluated(sampled: Path) -> None:
    assert_ranked_as_judged(sampled / "run", sampled / "data")


def test_the_correction_is_a_shift_of_the_logit() -> None:
    p, w = 0.3, 0.1
    logit = math.log(p / (1 - p)) + math.log(w)
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(p / (p + (1 - p) / w))
    assert pcoc(np.array([0.5]), np.array([1.0])) == 0.5


def test_a_part_that_weighs_nothing_is_refused(tmp_path: Path) -> None:
    last = [0.0 if row >= 54 else 1.0 for row in range(60)]
    with pytest.raises(LogError, match="all exposures of the test part weigh 0"):
        prepare_log(tmp_path, log(w=last), WEIGHTED)
