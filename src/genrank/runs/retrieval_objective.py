"""Retrieval runs: what they see of timelines, their training losses, and their validation."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor

from genrank.batch import PackedBatch
from genrank.data.loader import Loader, TrainingLoader
from genrank.data.pools import View
from genrank.data.positives import positives
from genrank.evaluation.retrieval_metrics import request_metrics
from genrank.model_config import ModelConfig
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig, positive_task
from genrank.retrieval.training_losses import RetrievalLosses
from genrank.runs.retrieval_ranks import items_of, locate, seen_before
from genrank.schema import DataSpec
from genrank.training.objective import Measured


def retrieval_view(config: ModelConfig, spec: DataSpec) -> View:
    """What of timelines the retriever sees."""
    config = cast(RetrieverConfig, config)
    return partial(positives, task=positive_task(config, spec), events=config.events)


class RetrievalObjective:
    """The retriever's losses, for the trainer."""

    binary: tuple[str, ...] = ()

    def __init__(self, model: Retriever, loader: TrainingLoader, device: torch.device):
        def item_of(exposure_N: Tensor) -> Tensor:
            return items_of(loader.builder, exposure_N)

        def seen(exposure_P: Tensor) -> tuple[Tensor, Tensor]:
            return seen_before(loader.builder, exposure_P)

        catalogue = ItemVectors.of(loader.items, loader.item_counts(), device)
        self.model_losses = RetrievalLosses(model, catalogue, item_of, seen=seen if model.config.exclude_seen else None)
        self.weights: Mapping[str, float] = model.config.losses
        self.losses = tuple(self.weights)

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """See Objective."""
        return self.model_losses(batch)

    def measure(self, result: dict[str, Tensor], batch: PackedBatch) -> Measured:
        """See Objective."""
        del batch
        return Measured(result, {name: torch.zeros_like(loss) for name, loss in result.items()}, {})

    def state(self) -> dict[str, Tensor]:
        """See Objective."""
        hard = self.model_losses.hard
        return {} if hard is None else hard.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See Objective."""
        if self.model_losses.hard is not None:
            self.model_losses.hard.restore(state)


def validation_figures(model: Retriever, loaders: Iterable[Loader]) -> dict[str, float]:
    """Recall and NDCG of a part, or of all its pools; NDCG@10 decides which weights are kept."""
    found = locate(model, loaders)
    *_, last = found.ranks
    figures = {name: float(v.mean()) for name, v in request_metrics(found.request, found.ranks[last]).items()}
    return {**figures, "score": figures["ndcg@10"]}
