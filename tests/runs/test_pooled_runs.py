"""Runs whose log is read in pools of users: trained, resumed and evaluated as one that is in memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from exposure_logs import log, prepare_log
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.data.loader import LoaderConfig
from genrank.data.pools import StoredData, StoredPart
from genrank.data.sequence import SequenceConfig
from genrank.preparation.prepare import PrepareOptions
from genrank.runs.evaluate_ranking import predicted_with_baselines
from genrank.training.trainer import Trainer

USERS, ROWS = 24, 1200
TINY = ("model.width=8", "model.feedforward=16", "model.num_heads=2", "model.num_blocks=1", "model.embedding_dim=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = log(ROWS, user=[f"u{row % USERS}" for row in range(ROWS)])
    options = PrepareOptions(threads=2, memory_limit="1GB", num_buckets=8)
    return prepare_log(tmp_path_factory.mktemp("pools"), rows, options=options).folder


def train(folder: Path, out: Path, **settings: object) -> list[str]:
    chosen = {"loader.max_exposures": 600, "loader.batch_tokens": 64, "training.epochs": 2} | settings
    flags = [flag for setting in (*TINY, *(f"{k}={v}" for k, v in chosen.items())) for flag in ("--set", setting)]
    return ["train", str(folder), "--recipe", "genrank-small", "--out", str(out), *flags]


def test_a_pooled_run_is_trained_and_judged(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train(folder, tmp_path / "run", **{"loader.max_exposures": 500})) == 0
    assert "the largest bucket of users has 150 exposures" in (tmp_path / "run" / "warnings.json").read_text()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["tasks"]["click"]["num_exposures"] == 120
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["kind"] == "valid"]
    assert len(valid) == 2
    assert all({"auc/click", "loss/click"} <= set(row) for row in valid)


def test_predictions_and_baselines_are_the_same_in_pools(folder: Path, tmp_path: Path) -> None:
    assert main(train(folder, tmp_path / "run")) == 0
    model = load_bundle(tmp_path / "run").model()

    def judged(max_exposures: int):
        loading = LoaderConfig(batch_tokens=200, shuffle=False, max_exposures=max_exposures)
        part = StoredPart(data=StoredData.open(folder), part="test", sequence=SequenceConfig(), loading=loading)
        return predicted_with_baselines(model, part)

    (whole, whole_baselines), (pooled, pooled_baselines) = judged(ROWS), judged(600)
    for name in ("exposure", "user", "item", "request", "time", "history_length", "item_age"):
        np.testing.assert_array_equal(getattr(pooled, name), getattr(whole, name), err_msg=name)
    np.testing.assert_array_equal(pooled.labels["click"], whole.labels["click"])
    np.testing.assert_allclose(pooled.scores["click"], whole.scores["click"], atol=1e-5)
    for name, values in whole_baselines["click"].items():
        np.testing.assert_allclose(pooled_baselines["click"][name], values, rtol=1e-12, err_msg=name)


def test_a_pooled_run_that_is_stopped_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(train(folder, tmp_path / "whole")) == 0
    step = Trainer.train_step

    def failing(trainer: Trainer, batch: object) -> None:
        if trainer.step == 17:  # seven behind the last checkpoint
            raise KeyboardInterrupt
        step(trainer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", failing)
        main(train(folder, tmp_path / "stopped", **{"training.checkpoint_steps": 10}))
    assert (tmp_path / "stopped" / "checkpoints" / "latest").read_text().strip() == "step-00000010"
    assert main(["train", str(folder), "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    weights = [next((tmp_path / name / "bundle").glob("*/model.safetensors")) for name in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
