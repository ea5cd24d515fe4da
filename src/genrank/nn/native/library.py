"""The C++ kernels of layers, lookups and search as one library: see native.py.

Without a compiler PyTorch's operators run instead: `load` returns None and logs why, and `genrank doctor` shows it.
"""

import ctypes
import functools
from pathlib import Path

import torch

from genrank.native import build_library, or_none

SOURCES = ("attention.cpp", "adagrad.cpp", "dropout.cpp", "search.cpp")


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None if it can't be built."""
    return or_none(build, instead="the slower PyTorch operators run")


def is_watched() -> bool:
    """Whether operators must go through PyTorch's dispatcher, because calls are compiled, traced or profiled.

    Otherwise a kernel is called directly. The dispatcher costs 0.1 ms per call of an operator written in Python, and a
    step of a narrow model has dozens of calls.
    """
    return bool(
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._autograd._profiler_enabled()
    )


def build() -> ctypes.CDLL:
    """The library, compiled if the cache folder doesn't have it. BuildError if that fails."""
    return build_library([Path(__file__).parent / source for source in SOURCES])
