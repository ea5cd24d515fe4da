"""The outputs that both rankers share: task towers, predictions and losses from the candidate's vector."""

import math

import torch
from torch import Tensor, nn

from genrank.batch import PackedBatch
from genrank.nn.durations import DurationHead
from genrank.nn.experts import MultiTaskConfig, TaskTowers
from genrank.nn.heads import BinaryHead, Head, task_head
from genrank.nn.position import PositionBias
from genrank.schema import DataSpec


class Outputs(nn.Module):
    """From a candidate's vector to logits, and from logits to predictions and losses."""

    def __init__(
        self,
        spec: DataSpec,
        config: MultiTaskConfig,
        *,
        width: int,
        prior: int,
        dropout: float,
        duration: DurationHead,
        position: bool,
    ):
        super().__init__()
        self.tasks = {task.name: task for task in spec.tasks}
        self.heads: dict[str, Head] = {task.name: task_head(task, duration) for task in spec.tasks}
        self.towers = TaskTowers(
            {name: head.num_logits for name, head in self.heads.items()},
            config,
            width=width,
            prior=prior if config.ppnet else 0,
            dropout=dropout,
        )
        self.uses_prior = config.ppnet
        sizes = {name: head.num_logits for name, head in self.heads.items()}
        self.position = PositionBias(sizes) if position else None

    def forward(self, x_CW: Tensor, prior_CP: Tensor | None, slot_C: Tensor) -> dict[str, Tensor]:
        """(C, logits of the task's head) per task. `prior_CP`: PPNet's prior, of user and item; None without it.

        Outside training the towers compute in the precision of their weights, also where the blocks don't.
        """
        logits = self._towers(x_CW, prior_CP if self.uses_prior else None)
        return logits if self.position is None else self.position(logits, slot_C)

    def _towers(self, x_CW: Tensor, prior: Tensor | None) -> dict[str, Tensor]:
        logits: dict[str, Tensor]
        if self.training:
            logits = self.towers(x_CW, prior)
            return logits
        with torch.autocast(x_CW.device.type, enabled=False):
            dtype = next(self.towers.parameters()).dtype
            logits = self.towers(x_CW.to(dtype), None if prior is None else prior.to(dtype))
        return logits

    def predict(self, logits: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
        """(C) per task: a probability, or expected seconds.

        A model of a log with a share w of the negatives learns p' / (1 - p') = p / (1 - p) / w, so the logit of p is
        that of p' plus log w: p = p' / (p' + (1 - p') / w).
        """
        predictions = {}
        for name, head in self.heads.items():
            if isinstance(head, BinaryHead):
                predictions[name] = head.predict(logits[name] + math.log(self.tasks[name].negative_rate))
            else:
                predictions[name] = head.predict(logits[name], self._group(name, batch))
        return predictions

    def loss(self, logits: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
        """(C) per task: each candidate's loss, times its weight if it has one, and 0 where its label is unknown."""
        c, losses = batch.candidates, {}
        for name, head in self.heads.items():
            if isinstance(head, BinaryHead):
                losses[name] = head.loss(logits[name], c.labels[name])
            else:
                group = self._group(name, batch)
                losses[name] = head.loss(logits[name], c.labels[name], c.censored.get(name), group)
        return losses if c.weight is None else {name: loss * c.weight for name, loss in losses.items()}

    def _group(self, name: str, batch: PackedBatch) -> Tensor | None:
        """(C) the duration group of each candidate's item; None where the task has no groups."""
        group = self.tasks[name].group
        if not group:
            return None
        column = batch.items[group]
        assert isinstance(column, torch.Tensor)
        return column[batch.candidates.item]
