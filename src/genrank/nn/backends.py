"""The attention backends by name, and which one runs where."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Literal

import torch

from genrank.nn.attention import Attention, PlainAttention, ReferenceAttention
from genrank.nn.flex_attention import FlexAttention
from genrank.nn.fused_attention import FusedAttention
from genrank.nn.native.library import load
from genrank.nn.native_attention import NativeAttention
from genrank.nn.triton_attention import MAX_CHANNELS, TritonAttention

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


def choose_backend(name: str, device: torch.device, *, fusible: bool, channels: int) -> str:
    """The backend that runs for heads of `channels`.

    `auto` on CPU is `native`, or where no compiler is at hand `fused` where `fusible` (softmax, no learned bias); on
    CUDA it is `triton`; else `plain`. ValueError, naming the remedy, where the one asked for can't run.
    """
    if name == "auto":
        return _best(device, fusible=fusible, channels=channels)
    problem = _problem(name, device, fusible=fusible, channels=channels)
    if problem:
        raise ValueError(f"the attention backend {name!r} {problem}; set it to 'auto'")
    return name


def _best(device: torch.device, *, fusible: bool, channels: int) -> str:
    for name in ("triton", "native", "fused"):
        if (device.type == "cuda") == (name == "triton") and not _problem(
            name, device, fusible=fusible, channels=channels
        ):
            return name
    return "plain"


def _problem(name: str, device: torch.device, *, fusible: bool, channels: int) -> str:
    """Why a backend can't run, empty where it can."""
    if name in ("fused", "native") and device.type != "cpu":
        return f"runs on CPU, not on {device.type}"
    if name == "fused" and not fusible:
        return "knows neither SiLU nor a learned bias"
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
