"""The training loop. It can be stopped at any step; a resumed run gives the same weights, bit for bit.

The model, the loader and the validation come in as arguments. Order of a step: loss, gradient, clip, both
optimizers, running metrics; then, if due, validation and a checkpoint.
"""

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrank.data.loader import TrainingLoader
from genrank.errors import LONGEST_SHOWN, BundleError, Interrupted, TrainingDiverged
from genrank.training.checkpoint import (
    Checkpoints,
    optimizer_tensors,
    random_tensors,
    restore_optimizer,
    restore_random,
)
from genrank.training.objective import SMALLEST, Objective, num_known
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, learning_rate_scale, split_parameters
from genrank.training.progress import Reporter, RunningMetrics

Validate = Callable[[], Mapping[str, float]]  # metrics of the current model; `score` decides which weights are kept


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of training. The paper gives no optimizer; all defaults are ours.

    One epoch is the default: on real logs, sparse embeddings overfit from the second epoch on (arXiv 2209.06053).
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    sparse_learning_rate: float = 0.05
    sparse_weight_decay: float = 0.0
    warmup: float = 0.05  # share of all steps
    final_scale: float = 0.05  # of both learning rates, at the end of the cosine
    clip: float = 1.0  # norm of the dense gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    task_weights: dict[str, float] = field(default_factory=dict)  # 1 for a task without an entry
    validate_every: float = 1.0  # epochs
    select: str = ""  # the validation metric that selects the weights, such as click.auc; empty: the sum of losses
    patience: int = 0  # validations without improvement before training stops; 0: never
    log_steps: int = 20
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("epochs", "log_steps", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "sparse_learning_rate", "clip", "validate_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.patience < 0 or not 0 <= self.warmup < 1:
            raise ValueError("patience must be 0 or more, and warmup at least 0 and below 1")


class Trainer:
    """One run of training on one device. Without `validate` the last weights are kept."""

    def __init__(
        self,
        model: nn.Module,
        loader: TrainingLoader,
        config: TrainingConfig,
        *,
        objective: Objective,
        checkpoints: Checkpoints,
        validate: Validate | None,
        reporters: Sequence[Reporter],
    ):
        self.model, self.loader, self.config, self.objective = model, loader, config, objective
        self.checkpoints, self.validate, self.reporters = checkpoints, validate, reporters
        self.device = next(model.parameters()).device
        dense, sparse = split_parameters(model)
        self.dense_parameters = dense
        self.dense = dense_optimizer(dense, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.sparse = RowWiseAdagrad(sparse, lr=config.sparse_learning_rate, weight_decay=config.sparse_weight_decay)
        self.running = RunningMetrics(objective.losses, objective.binary, self.device)
        self.step, self.exposures, self.validations_since_best = 0, 0, 0
        self.last_loss = torch.zeros(())
        self.best_score, self.best_step = -math.inf, 0
        self.best_weights: dict[str, Tensor] = {}
        # Shuffled epochs differ by a few batches; the first epoch sets the schedule.
        self.steps_per_epoch = max(len(loader), 1)
        self.num_steps = self.steps_per_epoch * config.epochs
        self._stop = False

    def fit(self) -> None:
        """Train to the end, or until validation stops improving; the model then holds the best weights."""
        previous = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._finished():
                for batch in self.loader:
                    self.train_step(batch.to(self.device))
                    self._after_step(len(batch.candidates.item))
                    if self._finished():
                        break
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)

    def _finished(self) -> bool:
        return self.step >= self.num_steps or 0 < self.config.patience <= self.validations_since_best

    def train_step(self, batch: Any) -> None:
        """One update of the weights from a batch on the model's device."""
        self.model.train()
        self._set_learning_rates()
        with self.autocast():
            result = self.objective.forward(batch)
        losses, labels, logits, each = self.objective.measure(result, batch)
        weight = self.objective.weights
        # Mean over the known labels of each task: a duration known for clicks only has the same weight as the clicks.
        known = {name: num_known(label, each).clamp_min(SMALLEST) for name, label in labels.items()}
        means = [weight.get(name, 1.0) * x.sum() / known[name] for name, x in losses.items()]
        loss = torch.stack(means).sum()
        self.last_loss = loss.detach()
        if self.device.type == "cpu":
            self._check_loss()
        self.dense.zero_grad()
        self.sparse.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.dense_parameters, self.config.clip)
        self.dense.step()
        self.sparse.step()
        self.running.add(losses, logits, labels, each)

    def _check_loss(self) -> None:
        """TrainingDiverged if the loss isn't finite: once the weights aren't, it stays so. Waits for the device."""
        if not math.isfinite(value := self.last_loss.item()):
            raise TrainingDiverged(self._divergence(value))

    def _after_step(self, num_exposures: int) -> None:
        self.step, self.exposures = self.step + 1, self.exposures + num_exposures
        for reporter in self.reporters:
            reporter.advance(self.step, self.num_steps, num_exposures)
        last = self.step == self.num_steps
        due = self.step % self.config.log_steps == 0 or self.step % self.config.checkpoint_steps == 0
        if due or last or self._stop:
            self._check_loss()
        if self.step % self.config.log_steps == 0 or last:
            self._record("train", self.running.read())
        every = max(round(self.steps_per_epoch * self.config.validate_every), 1)
        if self.validate is not None and (self.step % every == 0 or last):
            self._keep_best(self.validate)
        if self._stop or last or self.step % self.config.checkpoint_steps == 0:
            path = self.save()
            if self._stop and not last:
                raise Interrupted(
                    f"stopped at step {self.step} of {self.num_steps}; {path.name} is saved; continue with --resume"
                )

    def _keep_best(self, validate: Validate) -> None:
        self.model.eval()
        figures = dict(validate())
        score = figures.pop("score")
        self._record("valid", figures)
        if score > self.best_score:
            self.best_score, self.best_step, self.validations_since_best = score, self.step, 0
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        else:
            self.validations_since_best += 1

    def _record(self, kind: str, figures: dict[str, float]) -> None:
        weights = self.objective.weights
        known = [name for name in self.objective.losses if f"loss/{name}" in figures]
        loss = {"loss": sum(weights.get(n, 1.0) * figures[f"loss/{n}"] for n in known)} if known else {}
        row = {"kind": kind, "step": self.step, "exposures": self.exposures, **loss, **figures}
        row["learning_rate"] = self.dense.param_groups[0]["lr"]
        for reporter in self.reporters:
            reporter.record(row)

    def _set_learning_rates(self) -> None:
        config = self.config
        scale = learning_rate_scale(self.step, self.num_steps, warmup=config.warmup, final=config.final_scale)
        for group in self.dense.param_groups:
            group["lr"] = config.learning_rate * scale
        for group in self.sparse.param_groups:
            group["lr"] = config.sparse_learning_rate * scale

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 on GPUs only: on two CPU cores the demo's model is no faster with it."""
        chosen = self.config.precision
        if chosen == "bf16" or (chosen == "auto" and self.device.type == "cuda"):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _divergence(self, loss: float) -> str:
        last = self.checkpoints.latest()
        return (
            f"the loss is {loss} at step {self.step}; "
            f"the last good checkpoint is {last.name if last else 'none, as none was written yet'}; "
            "lower training.learning_rate or training.sparse_learning_rate, or check the numeric features"
        )

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends training after the step, with a checkpoint; a second one at once."""
        del frame
        if self._stop:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop = True

    def save(self) -> Path:
        """A checkpoint of everything that `restore` needs."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= optimizer_tensors(self.dense, "dense") | optimizer_tensors(self.sparse, "sparse")
        tensors |= {f"running.{name}": value for name, value in self.running.tensors().items()}
        tensors |= {f"objective.{name}": value for name, value in self.objective.state().items()}
        state = {
            "step": self.step,
            "exposures": self.exposures,
            "loader": self.loader.state(),
            "select": self.config.select,
            "best_score": self.best_score if self.best_weights else None,
            "best_step": self.best_step,
            "validations_since_best": self.validations_since_best,
        }
        return self.checkpoints.save(self.step, tensors | random_tensors(self.device), state)

    def restore(self, path: Path) -> None:
        """Restore a checkpoint of `save`."""
        tensors, state = self.checkpoints.load(path)
        try:
            self._restore(path, tensors, state)
        except (RuntimeError, KeyError, TypeError, ValueError, IndexError) as problem:
            reason = " ".join(str(problem).split())[:LONGEST_SHOWN]
            raise BundleError(
                f"{path}: does not fit the run's configuration ({reason}); set that back, or start a new run"
            ) from None

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        if state["select"] != self.config.select:
            before, now = (name or "the sum of losses" for name in (state["select"], self.config.select))
            raise BundleError(
                f"{path}: its best weights were chosen by {before}, and training.select is now {now}; set it back, or "
                "start a new run"
            )
        self.model.load_state_dict(_group(tensors, "model."))
        self.best_weights = {n: t.to(self.device) for n, t in _group(tensors, "best.").items()}
        restore_optimizer(self.dense, "dense", tensors)
        restore_optimizer(self.sparse, "sparse", tensors)
        self.running.restore(_group(tensors, "running."))
        self.objective.restore(_group(tensors, "objective."))
        restore_random(tensors, self.device)
        self.step, self.exposures = state["step"], state["exposures"]
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]
        self.best_step, self.validations_since_best = state["best_step"], state["validations_since_best"]
        self.loader.restore(state["loader"])


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
