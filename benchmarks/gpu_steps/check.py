"""Step `check`: is every backend right on this machine? Outputs and all gradients against float64, on small problems.

Shapes as in genrank/nn/attention.py.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrank.nn.attention import (
    TIME_BUCKETS,
    Attention,
    LearnedBias,
    Queries,
    ReferenceAttention,
    Scoring,
    Tokens,
    alibi,
)
from genrank.nn.backends import BACKENDS
from gpu_steps.machine import Clock, Sizes
from gpu_steps.report import Report
from gpu_steps.workers import spread

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2}  # of the largest value of a tensor; ours
START, YEAR = 1_700_000_000, 31_557_600  # seconds
NUM_POSITIONS = 24  # of the learned table: farther ones share its last entry
KINDS = ("history", "candidates", "interleaved")
# Weighting, ALiBi, learned bias. First what the models use.
SETTINGS = [
    ("softmax", "position", False),
    ("silu", "none", True),
    ("softmax", "both", False),
    ("softmax", "none", True),
]
SETTINGS += [("silu", "both", True), ("softmax", "time", False)]
ALL_SETTINGS = list(itertools.product(("softmax", "silu"), ("position", "time", "both", "none"), (False, True)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backend and what it is to compute. deterministic: twice, with PyTorch's deterministic algorithms."""

    backend: str
    dtype: torch.dtype
    channels: int
    weighting: Literal["softmax", "silu"]
    by: Literal["position", "time", "both", "none"]
    learned: bool
    deterministic: bool
    device: str
    sizes: Sizes

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.columns().values())

    def columns(self) -> dict[str, Any]:
        """What a row says of it."""
        return {
            "backend": self.backend,
            "dtype": str(self.dtype).removeprefix("torch."),
            "channels": self.channels,
            "weighting": self.weighting,
            "alibi": self.by,
            "learned": self.learned,
            "deterministic": self.deterministic,
        }


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """A row per case and kind of queries."""
    cases = list(cases_of(sizes, clock.device))
    left = list(cases)
    for outcome in spread(check, cases, workers=workers, seconds=lambda: report.left):
        left.remove(outcome.case)
        if outcome.error:
            report.error(str(outcome.case), outcome.error)
        for row in outcome.value or ():
            report.row(**row)
    for case in left:
        report.skip(str(case))


def cases_of(sizes: Sizes, device: torch.device) -> Iterator[Case]:
    """In order of importance: the budget may not reach the last ones. PyTorch's fused attention is for CPUs."""

    def case(backend: str, dtype: torch.dtype, channels: int, setting: Any, *, deterministic: bool = False) -> Case:
        weighting, by, learned = setting
        return Case(
            backend=backend,
            dtype=dtype,
            channels=channels,
            weighting=weighting,
            by=by,
            learned=learned,
            deterministic=deterministic,
            device=str(device),
            sizes=sizes,
        )

    half, single, first = torch.bfloat16, torch.float32, sizes.check_channels[0]
    if sizes.tiny:  # one of each
        yield from (case("triton", dtype, first, SETTINGS[1]) for dtype in (half, single))
        yield case("triton", single, first, SETTINGS[2], deterministic=True)
        yield from (case(backend, single, first, SETTINGS[0]) for backend in ("plain", "fused"))
        return
    yield from (case("triton", half, first, setting) for setting in SETTINGS)
    yield from (case("triton", half, first, setting, deterministic=True) for setting in SETTINGS[1:3])
    if device.type == "cuda":
        yield from (case("flex", half, first, setting) for setting in (SETTINGS[0], SETTINGS[2], SETTINGS[3]))
        yield case("flex", single, first, SETTINGS[0])
    yield from (case("triton", single, first, setting) for setting in SETTINGS)
    yield from (case("triton", single, first, setting, deterministic=True) for setting in SETTINGS[1:3])
    for dtype in (half, single):
        yield from (case("plain", dtype, first, setting) for setting in SETTINGS)
    for channels, dtype in itertools.product(sizes.check_channels[1:], (half, single)):
        yield from (case("triton", dtype, channels, setting) for setting in SETTINGS[:4])
    yield from (case("triton", half, first, setting) for setting in ALL_SETTINGS if setting not in SETTINGS)


def check(case: Case) -> list[dict[str, Any]]:
    """Rows of the case, one per kind of queries."""
    torch.use_deterministic_algorithms(case.deterministic)
    try:
        return [_compared(case, kind) for kind in KINDS]
    finally:
        torch.use_deterministic_algorithms(False)


def _compared(case: Case, kind: str) -> dict[str, Any]:
    queries, context = layout(kind, case.sizes.check_lengths, case.sizes.check_candidates)
    table = NUM_POSITIONS if case.learned else 0
    leaves = random_leaves(queries, context, case.sizes.num_heads, case.channels, dtype=case.dtype, table=table)
    scoring = Scoring(alibi(case.sizes.num_heads, case.by), case.weighting, normalizer=20.0)
    d_out = torch.randn(leaves["q"].shape, generator=torch.Generator().manual_seed(1)).to(case.dtype)
    wide = {name: leaf.double() for name, leaf in leaves.items()}
    expected = results(ReferenceAttention(queries, context, scoring), wide, d_out.double())
    device = torch.device(case.device)
    attention = BACKENDS[case.backend](moved_queries(queries, device), moved(context, device), scoring)
    there = {name: leaf.to(device) for name, leaf in leaves.items()}
    found = results(attention, there, d_out.to(device))
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    worst = max((name for name in errors if name != "output"), key=lambda name: errors[name])
    right = all(error <= TOLERANCE[case.dtype] for error in errors.values())  # false for NaN
    row = {**case.columns(), "queries": kind, "output_error": errors["output"], "gradient_error": errors[worst]}
    row |= {"worst": worst, "errors": errors}
    if case.deterministic:
        again = results(attention, there, d_out.to(device))
        row["bit_equal"] = all(torch.equal(again[name], found[name]) for name in found)
        right = right and row["bit_equal"]
    return {**row, "right": right}


def wrong(rows: list[dict[str, Any]]) -> str:
    """By how much a case's results are off; empty where they are right."""
    worst = max(error for row in rows for error in row["errors"].values())
    return "" if all(row["right"] for row in rows) else f"off by {worst:.2g}"


def layout(kind: str, lengths: tuple[int, ...], num_candidates: tuple[int, ...]) -> tuple[Queries, Tokens]:
    """Histories, every second one with a year between events, and the queries of that kind."""
    position = torch.cat([torch.arange(n) for n in lengths])
    pace = torch.repeat_interleave(torch.tensor([600, YEAR] * len(lengths))[: len(lengths)], torch.tensor(lengths))
    context = Tokens(offsets_of(lengths), position, START + pace * position + position % 7)
    if kind == "history":
        return Queries(context, position, context.time + 30, causal=True), context
    if kind == "interleaved":  # items and actions by turns, three items a request
        prefix = torch.where(position % 2 == 0, position // 6 * 6, position)
        return Queries(context, prefix, context.time + 30), context
    drawn = random.Random(0)
    prefixes = [sorted(drawn.choices(range(n + 1), k=m)) for n, m in zip(lengths, num_candidates, strict=True)]
    prefix = torch.tensor([one for each in prefixes for one in each[:-2] + each[-2:][::-1]])  # not all in order
    tokens = Tokens(offsets_of(num_candidates), prefix, START + 40 * YEAR + torch.arange(len(prefix)))
    return Queries(tokens, prefix, tokens.time + 7), context


def offsets_of(lengths: tuple[int, ...] | list[int]) -> Tensor:
    """(B + 1)"""
    return torch.tensor([0, *lengths]).cumsum(0)


def random_leaves(
    queries: Queries, context: Tokens, num_heads: int, channels: int, *, dtype: torch.dtype, table: int = 0
) -> dict[str, Tensor]:
    """All that the attention takes, by name, where the queries are: for a causal history no keys and values of its own.

    table: positions of the learned bias; 0: there is none.
    """
    device = queries.prefix.device
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    rows = {"q": len(queries.prefix), "k": len(context.position), "v": len(context.position)}
    rows |= {} if queries.causal else {"own_k": len(queries.prefix), "own_v": len(queries.prefix)}
    leaves = {name: draw(count, num_heads, channels).to(dtype) for name, count in rows.items()}
    if table:
        for name, size in (("position_table", table), ("time_table", TIME_BUCKETS)):
            leaves[name] = 0.1 * draw(size)
    return leaves


def results(attention: Attention, leaves: dict[str, Tensor], d_out_QHD: Tensor) -> dict[str, Tensor]:
    """The output and the gradient of every leaf."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    out = output(attention, leaves)
    gradients = torch.autograd.grad(out, list(leaves.values()), d_out_QHD, materialize_grads=True)
    return {"output": out.detach(), **{f"d_{name}": d for name, d in zip(leaves, gradients, strict=True)}}


def output(attention: Attention, leaves: dict[str, Tensor]) -> Tensor:
    """(Q, H, D)"""
    learned = LearnedBias(leaves["position_table"], leaves["time_table"]) if "position_table" in leaves else None
    own = leaves.get("own_k", leaves["k"]), leaves.get("own_v", leaves["v"])
    return attention(leaves["q"], leaves["k"], leaves["v"], *own, learned)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    if not expected.numel():
        return 0.0
    found, expected = found.cpu().double(), expected.double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def moved(tokens: Tokens, device: torch.device) -> Tokens:
    """The same on the device."""
    return Tokens(tokens.offsets.to(device), tokens.position.to(device), tokens.time.to(device))


def moved_queries(queries: Queries, device: torch.device) -> Queries:
    """The same on the device."""
    prefix, next_time = queries.prefix.to(device), queries.next_time.to(device)
    return Queries(moved(queries.tokens, device), prefix, next_time, queries.sees_itself, queries.causal)
