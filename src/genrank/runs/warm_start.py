"""A warm start: a run that begins from the weights and the optimizer state of a finished one.

Indices keep their meaning as a prepared folder grows, so a table keeps its rows and gets new ones for the values that
have been admitted since. The weights are those of the finished run's bundle (its best ones), the optimizer state that
of its last checkpoint. The learning rate schedule, the order of batches and all counters start from the beginning.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from genrank.artifacts.bundle import load_bundle, require_same_statistics, schema_problem
from genrank.config import to_dict
from genrank.data.learned_days import LearnedDays, vocabulary_sizes
from genrank.data.manifest import Manifest
from genrank.data.tables import FeatureTable
from genrank.errors import BundleError, ConfigError, shown
from genrank.models.inputs import RankerConfig
from genrank.runs.new_rows import begin_from_content, item_content, require_content
from genrank.runs.run_config import NewRows, RunConfig
from genrank.schema import DataSpec
from genrank.training.checkpoint import Checkpoints, restore_optimizer
from genrank.training.trainer import Trainer, TrainingConfig

SLOWER = 10  # learning rate of random dense weights over that of learned ones; docs/accuracy.md, "One more day"


def following(config: RunConfig, run: Path) -> RunConfig:
    """The configuration of a run that begins from the finished `run`: `config`, that of `run` or of its recipe, without
    its days, and with training for learned weights unless it is such a configuration already."""
    begun = replace(config.warm_start, run=str(run.resolve()), version="")
    training = config.training if config.warm_start.run else gentler(config.training)
    return replace(config, days=LearnedDays(), warm_start=begun, training=training)


def gentler(training: TrainingConfig) -> TrainingConfig:
    """Training of weights that are good already: one epoch, with a tenth of the learning rate of dense weights."""
    return replace(training, epochs=1, learning_rate=training.learning_rate / SLOWER)


def checked_start(config: RunConfig, theirs: RunConfig, data: Path, manifest: Manifest) -> RunConfig:
    """The configuration with the version of the finished run's bundle. theirs: the finished run's configuration.

    ConfigError if the finished run has another recipe, model or training data; BundleError if it isn't finished.
    """
    run = Path(config.warm_start.run)
    bundle = load_bundle(run)
    _check_model(run, config, theirs)
    problem = schema_problem(bundle, data, manifest)
    if problem:
        raise ConfigError(f"{data}: {problem}; extend the data of {run}, or train without --from")
    require_same_statistics(bundle, data, manifest)
    if config.warm_start.new_rows == "content":
        require_content(data, manifest.spec)
    before, now = (vocabulary_sizes(each.spec) for each in (bundle.manifest, manifest))
    check_sizes(run, config, manifest.spec, before=before, now=now)
    _checkpoint(run)
    return replace(config, warm_start=replace(config.warm_start, version=bundle.version))


def start_warm(trainer: Trainer, config: RunConfig, items: FeatureTable, spec: DataSpec) -> None:
    """Load the finished run's weights and optimizer state; `warm_start.new_rows` says how new rows are set.

    items, spec: of the data that the run learns from.
    """
    run = Path(config.warm_start.run)
    bundle = load_bundle(run)
    if bundle.version != config.warm_start.version:
        raise BundleError(
            f"{run}: its bundle is {bundle.version}, but this run began from {config.warm_start.version}; start a new "
            "run"
        )
    load_grown(trainer.model, load_file(bundle.folder / "model.safetensors"), config.warm_start.new_rows)
    tensors, _ = Checkpoints.load(_checkpoint(run))
    for optimizer, name in ((trainer.dense, "dense"), (trainer.sparse, "sparse")):
        restore_optimizer(optimizer, name, grown_state(optimizer, name, tensors))
    if config.warm_start.new_rows == "content":
        before, now = (vocabulary_sizes(each)["item_id"] for each in (bundle.manifest.spec, spec))
        if now > before:
            begin_from_content(trainer.model, trainer.sparse, item_content(items, spec, now), before)


@torch.no_grad()
def load_grown(model: nn.Module, weights: Mapping[str, Tensor], new_rows: NewRows) -> None:
    """Load the weights into a model whose tables may have more rows.

    A new row is a copy of row 0 (unknown), which has represented its value so far; or, if `fresh`, as initialised.
    With `content` it is a copy of row 0 too, until `begin_from_content` sets those of items.
    """
    for name, tensor in model.state_dict().items():
        old = weights[name].to(tensor)
        if tensor.dim() == 0 or len(old) == len(tensor):
            tensor.copy_(old)
            continue
        tensor[: len(old)] = old
        if new_rows != "fresh":
            tensor[len(old) :] = old[0]


def grown_state(optimizer: Optimizer, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's state, by the names of `optimizer_tensors`, with zeros for new rows."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    found = {}
    for key, state in tensors.items():
        if key.startswith(f"{name}."):
            missing = len(weights[int(key.split(".")[1])]) - len(state) if state.dim() else 0
            found[key] = torch.cat([state, state.new_zeros(missing, *state.shape[1:])]) if missing else state
    return found


def check_sizes(
    run: Path, config: RunConfig, spec: DataSpec, *, before: Mapping[str, int], now: Mapping[str, int]
) -> None:
    """ConfigError if vocabularies are smaller than `before`, or have grown and a table can't grow with them."""
    fewer = next((name for name in before if now[name] < before[name]), None)
    if fewer is not None:
        raise ConfigError(
            f"{run}: was trained with {before[fewer]:,} values of {fewer}, but the chosen days of this run have only "
            f"{now[fewer]:,}; choose a later until"
        )
    combined = isinstance(config.model, RankerConfig) and config.model.action_embedding == "combination"
    if combined and any(now[each.name] != before[each.name] for each in spec.feedback):
        raise ConfigError(
            f"{run}: model.action_embedding=combination numbers combinations of feedback, which has new values since; "
            "train without --from"
        )


def _check_model(run: Path, config: RunConfig, theirs: RunConfig) -> None:
    if config.recipe != theirs.recipe:
        raise ConfigError(
            f"{run}: was trained with recipe {theirs.recipe}, but this run has {config.recipe}; give --recipe "
            f"{theirs.recipe}, or train without --from"
        )
    mine, other = (
        {"model": to_dict(each.model), "sequence": {"max_history": each.sequence.max_history}}
        for each in (config, theirs)
    )
    difference = _first_difference(mine, other)
    if difference:
        raise ConfigError(f"{run}: was trained with {difference}; set it so, or train without --from")


def _first_difference(mine: Any, theirs: Any, path: str = "") -> str:
    """The first setting of `theirs` that differs in `mine`, as path=value and its value here; empty: none."""
    if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
        found = (_first_difference(mine[name], theirs[name], f"{path}.{name}".lstrip(".")) for name in mine)
        return next(filter(None, found), "")
    return "" if mine == theirs else f"{path}={shown(theirs)}, but this run has {shown(mine)}"


def _checkpoint(run: Path) -> Path:
    """The last checkpoint of a finished run."""
    found = Checkpoints(run / "checkpoints").latest()
    if found is None:
        raise BundleError(f"{run}: has no checkpoint, and its optimizer state is needed; give the run's whole folder")
    return found
