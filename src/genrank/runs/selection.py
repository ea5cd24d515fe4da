"""Which weights are kept: those with the best validation figure of the name `training.select`, as in click.auc.

The names are a task's figures (`click.auc`, `click.gauc`, `click.logloss`, `dwell.loss`), or a retriever's
(`recall@100`). Without a name it is the weighted sum of the tasks' losses, or a retriever's ndcg@10.
"""

from collections.abc import Mapping

import numpy as np

from genrank.config import nearest
from genrank.data.manifest import Manifest
from genrank.errors import ConfigError
from genrank.evaluation.retrieval_metrics import request_metrics
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec
from genrank.training.trainer import Validate

Figure = tuple[str, int]  # name of a validation figure, and 1 if more is better, else -1


def choices(config: RunConfig, spec: DataSpec) -> dict[str, Figure]:
    """The names that `training.select` can have."""
    if config.model.retrieves:
        return {name: (name, 1) for name in request_metrics(np.zeros(1, np.int64), np.zeros(1))}
    named: dict[str, Figure] = {}
    for task in spec.tasks:
        loss = "logloss" if task.kind == "binary" else "loss"
        named[f"{task.name}.{loss}"] = (f"loss/{task.name}", -1)
        if task.kind == "binary":
            named |= {f"{task.name}.{kind}": (f"{kind}/{task.name}", 1) for kind in ("auc", "gauc")}
    return named


def check_selection(config: RunConfig, manifest: Manifest) -> None:
    """ConfigError if `training.select` is no figure of the run, or one that its validation part can't have."""
    select, named = config.training.select, choices(config, manifest.spec)
    if not select:
        return
    if select not in named:
        raise ConfigError(f"training.select={select}: validation has no such figure; {nearest(select, named)}")
    task, valid = select.rpartition(".")[0], manifest.counts.valid
    if not valid.exposures:
        raise ConfigError(
            f"training.select={select}: the chosen days leave no validation part; choose a later test, or an earlier "
            "until"
        )
    if select.endswith("auc") and valid.positives.get(task) in (0, valid.exposures):
        raise _undefined(select, task)


def selecting(validate: Validate, config: RunConfig, spec: DataSpec) -> Validate:
    """`validate` with the chosen figure as its score."""
    select = config.training.select
    if not select:
        return validate
    figure, sign = choices(config, spec)[select]

    def selected() -> Mapping[str, float]:
        figures = validate()
        if figure not in figures:
            raise _undefined(select, select.rpartition(".")[0])
        return {**figures, "score": sign * figures[figure]}

    return selected


def _undefined(select: str, task: str) -> ConfigError:
    lacking = "no user of the validation part has" if select.endswith("gauc") else "the validation part doesn't have"
    return ConfigError(
        f"training.select={select}: needs positives and negatives of {task}, and {lacking} both; set "
        f"training.select={task}.logloss, or a larger split.valid_fraction"
    )
