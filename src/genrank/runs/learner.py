"""The differences between training a ranker and training a retriever: data, losses and figures."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from genrank.data.loader import Loader
from genrank.data.prepared import PreparedData
from genrank.model_config import ModelConfig
from genrank.runs import predict
from genrank.runs import retrieval_objective as retrieval
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec
from genrank.training.objective import Objective, RankingObjective


class Learner(Protocol):
    """How one kind of model is trained. `model` is one that the run's configuration builds."""

    def data(self, data: PreparedData, config: RunConfig) -> PreparedData:
        """The data as the model sees it."""

    def objective(self, model: Any, loader: Loader, config: RunConfig, device: torch.device) -> Objective:
        """The objective: the losses of a batch."""

    def validation_figures(self, model: Any, held_out: Loader, config: RunConfig) -> Mapping[str, float]:
        """Figures of the validation part; `score` decides which weights are kept."""

    def main_figure(self, spec: DataSpec) -> str:
        """The name of the figure that is shown in training."""


class _Ranking:
    def data(self, data: PreparedData, config: RunConfig) -> PreparedData:
        return data

    def objective(self, model: Any, loader: Loader, config: RunConfig, device: torch.device) -> Objective:
        return RankingObjective(model, config.training.task_weights)

    def validation_figures(self, model: Any, held_out: Loader, config: RunConfig) -> Mapping[str, float]:
        return predict.validation_figures(model, held_out, config.training.task_weights)

    def main_figure(self, spec: DataSpec) -> str:
        return f"auc/{spec.tasks[0].name}"


class _Retrieval:
    def data(self, data: PreparedData, config: RunConfig) -> PreparedData:
        return retrieval.retrieval_data(data, config.model)

    def objective(self, model: Any, loader: Loader, config: RunConfig, device: torch.device) -> Objective:
        return retrieval.RetrievalObjective(model, loader, device)

    def validation_figures(self, model: Any, held_out: Loader, config: RunConfig) -> Mapping[str, float]:
        return retrieval.validation_figures(model, held_out)

    def main_figure(self, spec: DataSpec) -> str:
        return "ndcg@10"


def learner_of(config: ModelConfig) -> Learner:
    """How a model of that family is trained."""
    return _Retrieval() if config.retrieves else _Ranking()
