"""A trainer of a tiny ranker on random timelines."""

from pathlib import Path
from typing import Any

import torch

from genrank.data.loader import Loader, LoaderConfig
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.models.sequence_ranker import SequenceRanker
from genrank.training.checkpoint import Checkpoints
from genrank.training.objective import RankingObjective
from genrank.training.progress import MetricsFile
from genrank.training.trainer import Trainer, TrainingConfig
from worlds import SPEC, builder, timelines


def trainer(folder: Path, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = SequenceRanker(SequenceRankerConfig(width=16, num_heads=2), SPEC, max_history=8)
    b = builder(timelines(lengths=[30] * 8, seed=1), max_history=8)
    return Trainer(
        model,
        Loader(b, b.samples(), LoaderConfig(batch_tokens=64)),
        TrainingConfig(**settings),
        objective=RankingObjective(model, {}),
        checkpoints=Checkpoints(folder / "checkpoints"),
        validate=lambda: {"score": 0.0, "loss/click": 0.0},
        reporters=[MetricsFile(folder / "metrics.jsonl")],
    )
