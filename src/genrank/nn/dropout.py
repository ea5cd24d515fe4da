"""Dropout: nn.Dropout, but on CPU in C++, without drawing and storing a mask.

PyTorch draws one random number after the other on CPU: a tenth of a small model's training step. Here one seed is drawn
from PyTorch's generator and each element's fate is a hash of it, so that a resumed run still repeats itself.
"""

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.native.library import load


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
        dropped: Tensor = _Dropout.apply(x, self.p, seed)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"p={self.p}"


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(saved, x, p, seed):  # type: ignore[no-untyped-def]
        saved.p, saved.seed = p, seed
        return native_dropout(x, p=p, seed=seed)

    @staticmethod
    def backward(saved, gradient):  # type: ignore[no-untyped-def]
        return native_dropout(gradient, p=saved.p, seed=saved.seed), None, None


def native_dropout(x: Tensor, *, p: float, seed: int) -> Tensor:
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
