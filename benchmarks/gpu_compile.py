"""Compiles the Triton attention kernels for cards that aren't here, and says what the compiler made of them.

    python benchmarks/gpu_compile.py [--json] [--every] [--arch 80,90] [--numbers bfloat16] [--channels 96]
                                     [--weighting softmax,silu] [--bias position,time,both,learned]
    python benchmarks/gpu_compile.py --specializations      how often batches of ten sizes make Triton compile

Needs torch and triton with its ptxas; no GPU. Kernels are launched as training launches them, with the reasoned tiles,
on tensors of PyTorch's device `meta` and with a driver that only names the card's architecture: so arguments and their
specialization are those of a real launch, compiled by Triton's own path. Without --every, the paper's setting: 96
channels in bf16, ALiBi by position under softmax and HSTU's learned bias under SiLU, history and candidates.

Columns: registers of a thread (255 at most), bytes that it spills to memory, shared memory of a program, its tensor
core instructions (wgmma on an H100, mma on an A100 and for small tiles), copies to shared memory of 16 bytes and of
fewer.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
os.environ.pop("TRITON_INTERPRET", None)  # before anything imports Triton

import torch
from rich.console import Console
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.driver import driver

from genrank.nn import triton_attention, triton_kernels, triton_tiles
from genrank.nn.attention import TIME_BUCKETS, LearnedBias, Queries, Scoring, Tokens, alibi
from genrank.text_table import TextTable, to_rich

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program can have on A100 and H100
GRID = {
    "arch": (80, 90),
    "numbers": ("float32", "bfloat16"),
    "channels": (32, 64, 96, 128),
    "weighting": ("softmax", "silu"),
    "bias": ("position", "time", "both", "learned"),
    "own": (False, True),
}
PAPER: dict[str, list[Any]] = {"numbers": ["bfloat16"], "channels": [96], "bias": ["position", "learned"]}
META = torch.device("meta")
NUM_HEADS, NUM_QUERIES, NUM_KEYS, NUM_POSITIONS = 8, 300, 1000, 500
Launch = tuple[str, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """What one layer computes, and for which card. own: of candidates, which bring a term of their own."""

    arch: int
    numbers: str
    channels: int
    weighting: Any
    bias: Any
    own: bool

    def launches(self, num_queries: int = NUM_QUERIES, num_keys: int = NUM_KEYS) -> list[Launch]:
        """Name, arguments and flags of every kernel of a forward and backward pass."""
        context, dtype, learned = _tokens(num_keys), getattr(torch, self.numbers), None
        queries = Queries(context, context.position, context.time, causal=True)
        if self.own:
            asked = _tokens(num_queries)
            queries = Queries(asked, asked.position, asked.time)
        if self.bias == "learned":
            learned = LearnedBias(_leaf(torch.float32, NUM_POSITIONS), _leaf(torch.float32, TIME_BUCKETS))
        scoring = Scoring(alibi(NUM_HEADS, "none" if learned else self.bias), self.weighting, 20.0)
        q, own_k, own_v = (_leaf(dtype, len(queries.prefix), NUM_HEADS, self.channels) for _ in range(3))
        k, v = (_leaf(dtype, num_keys, NUM_HEADS, self.channels) for _ in range(2))
        tiles = triton_tiles.fallback(dtype, self.channels, SHARED_MEMORY[self.arch], learned=learned is not None)
        launched = _Launches()
        kernels, triton_attention._kernels = triton_attention._kernels, lambda: launched  # type: ignore[assignment]
        try:
            with triton_tiles.using(tiles):
                attention = triton_attention.TritonAttention(queries, context, scoring)
                attention(q, k, v, own_k, own_v, learned).sum().backward()
        finally:
            triton_attention._kernels = kernels
        return launched.all


@dataclass(frozen=True)
class Compiled:
    """One kernel of a variant, and what the compiler says of it."""

    kernel: str
    variant: Variant
    tile: triton_tiles.Tile
    registers: int
    spilled: int
    shared: int
    tensor_cores: int
    wide_copies: int
    narrow_copies: int

    def row(self) -> dict[str, Any]:
        """Flat, for a table."""
        own = asdict(self)
        return {"kernel": own.pop("kernel"), **own.pop("variant"), **own.pop("tile"), **own}


class _Launches:
    """Stands for the module of kernels, and keeps what is launched."""

    def __init__(self) -> None:
        self.all: list[Launch] = []

    def __getattr__(self, name: str) -> dict[Any, Callable[..., None]]:
        kept = self.all

        class Kernel(dict[Any, Any]):
            def __missing__(self, grid: Any) -> Callable[..., None]:
                return lambda *arguments, **flags: kept.append((name, arguments, flags))

        return Kernel()


class _Driver:
    """All that Triton asks of a driver to compile: which card, as which device."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def _tokens(count: int) -> Tokens:
    zeros = torch.zeros(count, dtype=torch.int64, device=META)
    return Tokens(torch.zeros(3, dtype=torch.int64, device=META), zeros, zeros)


def _leaf(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META, requires_grad=True)


def compiled(variant: Variant) -> Iterator[Compiled]:
    """Every kernel of the variant."""
    for name, arguments, flags in variant.launches():
        made = launch(variant.arch, name, arguments, flags)
        ptx, (registers, spilled) = made.asm["ptx"], ptxas(made.asm["ptx"], variant.arch)
        copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx)
        wide = sum(int(size, 0) == 16 for size in copies)
        yield Compiled(
            kernel=name.removesuffix("_kernel"),
            variant=variant,
            tile=triton_tiles.Tile(*(flags[key] for key in ("M", "N", "num_warps", "num_stages"))),
            registers=registers,
            spilled=spilled,
            shared=made.metadata.shared,
            tensor_cores=ptx.count("wgmma.mma_async") + ptx.count("mma.sync"),
            wide_copies=wide,
            narrow_copies=len(copies) - wide,
        )


def launch(arch: int, name: str, arguments: tuple[Any, ...], flags: dict[str, Any]) -> Any:
    """The kernel, compiled as a launch on such a card would."""
    driver.set_active(_Driver(arch))
    return getattr(triton_kernels, name).run(*arguments, grid=(1,), warmup=True, **flags)


def ptxas(ptx: str, arch: int) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills, as the assembler says."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name = re.search(r"\.target (sm_\w+)", ptx)
        assert name is not None
        command = [get_ptxas(arch).path, "-v", f"--gpu-name={name[1]}", str(source), "-o", str(source) + ".cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert registers is not None
    assert spilled is not None
    return int(registers[1]), int(spilled[1])


def specializations(variant: Variant) -> dict[str, int]:
    """Compilations of each kernel that batches of ten sizes take; nothing is compiled for it."""
    found: dict[str, set[str]] = {}

    def note(**call: Any) -> bool:
        found.setdefault(call["fn"].name.split(".")[-1].removesuffix("_kernel"), set()).add(call["compile"]["key"])
        return True  # as if it were compiled

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    try:
        for sizes in itertools.product((1, 16, 17, 300, 4096), (1, 65_536)):
            for name, arguments, flags in variant.launches(*sizes):
                launch(variant.arch, name, arguments, flags)
    finally:
        knobs.runtime.jit_cache_hook = before
    return {kernel: len(keys) for kernel, keys in found.items()}


def variants(chosen: dict[str, list[Any]], *, every: bool) -> list[Variant]:
    """The grid's, where `chosen` leaves any; without `every` the paper's setting."""
    grid = {name: [v for v in values if not chosen.get(name) or v in chosen[name]] for name, values in GRID.items()}
    if not every:
        grid = {name: values if chosen.get(name) else PAPER.get(name, values) for name, values in grid.items()}
    found = [Variant(*values) for values in itertools.product(*grid.values())]
    return (
        found if every or chosen.get("bias") else [v for v in found if (v.weighting == "silu") == (v.bias == "learned")]
    )


def parse() -> tuple[argparse.Namespace, dict[str, list[Any]]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--specializations", action="store_true")
    parser.add_argument("--every", action="store_true", help="the whole grid: about an hour on one core")
    for name in ("arch", "numbers", "channels", "weighting", "bias"):
        parser.add_argument(f"--{name}", help=f"of {', '.join(map(str, GRID[name]))}, by commas")
    arguments = parser.parse_args()
    chosen: dict[str, list[Any]] = {}
    for name in ("arch", "numbers", "channels", "weighting", "bias"):
        known = {str(value): value for value in GRID[name]}
        wanted = (getattr(arguments, name) or "").split(",") if getattr(arguments, name) else []
        wrong = [value for value in wanted if value not in known]
        if wrong:
            parser.error(f"--{name} {wrong[0]!r} is not one of {', '.join(known)}")
        chosen[name] = [known[value] for value in wanted]
    return arguments, chosen


def main() -> int:
    arguments, chosen = parse()
    if arguments.specializations:
        chosen_variants = variants(chosen, every=arguments.every)
        print(json.dumps([{**asdict(one), **specializations(one)} for one in chosen_variants], indent=1))
        return 0
    rows = [one.row() for variant in variants(chosen, every=arguments.every) for one in compiled(variant)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    first = rows[0] if rows else {}
    table = TextTable(
        title="what the compiler says",
        head=[column.replace("_", " ") for column in first],
        rows=[list(map(str, row.values())) for row in rows],
        numeric=[number for number, value in enumerate(first.values()) if not isinstance(value, str)],
    )
    Console(width=200).print(to_rich(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
