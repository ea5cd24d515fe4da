"""Output of a run in training: running metrics, metrics.jsonl, TensorBoard. For the bar see progress_bar.py."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from genrank.documents import parse_json
from genrank.training.objective import SMALLEST, num_known

log = logging.getLogger(__name__)

NUM_BINS = 512  # of the running AUC: logits between -8 and 8


class RunningMetrics:
    """Loss and AUC since the last read-out, kept on the device: adding to them doesn't synchronise."""

    def __init__(self, losses: Sequence[str], binary: Sequence[str], device: torch.device):
        self.losses, self.binary = tuple(losses), tuple(binary)
        self.totals = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in losses}
        self.histograms = {name: torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device) for name in binary}

    def add(
        self,
        losses: Mapping[str, Tensor],
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        weight: Tensor | None = None,
    ) -> None:
        """One batch: (C) losses and labels per task, logits of the binary ones; see Measured."""
        for name in self.losses:
            known = num_known(labels[name], weight).double()
            self.totals[name] += torch.stack([losses[name].detach().double().sum(), known])
        for name in self.binary:
            bins = ((logits[name].detach().float().squeeze(-1) + 8) * (NUM_BINS / 16)).long().clamp(0, NUM_BINS - 1)
            label, histogram = labels[name], self.histograms[name]
            counts = (~label.isnan()).double() * (1 if weight is None else weight)
            counted = torch.zeros_like(histogram)
            counted.view(-1).index_add_(0, bins + NUM_BINS * (label == 1), counts)  # bincount would wait for the device
            histogram += counted

    def read(self) -> dict[str, float]:
        """Mean loss per task and AUC per binary task (scores in one bin are ties); then reset all of them."""
        values = {}
        for name, total in self.totals.items():
            values[f"loss/{name}"] = float(total[0] / total[1].clamp_min(SMALLEST))
            total.zero_()
        for name, histogram in self.histograms.items():
            negative, positive = histogram
            below = negative.cumsum(0) - negative
            pairs = negative.sum() * positive.sum()
            if pairs > 0:
                values[f"auc/{name}"] = float((positive * (below + 0.5 * negative)).sum() / pairs)
            histogram.zero_()
        return values

    def tensors(self) -> dict[str, Tensor]:
        """The state, for a checkpoint."""
        return {f"loss.{n}": t for n, t in self.totals.items()} | {f"auc.{n}": t for n, t in self.histograms.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The state of a checkpoint."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


class Reporter(Protocol):
    """A receiver of a run's metrics."""

    def record(self, row: Mapping[str, Any]) -> None:
        """A row of metrics: `kind` (train or valid), `step`, `exposures` and figures."""

    def advance(self, step: int, num_steps: int, num_exposures: int) -> None:
        """A step was done."""

    def close(self) -> None:
        """Training has ended."""


class MetricsFile:
    """metrics.jsonl: one row per line. Nothing in it depends on the clock, so equal runs write equal files."""

    def __init__(self, path: Path):
        self.path = path

    def record(self, row: Mapping[str, Any]) -> None:
        """See Reporter. The line is on disk when this returns, so no checkpoint is newer than the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def advance(self, step: int, num_steps: int, num_exposures: int) -> None:
        """See Reporter."""

    def close(self) -> None:
        """See Reporter."""

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`: training resumes there and writes them again."""
        kept = [line for line in self._lines() if _step(line) <= step]
        self.path.write_text("".join(kept), encoding="utf-8")

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]  # a line cut short by a crash is written again


def _step(line: str) -> float:
    """The step of a row; a row damaged by a crash is dropped."""
    try:
        step: float = parse_json(line)["step"] + 0
        return step
    except (ValueError, TypeError, KeyError):
        return math.inf


class TensorBoard:
    """TensorBoard events of every figure, and the throughput."""

    def __init__(self, folder: Path, *, purge_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        self.exposures, self.since = 0, time.monotonic()

    def record(self, row: Mapping[str, Any]) -> None:
        """See Reporter."""
        for name, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        if row["kind"] == "train":
            speed = self.exposures / max(time.monotonic() - self.since, 1e-9)
            self.writer.add_scalar("train/exposures_per_second", speed, row["step"])
            self.exposures, self.since = 0, time.monotonic()

    def advance(self, step: int, num_steps: int, num_exposures: int) -> None:
        """See Reporter."""
        self.exposures += num_exposures

    def close(self) -> None:
        """See Reporter."""
        self.writer.close()
