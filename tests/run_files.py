"""What a run has left in its folder."""

import json
from pathlib import Path

import numpy as np

LEARNING = ("--set", "training.log_steps=1", "--set", "loader.batch_tokens=512", "--set", "training.epochs=4")


def first_and_last_loss(run: Path) -> tuple[float, float]:
    """The mean training loss of the first quarter of the steps and of the last, of a run with the flags LEARNING."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) >= 8, "too few steps to tell"
    quarter = len(losses) // 4
    return float(np.mean(losses[:quarter])), float(np.mean(losses[-quarter:]))
