"""Finds the operators at which a CUDA device would keep the host waiting, on a machine without one.

`HostWaits` sees every operator that PyTorch dispatches below autograd, the backward pass included. An operator waits
where the host needs a number that the device has computed: a value, or the size of a result. Tensors lie on the device
`meta`, which has no values: code takes the paths that it takes on CUDA, a copy between host and device shows, and what
needs a value is an error besides.

A copy to the device counts as one without a wait where it is `non_blocking`: `genrank.batch.sent` and the loader pin
the memory that they copy from, without which CUDA would wait all the same.
"""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genrank.nn import triton_attention, triton_tiles

SOURCE = Path(__file__).resolve().parents[1] / "src" / "genrank"
# Names of operators that read a value, or whose result has a size that only the device knows.
ALWAYS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere", "masked_select"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount"),
    *("coalesce", "_coalesce", "histc", "histogram", "_linalg_check_errors", "_assert_async_host"),
}

# Names of operators that start no kernel: other views of the same memory, and memory that is not filled.
VIEWS = {
    *("view", "_unsafe_view", "_reshape_alias", "alias", "as_strided", "detach", "expand", "permute", "diagonal"),
    *("t", "transpose", "select", "slice", "split", "split_with_sizes", "squeeze", "unsqueeze", "unbind"),
    *("empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "_indices", "_values"),
}


class HostWaits(TorchDispatchMode):
    """`found`: operator and the line of this project that called it, for every wait. `operators`: their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operators[func._schema.name.removeprefix("aten::")] += 1
        if reason := _reason(func, args, kwargs):
            self.found.append(f"{reason} at {_line()}")
        return func(*args, **kwargs)

    @property
    def num_kernels(self) -> int:
        """About how many kernels the operators start."""
        return sum(count for name, count in self.operators.items() if name not in VIEWS)


class NoKernel:
    """Kernels are launched and forgotten, which takes no answer from the device.

    launches: name, grid, the host's values and the tensors' shapes.
    """

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> "_Launcher":
        return _Launcher(self, name)


class _Launcher:
    def __init__(self, kernels: NoKernel, name: str):
        self.kernels, self.name = kernels, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **flags: Any) -> None:
            values = tuple(tuple(x.shape) if isinstance(x, Tensor) else x for x in arguments)
            self.kernels.launches.append((self.name, grid, values, tuple(flags.items())))

        return launch


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> NoKernel:
    """What a CUDA device would choose, for tensors of the device `meta`."""
    kernels = NoKernel()
    monkeypatch.setattr(triton_attention, "_kernels", lambda: kernels)
    monkeypatch.setattr(triton_tiles, "_in_use", [triton_tiles.INTERPRETED])
    monkeypatch.setattr("genrank.nn.backends.choose_backend", lambda *arguments, **flags: "triton")
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **flags: nullcontext())  # it takes no such tensors
    return kernels


def _reason(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    name = func._schema.name.removeprefix("aten::")
    plain = name if name.startswith("_") else name.removesuffix("_")
    if plain in ("_to_copy", "copy"):
        return _copying(name, args, kwargs)
    tensors = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, Tensor)]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return ""  # what is on the host keeps nobody waiting
    if any(tensor.device.type == "cpu" and tensor.dim() for tensor in tensors):
        return f"{name} of tensors on both sides"  # an error on CUDA, or a copy
    if plain == "repeat_interleave":
        return "" if kwargs.get("output_size") is not None else "repeat_interleave without output_size"
    if plain in ("index", "index_put", "_index_put_impl", "_unsafe_index"):
        return _indexing(name, args)
    return name if plain in ALWAYS else ""


def _indexing(name: str, args: tuple[Any, ...]) -> str:
    """By a mask: its length is unknown. A number that is written by an index is copied to the device first."""
    masked = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if "put" not in name:
        return f"{name} by a mask" if masked else ""
    if masked:
        return "" if args[2].dim() == 0 else f"{name} by a mask"  # a number becomes masked_fill
    return f"{name} of a number" if args[2].dim() == 0 else ""


def _copying(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    source = args[1] if name == "copy_" else args[0]
    target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
    if not isinstance(source, Tensor) or torch.device(target).type == source.device.type:
        return ""
    waits_not = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
    if source.device.type == "cpu" and (waits_not or (name == "copy_" and source.dim() == 0)):
        return ""
    return f"{name} from {source.device.type} to {torch.device(target).type}"


def _line() -> str:
    """The innermost line of this project; where autograd calls, that of `backward`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            return f"{path.relative_to(SOURCE)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "no line of genrank"
