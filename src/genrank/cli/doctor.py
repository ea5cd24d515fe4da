"""`genrank doctor`: what this machine has, what is slow on it, and how to fix it."""

import importlib.util
import os
import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from genrank.native import BuildError
from genrank.nn.native.library import build
from genrank.runs.train import environment
from genrank.text_table import TextTable, to_rich

EXTRAS = {"ibis": "prepare", "duckdb": "prepare", "jinja2": "report", "matplotlib": "report", "tensorboard": "report"}


@dataclass(frozen=True)
class Rates:
    """Measured matrix products, GFLOP/s."""

    fp32: float
    bf16: float


def examine() -> RenderableType:
    """Versions, device, threads and measured rates, then advice."""
    found = findings()
    rates = found["gflops"]
    rows = [
        *found["versions"].items(),
        ("processor", found["processor"]),
        ("instructions", found["instructions"]),
        ("GPU", found["gpu"] or "none; CPU is used"),
        ("C++ kernels", found["kernels"]),
        *((f"attention {name}", said) for name, said in found["attention"].items()),
        ("matrix products", f"fp32 {rates['fp32']:,.0f} GFLOP/s, bf16 {rates['bf16']:,.0f} GFLOP/s (CPU)"),
    ]
    table = TextTable(title="genrank doctor", head=["", ""], rows=[[name, str(value)] for name, value in rows])
    return Group(to_rich(table), *(Text("• " + sentence) for sentence in found["advice"]))


def findings() -> dict[str, Any]:
    """The findings that `examine` shows, as plain values for --json."""
    import torch

    rates = measure()
    return {
        "versions": environment()["versions"],
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "kernels": kernels(),
        "attention": backends(),
        "gflops": asdict(rates),
        "advice": _advice(rates),
    }


def kernels() -> str:
    """Whether the C++ kernels can be used; builds them if needed."""
    try:
        build()
    except BuildError as problem:
        instead = "attention, dropout and embedding updates run in PyTorch, window statistics in NumPy"
        return f"none: {problem}; {instead}, which is slower"
    return "built for this processor"


def backends() -> dict[str, str]:
    """Attention backend → the result of its check on this machine's device (nn/self_check.py)."""
    import torch

    from genrank.nn.backends import BACKENDS, checked

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    for name in BACKENDS:
        if name in ("reference", "plain"):
            continue
        where = torch.device("cpu") if name in ("native", "fused") else device
        kinds = (True,) if name in ("fused", "flex") else (True, False)  # softmax; SiLU with a learned bias
        said = [checked(name, where, fusible=fusible) for fusible in kinds]
        wrong = next((each for each in said if each != "passed"), "")
        found[name] = f"not used: {wrong}" if wrong else f"equals the plain one on {where}, forward and gradients"
    return found


def measure(size: int = 1024, repeats: int = 5) -> Rates:
    """The highest rate of a few square matrix products on the CPU."""
    import torch

    def rate(dtype: torch.dtype) -> float:
        a = torch.ones(size, size, dtype=dtype)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
        return 2 * size**3 / best / 1e9

    return Rates(rate(torch.float32), rate(torch.bfloat16))


def _advice(rates: Rates) -> list[str]:
    import torch

    said = [
        f"{name} is missing: pip install 'genrank[{extra}]'"
        for name, extra in EXTRAS.items()
        if importlib.util.find_spec(name) is None
    ]
    said += thread_advice()
    if torch.get_num_threads() > (os.cpu_count() or 1):
        said.append("more torch threads than cores: set threads to the number of cores")
    if rates.bf16 > 1.5 * rates.fp32:
        said.append("bf16 products are faster here: try --set training.precision=bf16 for widths of 256 and more")
    return said or ["nothing to fix"]


def thread_advice() -> list[str]:
    """Advice on how idle OpenMP threads wait, which the command line sets unless the user did (command_line.py)."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        return ["idle threads spin and slow other programs: set OMP_WAIT_POLICY=passive and GOMP_SPINCOUNT=1000"]
    if "GOMP_SPINCOUNT" not in os.environ:
        return [
            "idle threads sleep at once, which suits cores that other programs use; on free cores a small model is "
            "faster without OMP_WAIT_POLICY, or with GOMP_SPINCOUNT=1000 as well"
        ]
    return []
