"""The machine, and how fast it multiplies matrices."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from genrank.bench.measure import Figure, Rounds, Work

Precision = Literal["fp32", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def bench_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle() -> None:
    """Wait until the device has finished all work."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def describe() -> dict[str, Any]:
    """Processor, cores, threads, memory, versions, GPU."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class MatrixProducts:
    """A square product per precision, to be timed in the same rounds as the work that is compared with its rate."""

    def __init__(self, size: int, device: torch.device):
        self.size, self.flops = size, 2 * size**3
        self.factors = {name: torch.randn(size, size, device=device).to(dtype) for name, dtype in DTYPES.items()}

    def work(self) -> dict[str, Work]:
        """The products, by the names that `rates` and `share` use."""
        return {_name(precision): self._product(precision) for precision in DTYPES}

    def _product(self, precision: Precision) -> Work:
        factor = self.factors[precision]
        return lambda: factor @ factor

    def rates(self, rounds: Rounds) -> dict[str, Figure]:
        """GFLOP/s per precision."""
        return {f"{name}_gflops": rounds.rate(_name(name), self.flops / 1e9) for name in DTYPES}

    def share(self, rounds: Rounds, name: str, flops: float, precision: Precision) -> Figure:
        """`flops` in the time of the piece of work `name`, as a share of the measured matrix rate."""
        return rounds.ratio(_name(precision), name).times(flops / self.flops)


def _name(precision: Precision) -> str:
    return f"matrix product {precision}"
