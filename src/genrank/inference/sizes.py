"""How much memory a value holds, with what its arrays, tensors and objects need beside their numbers.

For a user with few events that is most of it: the twenty empty arrays of a timeline take 3 KB. The constants are what
CPython 3.11, NumPy 2 and PyTorch 2 took of resident memory for 200,000 such objects each, rounded up.
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
SMALL = 32  # of an allocation that `sys.getsizeof` does not see
ENTRY = 320  # of an ordered mapping's entry that is kept with its size


def entry_bytes(key: Any, value: Any) -> int:
    """Bytes of a cache's entry: the key, the value and the place that it takes."""
    return ENTRY + held_bytes(key) + held_bytes(value)


def held_bytes(value: Any) -> int:
    """Bytes of a value and of all that it refers to; what it refers to twice counts once, views as what they show."""
    return _held(value, set())


def _held(value: Any, seen: set[int]) -> int:
    if value is None or isinstance(value, bool) or id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return ARRAY + value.nbytes
    if hasattr(value, "element_size"):  # a tensor's; PyTorch need not be there
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
