"""Checkpoints: everything a run needs to continue as if it had not stopped. A crash while writing keeps the old one.

checkpoints/step-00000200/tensors.safetensors   weights, optimizer states, random state, running metrics
checkpoints/step-00000200/state.json            step, loader state, best validation so far, hashes of both files
checkpoints/latest                              the name of the newest complete checkpoint; moves last
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from genrank.data.integrity import hash_file
from genrank.documents import read_json
from genrank.errors import BundleError, OutputError
from genrank.folders import read_pointer, replace_text, replacement
from genrank.schema import fingerprint

REMEDY = "train again without --resume"


class Checkpoints:
    """The checkpoints folder of a run. Keeps the newest two."""

    def __init__(self, folder: Path):
        self.folder = folder

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        pointer = self.folder / "latest"
        if not os.path.lexists(pointer):
            return None
        return self.folder / read_pointer(pointer, error=BundleError, remedy=REMEDY)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint, then move the pointer. Raises OutputError if the disk is full."""
        final = self.folder / f"step-{step:08d}"
        try:
            with replacement(final) as part:  # a crash may have left it after its pointer was lost
                save_file(
                    {n: tensor.detach().contiguous() for n, tensor in tensors.items()}, part / "tensors.safetensors"
                )
                values = {**state, "tensors": hash_file(part / "tensors.safetensors")}
                values["hash"] = fingerprint(values)
                (part / "state.json").write_text(json.dumps(values), encoding="utf-8")
            replace_text(self.folder / "latest", final.name)
        except (OSError, SafetensorError, OutputError) as problem:
            kept = self.latest()
            raise OutputError(
                f"the checkpoint can't be written ({problem}); make room, then continue with --resume"
                f" ({f'from {kept.name}' if kept else 'from the start'})"
            ) from None
        self._prune(final)
        return final

    def _prune(self, newest: Path) -> None:
        for old in sorted(self.folder.glob("step-*"))[:-2]:
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, state) of a checkpoint. BundleError if it is damaged."""
        state = read_json(path / "state.json", error=BundleError, remedy=REMEDY)
        if state.pop("hash", None) != fingerprint(state):
            raise BundleError(f"{path}: state.json was edited, or is of an earlier version of genrank; {REMEDY}")
        try:
            if hash_file(path / "tensors.safetensors") != state["tensors"]:
                raise ValueError("the SHA-256 of tensors.safetensors has changed")
            return load_file(path / "tensors.safetensors"), state
        except (OSError, SafetensorError, ValueError) as problem:
            raise BundleError(f"{path}: damaged checkpoint ({problem}); {REMEDY}") from None


def optimizer_tensors(optimizer: Optimizer, name: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors; every state of AdamW and RowWiseAdagrad is one."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{i}.{key}": value for i, entries in state.items() for key, value in entries.items()}


def restore_optimizer(optimizer: Optimizer, name: str, tensors: Mapping[str, Tensor]) -> None:
    """The state that `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{name}."):
            index, entry = key.removeprefix(f"{name}.").split(".")
            state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators."""
    states = {"random.cpu": torch.get_rng_state()}
    return states | ({"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """The state that `random_tensors` gave."""
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), device)
