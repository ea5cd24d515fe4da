"""What is measured, on which machine, and with which clock?"""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from genrank.nn.triton_tiles import Kernel

ROOT = Path(__file__).resolve().parents[2]
# Dense bf16 TFLOP/s of the vendor's data sheets, by what the card's name contains; the first that fits counts.
PEAKS = {"H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "A100": 311.9}
# Kernel, and whether with a learned bias: by how much the paper's training gains from a better tile, then HSTU's.
SEARCHES: tuple[tuple[Kernel, bool], ...] = (
    ("forward", False),
    ("key_gradient", False),
    ("query_gradient", False),
    ("table_gradient", True),
    ("forward", True),
    ("key_gradient", True),
    ("query_gradient", True),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is: on a card, or (TINY) in Triton's interpreter on a CPU."""

    tiny: bool = False
    dtype: torch.dtype = torch.bfloat16
    num_heads: int = 8
    channels: int = 96
    repeats: int = 11
    # check: a block of the kernels holds up to 128 tokens, so one sequence has several
    check_channels: tuple[int, ...] = (96, 64, 128, 32)
    check_lengths: tuple[int, ...] = (300, 34, 0, 3)
    check_candidates: tuple[int, ...] = (40, 7, 2, 1)
    # attention and training: positions of a user, of which 15 % are candidates, and of a batch
    lengths: tuple[int, ...] = (480, 1024, 4096)
    num_positions: int = 32_768
    search_lengths: tuple[int, ...] = (480, 4096)
    search_channels: tuple[int, ...] = (96, 64, 128, 32)
    searches: tuple[tuple[Kernel, bool], ...] = SEARCHES
    search_at_most: int = 16  # tiles of a search
    feedforward: int = 3072
    num_blocks: int = 3
    num_items: int = 200_000
    embedding_dim: int = 128
    matrix: int = 8192
    # scoring
    score_width: int = 512
    score_blocks: int = 4
    score_histories: tuple[int, ...] = (512, 4096)
    score_candidates: tuple[int, ...] = (500, 2048)
    score_batches: tuple[int, ...] = (1, 8, 64)
    score_runs: int = 200
    demo_settings: tuple[str, ...] = ()  # of the simulated feed

    def users(self, length: int) -> int:
        """Of a batch."""
        return max(self.num_positions // length, 1)


TINY = Sizes(
    tiny=True,
    dtype=torch.float32,
    num_heads=1,
    channels=16,
    repeats=1,
    check_channels=(16,),
    check_lengths=(9, 0, 3),
    check_candidates=(3, 1, 2),
    lengths=(16,),
    num_positions=16,
    search_lengths=(16,),
    search_channels=(16,),
    searches=(("forward", False), ("key_gradient", False), ("query_gradient", True), ("table_gradient", True)),
    search_at_most=2,
    feedforward=32,
    num_blocks=2,
    num_items=50,
    embedding_dim=8,
    matrix=64,
    score_width=16,
    score_blocks=2,
    score_histories=(12,),
    score_candidates=(5,),
    score_batches=(1, 2),
    score_runs=2,
    demo_settings=("num_users=24", "num_days=5", "requests_per_day=8", "num_items=200", "new_items_per_day=10"),
)


@dataclass(frozen=True)
class Clock:
    """Times work on one device, whose kernels it waits for."""

    device: torch.device
    repeats: int = 11
    warm_ups: int = field(default=2)

    def by_turns(self, work: Mapping[str, Callable[[], object]], *, seconds: float = 20.0) -> dict[str, list[float]]:
        """Seconds of every run. The pieces take turns; after `seconds` no further round begins, but one is made."""
        taken: dict[str, list[float]] = {name: [] for name in work}
        began = time.monotonic()
        for turn in range(-self.warm_ups if self.device.type == "cuda" else 0, self.repeats):
            if turn > 0 and time.monotonic() - began > seconds:
                break
            for name, run in work.items():
                took = self.once(run)
                if turn >= 0:
                    taken[name].append(took)
        return taken

    def once(self, run: Callable[[], object]) -> float:
        """Seconds of one run: on a card from its own start to its end, by the card's clock."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000

    def peak_memory(self, run: Callable[[], object]) -> float | None:
        """MiB above what was allocated before; None where it isn't known."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def matrix_rate(self, size: int, dtype: torch.dtype) -> float:
        """FLOP/s of a square matrix product."""
        a, b = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
        return 2 * size**3 / statistics.median(self.by_turns({"matrix": lambda: a @ b})["matrix"])


def card_name(device: torch.device) -> str:
    """As the driver calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, Triton's interpreter"


def published_peak(card: str) -> float | None:
    """Dense bf16 FLOP/s by the vendor's data sheet; None where the card isn't in the list."""
    return next((1e12 * peak for name, peak in PEAKS.items() if name in card), None)


def describe(device: torch.device, command: str) -> dict[str, Any]:
    """What a figure was measured with."""
    return {
        "card": card_name(device),
        "driver": _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks_and_power": _answer("nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm,power.limit", "--format=csv"),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
        "commit": _answer("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "command": command,
    }


def _answer(*command: str) -> str | None:
    """What a program says; None where it isn't there or fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return " ".join(found.stdout.split())


def as_json(value: Any) -> str:
    """Indented, with what is not a number (a NaN of a wrong kernel) as text, so that any reader takes it."""

    def plain(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {str(name): plain(each) for name, each in part.items()}
        if isinstance(part, list | tuple):
            return [plain(each) for each in part]
        return part if not isinstance(part, float) or abs(part) < float("inf") else str(part)

    return json.dumps(plain(value), indent=1, default=str)
