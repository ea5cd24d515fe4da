"""Step `attention`: how fast is one layer's attention, forward and backward, and which tiles are the fastest?

A user has so many positions, of which the last 15 % are candidates that see all of the history. Attention counts
4 · width operations for a query that sees a key, forward, and as much again twice, backward. PyTorch's fused causal
attention runs over the same positions, by each of its kernels that takes them; `over_sdpa` is the rate of operations
against the fastest of these. Backends are built before the clock starts, as layers share them.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from genrank.bench.worlds import share_of
from genrank.nn.attention import Attention, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import BACKENDS
from gpu_steps import tile_search
from gpu_steps.check import START, moved, moved_queries, offsets_of, output, random_leaves
from gpu_steps.machine import Clock, Sizes
from gpu_steps.report import Report

SDPA_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
FLEX = 0.25  # of the step's budget that is left to FlexAttention, whose kernels take long to compile


@dataclass(frozen=True)
class Contender:
    """What is timed. operations: forward, of visible pairs only."""

    forward: Callable[[], object]
    both: Callable[[], object]
    operations: float


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """Rows of contenders at every length, those of the search, and those of FlexAttention, which compiles longest."""
    rates: dict[tuple[int, str], float] = {}
    for length in report.cases(sizes.lengths):
        with report.case(f"speed at {length}"):
            rates |= _time(report, clock, length, dict(_contenders(report, sizes, clock.device, length)), {})
    flex = clock.device.type == "cuda"
    tile_search.run(report, sizes, clock, workers=workers, until=FLEX * report.seconds if flex else 0.0)
    for length in report.cases(sizes.lengths if flex else ()):
        with report.case(f"flex, ALiBi, {length}"):
            layer = _ours(sizes, clock.device, length, "flex", "position", hstu=False)
            _time(report, clock, length, {"flex, ALiBi": layer}, rates)


def _time(
    report: Report, clock: Clock, length: int, contenders: dict[str, Contender], known: dict[tuple[int, str], float]
) -> dict[tuple[int, str], float]:
    """(length, forward or both) → the rate of PyTorch's fastest kernel, where it is among them; else it is `known`."""
    fastest = dict(known)
    for what, factor in (("forward", 1), ("both", 3)):
        work: dict[str, Callable[[], object]] = {name: getattr(one, what) for name, one in contenders.items()}
        taken = clock.by_turns(work, seconds=max(report.left / 8, 1.0))
        seconds = {name: statistics.median(each) for name, each in taken.items()}
        rates = {name: factor * contenders[name].operations / took for name, took in seconds.items()}
        dense = [rate for name, rate in rates.items() if name.startswith("sdpa")]
        fastest |= {(length, what): max(dense)} if dense else {}
        best = fastest.get((length, what))
        for name, rate in rates.items():
            report.row(
                case=name,
                length=length,
                what=what,
                milliseconds=1000 * seconds[name],
                tflops=rate / 1e12,
                over_sdpa=None if best is None else rate / best,
                mebibytes=clock.peak_memory(work[name]),
            )
    return fastest


def _contenders(report: Report, sizes: Sizes, device: torch.device, length: int) -> Iterator[tuple[str, Contender]]:
    """Those that run, by name."""
    for name, by, hstu in (("triton, ALiBi", "position", False), ("triton, HSTU", "none", True)):
        with report.case(f"{name}, {length}"):
            layer = _ours(sizes, device, length, "triton", by, hstu=hstu)
            layer.both()
            yield name, layer
    for name, kernel in SDPA_KERNELS.items():
        try:
            dense = _sdpa(sizes, device, length, kernel)
            dense.both()
        except RuntimeError as error:  # which of its kernels take these tensors is PyTorch's affair
            report.fact(f"sdpa, {name}", f"doesn't run: {str(error).splitlines()[0]}")
            continue
        yield f"sdpa, {name}", dense
    if device.type == "cuda" and length == sizes.lengths[0]:
        report.fact("kernels of sdpa as PyTorch chooses", _kernels_of(_sdpa(sizes, device, length, None).both))


def _ours(
    sizes: Sizes, device: torch.device, length: int, backend: str, by: Literal["position", "none"], *, hstu: bool
) -> Contender:
    """One layer: the history's own attention, and that of the candidates to it."""
    scoring = Scoring(alibi(sizes.num_heads, by), "silu" if hstu else "softmax", 2.0 * length)
    parts, leaves = [], []
    for queries, context in layer_of(sizes, device, length):
        attention: Attention = BACKENDS[backend](queries, context, scoring)
        table = 2 * length if hstu else 0
        drawn = random_leaves(queries, context, sizes.num_heads, sizes.channels, dtype=sizes.dtype, table=table)
        mine = {name: leaf.requires_grad_() for name, leaf in drawn.items()}
        parts.append((attention, mine))
        leaves += list(mine.values())

    def forward() -> list[Tensor]:
        return [output(attention, mine) for attention, mine in parts]

    d_outs = [torch.randn_like(out) for out in forward()]
    pairs = sum(int((queries.prefix + 1).sum()) for queries, _ in layer_of(sizes, device, length))
    return Contender(
        forward=torch.no_grad()(forward),
        both=lambda: torch.autograd.grad(forward(), leaves, d_outs),
        operations=4.0 * sizes.num_heads * sizes.channels * pairs,
    )


def layer_of(sizes: Sizes, device: torch.device, length: int) -> list[tuple[Queries, Tokens]]:
    """A batch of equal users: their histories, and their candidates over them. Requests are ten minutes apart."""
    num_history, num_candidates = share_of(length)
    num_users = sizes.users(length)
    position = torch.arange(num_history).repeat(num_users)
    context = Tokens(offsets_of([num_history] * num_users), position, START + 600 * (position // 8))
    history = Queries(context, position, context.time + 600, causal=True)
    prefix = torch.full((num_users * num_candidates,), num_history)
    asked = Tokens(offsets_of([num_candidates] * num_users), prefix, START + 600 * (prefix // 8 + 1))
    there = moved(context, device)
    of_history = moved_queries(history, device)
    of_history = Queries(there, of_history.prefix, of_history.next_time, causal=True)
    return [(of_history, there), (moved_queries(Queries(asked, prefix, asked.time), device), there)]


def _sdpa(sizes: Sizes, device: torch.device, length: int, kernel: SDPBackend | None) -> Contender:
    """PyTorch's causal attention over as many positions, by one of its kernels; None: the one that it chooses."""
    shape = (sizes.users(length), sizes.num_heads, length, sizes.channels)
    q, k, v = (torch.randn(shape, device=device).to(sizes.dtype).requires_grad_() for _ in range(3))
    d_out = torch.randn_like(q)

    def forward() -> Tensor:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    pairs = sizes.users(length) * length * (length + 1) // 2
    return Contender(
        forward=torch.no_grad()(forward),
        both=lambda: torch.autograd.grad(forward(), (q, k, v), d_out),
        operations=4.0 * sizes.num_heads * sizes.channels * pairs,
    )


def _kernels_of(run: Callable[[], object]) -> list[str]:
    """Names of the CUDA kernels that take most of its time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [event.key for event in events[:3]]
