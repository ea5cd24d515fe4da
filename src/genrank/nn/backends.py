"""The attention backends by name, and which one runs where."""

from collections.abc import Mapping
from typing import Literal

import torch

from genrank.nn.attention import Attention, PlainAttention, ReferenceAttention
from genrank.nn.fused_attention import FusedAttention

Backend = Literal["auto", "reference", "plain", "fused"]

BACKENDS: Mapping[str, type[Attention]] = {
    "reference": ReferenceAttention,
    "plain": PlainAttention,
    "fused": FusedAttention,
}


def choose_backend(name: Backend, device: torch.device, *, fusible: bool) -> str:
    """The backend that runs. `auto` is `fused` on CPU where `fusible` (softmax, no learned bias), else `plain`.

    ValueError for `fused` where it can't run.
    """
    if name == "auto":
        return "fused" if device.type == "cpu" and fusible else "plain"
    if name == "fused" and device.type != "cpu":
        raise ValueError(f"the attention backend 'fused' runs on CPU, not on {device.type}; set it to 'auto'")
    if name == "fused" and not fusible:
        raise ValueError("the attention backend 'fused' knows neither SiLU nor a learned bias; set it to 'auto'")
    return name
