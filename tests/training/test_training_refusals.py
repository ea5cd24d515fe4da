"""What a trainer and its checkpoints refuse, and how a run is stopped."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genrank.errors import BundleError, Interrupted
from genrank.training.checkpoint import Checkpoints
from genrank.training.trainer import TrainingConfig
from tiny_trainer import trainer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"log_steps": -1}, "log_steps is -1; it must be at least 1"),
        ({"checkpoint_steps": 0}, "checkpoint_steps is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"sparse_learning_rate": float("nan")}, "sparse_learning_rate is nan; it must be above 0"),
        ({"clip": -1.0}, "clip is -1.0; it must be above 0"),
        ({"validate_every": 0.0}, "validate_every is 0.0; it must be above 0"),
        ({"patience": -1}, "patience must be 0 or more"),
        ({"warmup": 1.0}, "warmup at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**change)


def _edit_state(path: Path) -> None:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    (path / "state.json").write_text(json.dumps(state | {"step": 99}), encoding="utf-8")


def _cut_tensors(path: Path) -> None:
    tensors = path / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_edit_state, "state.json was edited, or is of an earlier version"),
        (_cut_tensors, r"damaged checkpoint \(the SHA-256 of tensors.safetensors has changed\)"),
        (lambda path: (path / "tensors.safetensors").unlink(), "damaged checkpoint"),
        (lambda path: (path / "state.json").unlink(), "state.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    path = trainer(tmp_path).save()
    damage(path)
    with pytest.raises(BundleError, match=said) as raised:
        trainer(tmp_path).restore(path)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = trainer(tmp_path).save()
    other = trainer(tmp_path)
    other.model.mask_action = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(BundleError, match=r"does not fit the run's configuration .*; set that back"):
        other.restore(path)


def test_where_there_is_no_checkpoint_there_is_no_latest_one(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere").latest() is None


def test_one_signal_saves_and_stops_and_a_second_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended = trainer(tmp_path, checkpoint_steps=1000), []
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    monkeypatch.setattr(run, "_after_step", _signalled(run, run._after_step))
    with pytest.raises(Interrupted, match=r"stopped at step 1 of \d+; step-00000001 is saved; continue with --resume"):
        run.fit()
    assert not ended
    before = signal.getsignal(signal.SIGTERM)
    try:
        run._ask_to_stop(signal.SIGTERM, None)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [signal.SIGTERM]


def _signalled(run: Any, after_step: Callable[[int], None]) -> Callable[[int], None]:
    """As if SIGINT came during the first step."""

    def step(num_exposures: int) -> None:
        if run.step <= 1:
            run._ask_to_stop(signal.SIGINT, None)
        after_step(num_exposures)

    return step


def test_a_table_that_no_batch_looked_up_stays_as_it_was(tmp_path: Path) -> None:
    from genrank.nn.embeddings import Table
    from genrank.training.optimizers import RowWiseAdagrad

    used, unused = Table(4, 2), Table(4, 2)
    kept = unused.weight.detach().clone()
    optimizer = RowWiseAdagrad([used.weight, unused.weight], lr=0.5)
    used(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert torch.equal(unused.weight, kept)
