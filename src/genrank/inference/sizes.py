"""The memory of a value, including the overhead of its arrays, tensors and objects.

For a user with few events the overhead is the larger part: the twenty empty arrays of a timeline take 3 KB. The
constants are measured with CPython 3.11, NumPy 2 and PyTorch 2: resident memory of 200,000 such objects each, rounded
up.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

ARRAY = 160  # bytes: the object, its shape, the allocator's share
TENSOR = 700  # its view and its storage
DEVICE_BLOCK = 512  # bytes: CUDA's allocator rounds up to a multiple
OBJECT = 96
FIELD = 8
SMALL = 32  # overhead of an allocation that `sys.getsizeof` doesn't include
ENTRY = 320  # entry of an ordered mapping that is stored with its size


def entry_bytes(key: Any, value: Any) -> int:
    """Bytes of a cache's entry: key, value and the mapping's entry."""
    return ENTRY + held_bytes(key) + held_bytes(value)


def held_bytes(value: Any) -> int:
    """Bytes of a value and of everything that it refers to; repeated references count once, views by their own size."""
    return _held(value, set())


def _held(value: Any, seen: set[int]) -> int:
    if value is None or isinstance(value, bool) or id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return ARRAY + value.nbytes
    if hasattr(value, "element_size"):  # a tensor; PyTorch need not be imported
        size, least = int(value.numel() * value.element_size()), 1 if value.device.type == "cpu" else DEVICE_BLOCK
        return TENSOR + -(-size // least) * least
    if isinstance(value, Mapping):
        inside = sum(_held(key, seen) + _held(each, seen) for key, each in value.items())
        return sys.getsizeof(value) + SMALL + inside
    if isinstance(value, tuple | list):
        return sys.getsizeof(value) + SMALL + sum(_held(each, seen) for each in value)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return OBJECT + FIELD * len(names) + sum(_held(getattr(value, name), seen) for name in names)
    return sys.getsizeof(value)
