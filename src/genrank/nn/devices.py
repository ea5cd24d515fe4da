"""The device that computes, and its precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from genrank.errors import ConfigError, shown

REMEDY = "set device=cpu, or see genrank doctor"


def device_named(name: str) -> torch.device:
    """A device of PyTorch, a CUDA device with its index; "auto" is a GPU if there is one.

    ConfigError, in one line, if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={shown(name)}: expected auto, cpu, cuda or cuda:N; {REMEDY}") from None
    if device.type == "cuda":
        return _cuda(name, device)
    if device.type == "meta":
        raise ConfigError(f"device={name}: holds no numbers, so nothing can be computed there; {REMEDY}")
    _use(name, device)
    return device


def _cuda(name: str, device: torch.device) -> torch.device:
    if not torch.cuda.is_available():
        raise ConfigError(f"device={name}: PyTorch finds no CUDA device here; {REMEDY}")
    count = torch.cuda.device_count()
    found = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if found.index >= count:
        last = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise ConfigError(f"device={name}: there is no such CUDA device, only {last}; name one of these, or {REMEDY}")
    _use(name, found)
    return found


def _use(name: str, device: torch.device) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).splitlines()[0]
        raise ConfigError(f"device={name}: can't be used ({reason}); {REMEDY}") from None


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one of this thread: Triton starts kernels there, not on their tensors' device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def precision_on(device: torch.device, name: Literal["auto", "fp32", "bf16"]) -> Literal["fp32", "bf16"]:
    """The precision of that name on a device; auto is bf16 on CUDA, as in training, and fp32 elsewhere."""
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return name
