"""The attention backends by name, and which one runs where."""

import functools
import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Literal

import torch

from genrank.nn.attention import Attention, PlainAttention, Queries, ReferenceAttention, Scoring, Tokens
from genrank.nn.flex_attention import FlexAttention
from genrank.nn.fused_attention import FusedAttention
from genrank.nn.native.library import load
from genrank.nn.native_attention import NativeAttention
from genrank.nn.self_check import failure
from genrank.nn.triton_attention import TritonAttention
from genrank.nn.triton_tiles import MAX_CHANNELS

log = logging.getLogger(__name__)

Backend = Literal["auto", "reference", "plain", "fused", "native", "triton", "flex"]

BACKENDS: Mapping[str, type[Attention]] = {
    "reference": ReferenceAttention,  # float64, one query at a time
    "plain": PlainAttention,  # padded and masked, on any device
    "fused": FusedAttention,  # CPU: PyTorch's fused attention; softmax without learned bias
    "native": NativeAttention,  # CPU: jagged, in C++
    "triton": TritonAttention,  # GPU: jagged, in Triton
    "flex": FlexAttention,  # GPU: PyTorch's FlexAttention; softmax
}


PADDING_BACKENDS = ("plain", "fused")  # the others take jagged tensors as they are
JAGGED_BACKENDS = ("native", "triton")  # these need only the numbers of tokens and sequences


class AttentionMaker:
    """Makes the attention of a model's layers with the backend for the tensors' device.

    name, fusible, channels: see `choose_backend`. What was chosen is logged once.
    """

    def __init__(self, name: Backend, *, fusible: bool, channels: int):
        self.name, self.fusible, self.channels = name, fusible, channels
        self._logged: set[str] = set()

    def backend(self, device: torch.device) -> str:
        """The name of the backend that runs on the device."""
        return choose_backend(self.name, device, fusible=self.fusible, channels=self.channels)

    def __call__(self, queries: Queries, context: Tokens, scoring: Scoring) -> Attention:
        """See Attention."""
        device = queries.prefix.device
        name = self.backend(device)
        if name not in self._logged:
            self._logged.add(name)
            log.info("attention backend: %s on %s", name, device)
        return BACKENDS[name](queries, context, scoring)


def choose_backend(name: str, device: torch.device, *, fusible: bool, channels: int) -> str:
    """The backend that runs for heads of `channels`.

    `auto` on CPU is `native`, or without a compiler `fused` if `fusible` (softmax, no learned bias); on CUDA it is
    `triton`; else `plain`. A backend is used only after it has given the results of the plain one on this device
    (nn/self_check.py): `auto` skips one that doesn't, with one line in the log. ValueError, naming the remedy, if the
    backend of that name can't run or is wrong.
    """
    if name == "auto":
        return _best(device, fusible=fusible, channels=channels)
    problem = _problem(name, device, fusible=fusible, channels=channels) or _wrong(name, device, fusible, channels)
    if problem:
        raise ValueError(f"the attention backend {name!r} {problem}; set it to 'auto'")
    return name


def _best(device: torch.device, *, fusible: bool, channels: int) -> str:
    for name in ("triton", "native", "fused"):
        if (device.type == "cuda") != (name == "triton"):
            continue
        if _problem(name, device, fusible=fusible, channels=channels):
            continue
        wrong = _wrong(name, device, fusible, channels)
        if not wrong:
            return name
        _warn_once(f"the attention backend {name!r} {wrong}; another runs, more slowly")
    return "plain"


def checked(name: str, device: torch.device, *, fusible: bool = True, channels: int = 32) -> str:
    """The state of a backend on a device: "passed", or why it can't run or failed its check."""
    problem = _problem(name, device, fusible=fusible, channels=channels)
    return problem or _wrong(name, device, fusible, channels) or "passed"


def _wrong(name: str, device: torch.device, fusible: bool, channels: int) -> str:
    """What the self-check has found on the device in the present precision; empty if it passed."""
    if name in ("plain", "reference"):
        return ""
    half = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if half else torch.float32
    found = failure(BACKENDS[name], str(device), dtype, channels, fusible=fusible)
    return f"failed its check on {device} in {str(dtype).removeprefix('torch.')} ({found})" if found else ""


@functools.cache
def _warn_once(sentence: str) -> None:
    log.warning(sentence)


def _problem(name: str, device: torch.device, *, fusible: bool, channels: int) -> str:
    """Why a backend can't run; empty if it can."""
    if name in ("fused", "native") and device.type != "cpu":
        return f"runs on CPU, not on {device.type}"
    if name == "fused" and not fusible:
        return "has neither SiLU nor a learned bias"
    if name == "native" and load() is None:
        return "needs a C++ compiler such as g++ at its first use, and its build failed"
    if name in ("triton", "flex"):
        return _gpu_problem(name, device, channels)
    return ""


def _gpu_problem(name: str, device: torch.device, channels: int) -> str:
    if name == "flex":
        return "" if device.type == "cuda" else f"trains on CUDA only, not on {device.type}"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"runs on CUDA, not on {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "needs Triton (pip install 'genrank[gpu]')"
    return f"takes heads of at most {MAX_CHANNELS} channels, not {channels}" if channels > MAX_CHANNELS else ""
