"""What a run reports while it trains: the bar, metrics.jsonl, and running figures of few labels."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from genrank.training.progress import MetricsFile, RunningMetrics
from genrank.training.progress_bar import ProgressBar


def test_resuming_drops_later_rows_and_those_that_a_crash_has_damaged(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.rewind(5)  # there is none yet
    assert file.path.read_text() == ""
    rows = [{"kind": "train", "step": step, "exposures": 7 * step} for step in (2, 4, 6)]
    for row in rows[:2]:
        file.record(row)
    with file.path.open("a") as damaged:
        damaged.write('{"kind": "train"}\n["step"]\n{"step": "4"}\nnone\n')
    file.record(rows[2])
    with file.path.open("a") as damaged:
        damaged.write('{"kind": "train", "step": 3')
    file.rewind(4)
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == rows[:2]


def test_there_is_no_running_auc_of_labels_that_are_all_alike() -> None:
    running = RunningMetrics(["click"], ["click"], torch.device("cpu"))
    logits, losses = {"click": torch.tensor([[0.5], [-0.5]])}, {"click": torch.tensor([0.25, 0.75])}
    running.add(losses, logits, {"click": torch.tensor([1.0, 1.0])})
    assert running.read() == {"loss/click": pytest.approx(0.5)}
    running.add(losses, logits, {"click": torch.tensor([1.0, 0.0])})
    assert running.read() == {"loss/click": pytest.approx(0.5), "auc/click": pytest.approx(1.0)}


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_says_figures_of_training_in_its_line_or_in_lines_of_their_own(terminal: bool) -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, force_terminal=terminal, width=160), "auc/click")
    bar.record({"kind": "train", "step": 20, "loss": 0.5, "auc/click": 0.625})
    line = "step     20  loss 0.5000  AUC 0.6250" in text.getvalue()
    assert line is not terminal
    bar.advance(20, 40, 100)
    bar.record({"kind": "train", "step": 40, "loss": 0.25})
    bar.record({"kind": "valid", "step": 40, "auc/click": 0.75})
    bar.advance(40, 40, 100)
    bar.close()
    assert "step     40  validation: valid AUC 0.7500" in text.getvalue()
    assert "loss 0.2500" in text.getvalue()
    assert bar.exposures == 200
