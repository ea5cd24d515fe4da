"""Dropout: nn.Dropout, but on CPU in C++, without drawing and storing a mask.

On CPU PyTorch draws random numbers one by one, which takes a tenth of a small model's training step. Here one seed is
drawn from PyTorch's generator, and a hash of seed and index decides on each element, so a resumed run is repeatable.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.native.library import is_watched, load


class Dropout(nn.Module):
    """In training, each element becomes 0 with probability `p`, and the others grow by 1 / (1 - p)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or x.dtype != torch.float32 or load() is None:
            return F.dropout(x, self.p)
        seed = int(torch.randint(2**62, ()))
        drop: Any = torch.ops.genrank.native_dropout if is_watched() else _DirectDropout.apply
        dropped: Tensor = drop(x, self.p, seed)
        return dropped

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"p={self.p}"


_OPERATORS = torch.library.Library("genrank", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS.define("native_dropout(Tensor x, float p, int seed) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_OPERATORS, "native_dropout", "CPU")
def _dropped(x: Tensor, p: float, seed: int) -> Tensor:
    """fp32 on CPU; the same seed drops the same elements."""
    library, x = load(), x.contiguous()
    assert library is not None
    out = torch.empty_like(x)
    library.dropout(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(x.numel()),
        ctypes.c_uint64(seed),
        ctypes.c_float(p),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return out


@torch.library.register_fake("genrank::native_dropout", lib=_OPERATORS)  # type: ignore[untyped-decorator]
def _(x: Tensor, p: float, seed: int) -> Tensor:
    del p, seed
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, float, int], output: Tensor) -> None:
    del output
    ctx.numbers = inputs[1:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    drop = torch.ops.genrank.native_dropout if is_watched() else _dropped
    return drop(gradient, *ctx.numbers), None, None


class _DirectDropout(torch.autograd.Function):
    """The same without the dispatcher. (With `setup_context` PyTorch would inspect the signature in every call.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        out = _dropped(x, p, seed)
        _save(ctx, (x, p, seed), out)
        return out

    backward = staticmethod(_backward)


torch.library.register_autograd("genrank::native_dropout", _backward, setup_context=_save, lib=_OPERATORS)
