"""The differences between training a ranker and training a retriever: data, losses and figures."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from genrank.data.loader import Loader, TrainingLoader
from genrank.data.pools import View
from genrank.model_config import ModelConfig
from genrank.runs import predict
from genrank.runs import retrieval_objective as retrieval
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec
from genrank.training.objective import Objective, RankingObjective


class Learner(Protocol):
    """How one kind of model is trained. `model` is one that the run's configuration builds."""

    def view(self, config: RunConfig, spec: DataSpec) -> View | None:
        """What of timelines the model sees; None: all."""

    def objective(self, model: Any, loader: TrainingLoader, config: RunConfig, device: torch.device) -> Objective:
        """The objective: the losses of a batch."""

    def validation_figures(self, model: Any, held_out: Iterable[Loader], config: RunConfig) -> Mapping[str, float]:
        """Figures of the validation part, a loader for each pool; `score` decides which weights are kept."""

    def main_figure(self, spec: DataSpec) -> str:
        """The name of the figure that is shown in training."""


class _Ranking:
    def view(self, config: RunConfig, spec: DataSpec) -> View | None:
        return None

    def objective(self, model: Any, loader: TrainingLoader, config: RunConfig, device: torch.device) -> Objective:
        return RankingObjective(model, config.training.task_weights)

    def validation_figures(self, model: Any, held_out: Iterable[Loader], config: RunConfig) -> Mapping[str, float]:
        return predict.validation_figures(model, held_out, config.training.task_weights)

    def main_figure(self, spec: DataSpec) -> str:
        return f"auc/{spec.tasks[0].name}"


class _Retrieval:
    def view(self, config: RunConfig, spec: DataSpec) -> View | None:
        return retrieval.retrieval_view(config.model, spec)

    def objective(self, model: Any, loader: TrainingLoader, config: RunConfig, device: torch.device) -> Objective:
        return retrieval.RetrievalObjective(model, loader, device)

    def validation_figures(self, model: Any, held_out: Iterable[Loader], config: RunConfig) -> Mapping[str, float]:
        return retrieval.validation_figures(model, held_out)

    def main_figure(self, spec: DataSpec) -> str:
        return "ndcg@10"


def learner_of(config: ModelConfig) -> Learner:
    """How a model of that family is trained."""
    return _Retrieval() if config.retrieves else _Ranking()
