"""Training steps to be timed: those of the trainer, over batches that are in memory already, one after another."""

from collections.abc import Sequence
from pathlib import Path

import torch

from genrank.batch import PackedBatch
from genrank.bench.machine import Precision, bench_device
from genrank.data.loader import Loader
from genrank.models.flops import training_flops
from genrank.models.inputs import RankerConfig
from genrank.models.ranker import build_ranker
from genrank.training.checkpoint import Checkpoints
from genrank.training.objective import RankingObjective
from genrank.training.trainer import Trainer, TrainingConfig


class Steps:
    """A model in training. Every call trains on the next batch, in a cycle."""

    def __init__(
        self,
        config: RankerConfig,
        loader: Loader,
        batches: Sequence[PackedBatch],
        *,
        training: TrainingConfig | None = None,
        seed: int = 0,
    ):
        self.device = bench_device()
        torch.manual_seed(seed)
        builder = loader.builder
        self.model = build_ranker(config, builder.spec, max_history=builder.config.max_history).to(self.device)
        self.batches, self.done = batches, 0
        training = training or TrainingConfig()
        self.trainer = Trainer(
            self.model,
            loader,
            training,
            objective=RankingObjective(self.model, training.task_weights),
            checkpoints=Checkpoints(Path("never-written")),
            validate=lambda: {"score": 0.0},
            reporters=[],
        )

    def __call__(self) -> None:
        """One step."""
        self.train(self.batches[self.done % len(self.batches)])
        self.done += 1

    def train_on_all(self) -> None:
        """A step on every batch."""
        for batch in self.batches:
            self.train(batch)

    def train(self, batch: PackedBatch) -> None:
        """One step on this batch."""
        self.trainer.train_step(batch.to(self.device))

    @property
    def precision(self) -> Precision:
        """The precision of the step's matrix products."""
        with self.trainer.autocast():
            return "bf16" if torch.is_autocast_enabled(self.device.type) else "fp32"

    def flops(self) -> float:
        """Operations of a step by the model's equations: the mean over the batches."""
        return sum(training_flops(self.model, batch.to(self.device)) for batch in self.batches) / len(self.batches)

    def tokens(self) -> float:
        """Tokens of a step with the model's organization: the mean over the batches."""
        return sum(self.model.config.num_tokens(batch) for batch in self.batches) / len(self.batches)


def num_exposures(batches: Sequence[PackedBatch]) -> int:
    """Exposures that the batches train on."""
    return sum(len(batch.candidates.item) for batch in batches)
