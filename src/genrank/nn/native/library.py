"""The C++ kernels of layers, lookups and search as one library: see native.py.

Where there is no compiler the PyTorch paths run instead: `load` gives None, logs why, and `genrank doctor` says so.
"""

import ctypes
import functools
from pathlib import Path

import torch

from genrank.native import build_library, or_none

SOURCES = ("attention.cpp", "adagrad.cpp", "dropout.cpp", "search.cpp")


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where it can't be built."""
    return or_none(build, instead="the slower PyTorch paths run")


def is_watched() -> bool:
    """Whether operators must go through PyTorch's dispatcher: something compiles, traces or profiles what is called.

    Else a kernel is called directly. An operator in Python costs 0.1 ms there and back, of which narrow models have
    dozens in a step.
    """
    return bool(
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._autograd._profiler_enabled()
    )


def build() -> ctypes.CDLL:
    """The library, compiled unless the cache has it. BuildError where that fails."""
    return build_library([Path(__file__).parent / source for source in SOURCES])
