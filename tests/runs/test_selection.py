"""training.select: which figure of validation decides which weights stay."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exposure_logs import log, prepare_log
from genrank.cli import main
from genrank.errors import ConfigError
from genrank.recipes import recipe
from genrank.runs.selection import selecting
from genrank.training.checkpoint import Checkpoints
from genrank.training.trainer import TrainingConfig
from worlds import SPEC
from zoo import config as model_config

SMALL = ["model.width=16", "model.num_heads=2", "threads=1", "training.validate_every=0.25", "training.epochs=1"]


def train(data: Path, out: Path, *assignments: str, name: str = "genrank-small") -> int:
    flags = [flag for setting in (*SMALL, *assignments) for flag in ("--set", setting)]
    return main(["train", str(data), "--recipe", name, "--out", str(out), *flags])


def best(run: Path, figure: str) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max((row for row in rows if row["kind"] == "valid"), key=lambda row: row[figure])["step"]


def best_step(run: Path) -> int:
    return Checkpoints.load(Checkpoints(run / "checkpoints").latest())[1]["best_step"]


FIGURES = {"loss/click": 0.4, "loss/dwell": 1.2, "auc/click": 0.7, "gauc/click": 0.6, "score": -1.6}


@pytest.mark.parametrize(
    ("select", "score"),
    [("", -1.6), ("click.auc", 0.7), ("click.gauc", 0.6), ("click.logloss", -0.4), ("dwell.loss", -1.2)],
)
def test_the_named_figure_is_the_score(select: str, score: float) -> None:
    run = _run(select)
    assert selecting(lambda: FIGURES, run, SPEC)()["score"] == score


def test_a_figure_that_validation_does_not_have_is_refused_in_words() -> None:
    with pytest.raises(
        ConfigError, match=r"no user of the validation part has both; set training.select=click.logloss"
    ):
        selecting(lambda: {"score": 1.0}, _run("click.gauc"), SPEC)()


@pytest.mark.parametrize(("select", "figure"), [("click.auc", "auc/click"), ("like.auc", "auc/like")])
def test_the_weights_of_the_best_figure_stay(select: str, figure: str, data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "run", f"training.select={select}") == 0
    assert best_step(tmp_path / "run") == best(tmp_path / "run", figure)


def test_a_retriever_is_selected_by_its_figures(data: Path, tmp_path: Path) -> None:
    small = ("model.num_blocks=1", "model.num_candidates=30", "model.num_hard=8", "training.select=recall@100")
    assert train(data, tmp_path / "run", *small, name="grank-small") == 0
    assert best_step(tmp_path / "run") == best(tmp_path / "run", "recall@100")


@pytest.mark.parametrize(
    ("name", "select", "message"),
    [
        ("genrank-small", "click.acu", "training.select=click.acu: .* did you mean 'click.auc'"),
        ("genrank-small", "dwell.auc", "training.select=dwell.auc: .* did you mean"),
        ("genrank-small", "ndcg@10", "training.select=ndcg@10: validation has no such figure; there is: click.auc"),
        ("grank-small", "ndcg@11", "did you mean 'ndcg@10'"),
    ],
)
def test_an_unknown_name_is_refused_before_training_with_the_nearest(
    name: str, select: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert train(data, tmp_path / "run", f"training.select={select}", name=name) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_an_auc_of_one_class_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    click = [int(row % 3 == 0 and not 80 <= row < 90) for row in range(100)]
    data = prepare_log(tmp_path / "log", log(100, click=click)).folder
    assert train(data, tmp_path / "run", "training.select=click.auc") == 2
    assert "needs positives and negatives of click" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _run(select: str):
    return replace(recipe("genrank"), model=model_config("genrank"), training=TrainingConfig(select=select))
