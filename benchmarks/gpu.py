"""GenRank on a GPU: are the attention backends right, how fast are they, how fast is a training step.

    python benchmarks/gpu.py [--json] [--only correctness,attention,training] [--lengths 480,1024,4096]
    python benchmarks/gpu.py --device cpu --tiny     the whole script in Triton's interpreter, for a trial without a GPU

Needs torch, triton, numpy, pyarrow, safetensors and rich, and genrank's source beside it. All data are random.

A user has so many positions, of which the last 15 % are candidates that see all of the history. Attention counts
4 · channels operations for a query that sees a key, forward, and as much again twice, backward; it is compared with
PyTorch's fused causal attention over the same positions by the rate of those operations. Backends are built before the
clock starts, as layers share them; contenders take turns, and medians are given. Model operations are those of the
matrix products that PyTorch counts and of the attention as above; utilisation is against the matrix rate measured
here.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from genrank.batch import Candidates, History, LongHistory, PackedBatch, Places
from genrank.models.sequence_ranker import SequenceRanker, SequenceRankerConfig
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
from genrank.nn.experts import MultiTaskConfig
from genrank.nn.flex_attention import FlexAttention
from genrank.nn.triton_attention import TritonAttention
from genrank.recipes import as_hstu, genrank_paper
from genrank.schema import DataSpec, FeatureSpec, TaskSpec
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters

START = 1_700_000_000
PARTS = ("correctness", "attention", "training")
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2}  # of the largest value of the tensor; ours
BACKENDS: dict[str, type[Attention]] = {"triton": TritonAttention, "flex": FlexAttention}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is run."""

    lengths: tuple[int, ...] = (480, 1024, 4096)
    num_positions: int = 32_768  # of a batch
    candidate_share: float = 0.15
    num_heads: int = 8
    channels: int = 96
    feedforward: int = 3072
    num_items: int = 1_000_000
    matrix: int = 8192
    repeats: int = 11
    dtype: torch.dtype = torch.bfloat16

    def users(self, length: int) -> int:
        """Of a batch."""
        return max(self.num_positions // length, 1)

    def candidates(self, length: int) -> int:
        """Of a user."""
        return round(length * self.candidate_share)


TINY = Sizes(
    lengths=(24,),
    num_positions=48,
    num_heads=2,
    channels=16,
    feedforward=32,
    num_items=50,
    matrix=64,
    repeats=1,
    dtype=torch.float32,
)

Row = dict[str, Any]


class Clock:
    """Times functions by turns on one device."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats = device, repeats

    def by_turns(self, contenders: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds of every run, after two that don't count."""
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(-2 if self.device.type == "cuda" else 0, self.repeats):
            for name, run in contenders.items():
                took = self._once(run)
                if turn >= 0:
                    seconds[name].append(took)
        return seconds

    def _once(self, run: Callable[[], Any]) -> float:
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

    def peak_memory(self, run: Callable[[], Any]) -> float | None:
        """MiB above what was allocated before; None where it isn't known."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def matrix_rate(sizes: Sizes, clock: Clock) -> float:
    """Operations a second of a square matrix product."""
    a, b = (torch.randn(sizes.matrix, sizes.matrix, device=clock.device, dtype=sizes.dtype) for _ in range(2))
    seconds = clock.by_turns({"matrix": lambda: a @ b})["matrix"]
    return 2 * sizes.matrix**3 / statistics.median(seconds)


# Attention -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Histories and candidates of equal sequences, as queries."""

    context: Tokens
    history: Queries
    candidates: Queries

    def pairs(self) -> int:
        """Query-key pairs that count."""
        return int((self.history.prefix + 1).sum() + (self.candidates.prefix + 1).sum())


def layout(lengths: list[int], num_candidates: list[int], device: torch.device) -> Layout:
    def offsets(counts: list[int]) -> Tensor:
        return torch.tensor([0, *counts], device=device).cumsum(0)

    position = torch.cat([torch.arange(n, device=device) for n in lengths])
    when = START + position * 600 + position % 7
    context = Tokens(offsets(lengths), position, when)
    history = Queries(context, position, when + 600, causal=True)
    prefix = torch.tensor([n for n, m in zip(lengths, num_candidates, strict=True) for _ in range(m)], device=device)
    asked = START + prefix * 600 + 60
    return Layout(context, history, Queries(Tokens(offsets(num_candidates), prefix, asked), prefix, asked))


@dataclass
class Layer:
    """The attention of one layer: of the history, and of the candidates to it."""

    of_history: Attention
    of_candidates: Attention
    leaves: list[Tensor]  # q, k, v of the history, q, own k, own v of the candidates, and the two tables if learned

    def forward(self) -> Tensor:
        q, k, v, q_candidates, own_k, own_v, *tables = self.leaves
        learned = LearnedBias(*tables) if tables else None
        history = self.of_history(q, k, v, k, v, learned)
        return torch.cat([history, self.of_candidates(q_candidates, k, v, own_k, own_v, learned)])

    def run(self, d_out: Tensor) -> tuple[Tensor, ...]:
        """The output and all gradients."""
        out = self.forward()
        return out, *torch.autograd.grad(out, self.leaves, d_out)


def leaves(where: Layout, sizes: Sizes, *, learned: bool, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    num_history, num_candidates = len(where.history.prefix), len(where.candidates.prefix)
    tensors = [
        torch.randn(n, sizes.num_heads, sizes.channels, generator=random).to(dtype)
        for n in (num_history,) * 3 + (num_candidates,) * 3
    ]
    if learned:
        tensors += [torch.randn(n, generator=random) * 0.02 for n in (2 * max(sizes.lengths), TIME_BUCKETS)]
    return [t.to(where.context.position.device).requires_grad_() for t in tensors]


def layer(backend: type[Attention], where: Layout, scoring: Scoring, tensors: list[Tensor]) -> Layer:
    context = where.context
    return Layer(backend(where.history, context, scoring), backend(where.candidates, context, scoring), tensors)


def check_correctness(sizes: Sizes, clock: Clock) -> list[Row]:
    """Largest errors against the float64 reference, as shares of each tensor's largest value."""
    lengths, counts = ([9, 0, 40], [3, 1, 5]) if sizes.num_positions < 1000 else ([300, 0, 1, 77], [20, 1, 2, 130])
    where, on_cpu = layout(lengths, counts, clock.device), layout(lengths, counts, torch.device("cpu"))
    rows = []
    for weighting, by, learned in (
        ("softmax", "position", False),
        ("softmax", "both", True),
        ("silu", "none", True),
        ("silu", "both", False),
    ):
        scoring = Scoring(alibi(sizes.num_heads, by), weighting, 100.0)
        for dtype in (torch.float32, torch.bfloat16):
            tensors = leaves(where, sizes, learned=learned, dtype=dtype)
            plain = [t.detach().cpu().requires_grad_() for t in tensors]
            reference = layer(ReferenceAttention, on_cpu, scoring, plain)
            d_out = torch.randn(reference.forward().shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            expected = reference.run(d_out)
            for name, backend in BACKENDS.items():
                if name == "flex" and (weighting == "silu" or clock.device.type == "cpu"):
                    continue
                found = layer(backend, where, scoring, tensors).run(d_out.to(clock.device))
                errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
                rows.append(
                    {
                        "case": f"{name}, {weighting}, {by}{', learned' if learned else ''}, {str(dtype)[6:]}",
                        "forward_error": errors[0],
                        "backward_error": max(errors[1:]),
                        "right": max(errors) <= TOLERANCE[dtype],
                    }
                )
    return rows


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().cpu().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def time_attention(sizes: Sizes, clock: Clock) -> list[Row]:
    """Forward and backward of one layer, every contender at every length."""
    rows = []
    for length in sizes.lengths:
        num_users, num_candidates = sizes.users(length), sizes.candidates(length)
        where = layout([length - num_candidates] * num_users, [num_candidates] * num_users, clock.device)
        runs, operations = contenders(where, sizes, length=length)
        seconds = clock.by_turns(runs)
        memory = {name: clock.peak_memory(run) for name, run in runs.items()}
        rates = {name: operations[name] / statistics.median(seconds[name]) for name in runs}
        rows += [
            {
                "case": f"{name}, {length}",
                "milliseconds": 1000 * statistics.median(seconds[name]),
                "slowest": 1000 * max(seconds[name]),
                "tflops": rates[name] / 1e12,
                "over_sdpa": rates[name] / rates["sdpa, causal"],
                "mebibytes": memory[name],
            }
            for name in runs
        ]
    return rows


def contenders(where: Layout, sizes: Sizes, *, length: int) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """What is timed, and the operations of each."""
    per_pair = 3 * 4 * sizes.num_heads * sizes.channels
    given = Scoring(alibi(sizes.num_heads, "position"))
    hstus = Scoring(alibi(sizes.num_heads, "none"), "silu", 2.0 * length)
    layers = {
        "triton, ALiBi": layer(TritonAttention, where, given, leaves(where, sizes, learned=False, dtype=sizes.dtype)),
        "triton, HSTU": layer(TritonAttention, where, hstus, leaves(where, sizes, learned=True, dtype=sizes.dtype)),
    }
    device = where.context.position.device
    if device.type == "cuda":
        tensors = leaves(where, sizes, learned=False, dtype=sizes.dtype)
        layers["flex, ALiBi"] = layer(FlexAttention, where, given, tensors)
    d_out = torch.randn(layers["triton, ALiBi"].forward().shape, device=device).to(sizes.dtype)
    runs: dict[str, Callable[[], Any]] = {name: partial(contender.run, d_out) for name, contender in layers.items()}
    operations = dict.fromkeys(runs, float(per_pair * where.pairs()))

    num_users = len(where.context.offsets) - 1
    shape = (num_users, sizes.num_heads, length, sizes.channels)
    q, k, v = (torch.randn(shape, device=device, dtype=sizes.dtype, requires_grad=True) for _ in range(3))
    d_dense = torch.randn(shape, device=device, dtype=sizes.dtype)
    runs["sdpa, causal"] = lambda: torch.autograd.grad(
        F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), d_dense
    )
    operations["sdpa, causal"] = float(per_pair * num_users * length * (length + 1) // 2)
    return runs, operations


# Training ------------------------------------------------------------------------------------------------------------


def spec(sizes: Sizes) -> DataSpec:
    return DataSpec(
        features=(
            FeatureSpec(name="item_id", owner="item", kind="categorical", size=sizes.num_items),
            FeatureSpec(name="author", owner="item", kind="categorical", size=max(sizes.num_items // 10, 2)),
            FeatureSpec(name="segment", owner="user", kind="categorical", size=100),
            FeatureSpec(name="tab", owner="exposure", kind="categorical", size=8),
        ),
        tasks=(TaskSpec(name="click", kind="binary"), TaskSpec(name="like", kind="binary")),
    )


def batch(sizes: Sizes, *, length: int, seed: int) -> PackedBatch:
    """Users of equal length; requests of eight, ten minutes apart, the candidates' behind the history."""
    random = torch.Generator().manual_seed(seed)
    num_users, num_candidates = sizes.users(length), sizes.candidates(length)
    num_history = length - num_candidates
    slot = torch.arange(num_history).repeat(num_users)
    request = slot // 8
    when = START + 600 * request
    asked = Places(8 * request, when, request, torch.where(request == 0, -1, 600))
    num_items = max(num_users * length // 2, 2)

    def draw(high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=random)

    total = num_users * num_candidates
    ones = torch.ones(total, dtype=torch.int64)
    last = num_history // 8 + 1
    names = [task.name for task in spec(sizes).tasks]
    history = History(
        offsets=num_history * torch.arange(num_users + 1),
        item=draw(num_items, len(slot)),
        time=when,
        position=slot,
        next_time=when + torch.where(slot % 8 == 7, 600, 0),
        asked=asked,
        actions={name: draw(3, len(slot)) for name in names},
        features={"tab": draw(8, len(slot))},
        slot=torch.full_like(slot, -1),
    )
    candidates = Candidates(
        offsets=num_candidates * torch.arange(num_users + 1),
        item=draw(num_items, total),
        time=START + 600 * last * ones,
        prefix=num_history * ones,
        request=last * ones,
        gap=600 * ones,
        features={"tab": draw(8, total)},
        slot=-ones,
        statistics=torch.zeros(total, 0),
        exposure=torch.arange(total),
        in_history=-ones,
        labels={name: draw(2, total).float() for name in names},
        censored={},
        num_copies=total,
    )
    nothing = torch.zeros(0, dtype=torch.int64)
    return PackedBatch(
        history=history,
        candidates=candidates,
        long=LongHistory(torch.zeros(1, dtype=torch.int64), nothing, nothing, dict.fromkeys(names, nothing)),
        items={"item_id": draw(sizes.num_items, num_items), "author": draw(sizes.num_items // 10, num_items)},
        users={"segment": draw(100, num_users)},
    )


def models(sizes: Sizes) -> dict[str, SequenceRankerConfig]:
    """Organization × encoding over the transformer's block, and HSTU with its own."""
    paper = genrank_paper().model
    assert isinstance(paper, SequenceRankerConfig)
    if sizes.num_positions < 1000:
        paper = replace(paper, embedding_dim=8, heads=MultiTaskConfig(tower=8), num_blocks=2)
    base = replace(
        paper,
        width=sizes.num_heads * sizes.channels,
        num_heads=sizes.num_heads,
        feedforward=sizes.feedforward,
        attention="triton",
    )
    return {
        "genrank (action, genrank)": base,
        "interleaved, genrank": replace(base, organization="interleaved"),
        "action, hstu": replace(base, encoding="hstu"),
        "interleaved, hstu": replace(base, organization="interleaved", encoding="hstu"),
        "hstu with its own block": as_hstu(base),
    }


class Step:
    """One model with its optimizers; `run` is the trainer's step."""

    def __init__(self, config: SequenceRankerConfig, sizes: Sizes, *, max_history: int, device: torch.device):
        torch.manual_seed(0)
        self.config, self.device = config, device
        self.model = SequenceRanker(config, spec(sizes), max_history=max_history).to(device).train()
        self.dense, sparse = split_parameters(self.model)
        self.optimizers = (
            dense_optimizer(self.dense, lr=1e-3, weight_decay=0.01),
            RowWiseAdagrad(sparse, lr=0.05),
        )

    def run(self, packed: PackedBatch) -> None:
        with self._precision():
            logits = {name: value.float() for name, value in self.model(packed).items()}
        losses, labels = self.model.loss(logits, packed), packed.candidates.labels
        loss = torch.stack([x.sum() / (~labels[n].isnan()).sum().clamp_min(1) for n, x in losses.items()]).sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.dense, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def operations(self, packed: PackedBatch) -> float:
        """Of one step: what PyTorch counts, and the attention, which it doesn't see."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(packed)
        return counter.get_total_flops() + 3 * 4 * self.config.width * self._pairs(packed)

    def _pairs(self, packed: PackedBatch) -> int:
        per_event = 2 if self.config.organization == "interleaved" else 1
        history, candidates, num_blocks = packed.history, packed.candidates, self.config.num_blocks
        if per_event == 2:  # items see what their request saw and themselves, actions all up to themselves
            of_history = int((2 * history.asked.prefix + 1).sum() + (2 * history.position + 2).sum())
        else:
            of_history = int((history.position + 1).sum())
        of_candidates = int((per_event * candidates.prefix + 1).sum())
        return (num_blocks - 1) * of_history + num_blocks * of_candidates  # the last block has no history queries

    def tokens(self, packed: PackedBatch) -> int:
        per_event = 2 if self.config.organization == "interleaved" else 1
        return per_event * len(packed.history.item) + len(packed.candidates.item)


def time_training(sizes: Sizes, clock: Clock, rate: float) -> list[Row]:
    """Whole steps of every model at every length."""
    rows = []
    for length in sizes.lengths:
        packed = batch(sizes, length=length, seed=0).to(clock.device)
        max_history = length - sizes.candidates(length)
        steps = {
            name: Step(config, sizes, max_history=max_history, device=clock.device)
            for name, config in models(sizes).items()
        }
        operations = {name: step.operations(packed) for name, step in steps.items()}
        runs = {name: partial(step.run, packed) for name, step in steps.items()}
        seconds = clock.by_turns(runs)
        memory = {name: clock.peak_memory(run) for name, run in runs.items()}
        slowest = statistics.median(seconds["hstu with its own block"])
        for name, step in steps.items():
            took = statistics.median(seconds[name])
            rows.append(
                {
                    "case": f"{name}, {length}",
                    "milliseconds": 1000 * took,
                    "slowest": 1000 * max(seconds[name]),
                    "exposures_per_second": len(packed.candidates.item) / took,
                    "positions_per_second": sizes.users(length) * length / took,
                    "tokens_per_second": step.tokens(packed) / took,
                    "utilisation": operations[name] / took / rate,
                    "over_hstu": slowest / took,
                    "mebibytes": memory[name],
                }
            )
    return rows


# Report --------------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> Row:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, Triton's interpreter"
    return {"device": name, "torch": torch.__version__, "triton": version("triton")}


def tables(report: Row) -> Iterator[Table]:
    described = ", ".join(str(value) for value in report["machine"].values())
    rate = report["matrix_tflops"]
    for part in PARTS:
        if not report.get(part):
            continue
        table = Table(title=f"{part} · {described} · matrix rate {rate:.3g} TFLOP/s")
        for column in report[part][0]:
            table.add_column(column.replace("_", " "), justify="left" if column == "case" else "right")
        for row in report[part]:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        yield table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="miniature sizes, for a trial")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas")
    parser.add_argument("--lengths", help="positions of a user, by commas")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; try the script with --device cpu --tiny", file=sys.stderr)
        return 2
    if device.type == "cpu" and not arguments.tiny:
        print("on the CPU only miniature sizes are run: add --tiny", file=sys.stderr)
        return 2
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    sizes = TINY if arguments.tiny else Sizes()
    if arguments.lengths:
        sizes = replace(sizes, lengths=tuple(int(n) for n in arguments.lengths.split(",")))
    clock = Clock(device, arguments.repeats or sizes.repeats)

    rate, chosen = matrix_rate(sizes, clock), arguments.only.split(",")
    report: Row = {"machine": machine(device), "matrix_tflops": rate / 1e12}
    if "correctness" in chosen:
        report["correctness"] = check_correctness(sizes, clock)
    if "attention" in chosen:
        report["attention"] = time_attention(sizes, clock)
    if "training" in chosen:
        report["training"] = time_training(sizes, clock, rate)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        for table in tables(report):
            Console().print(table)
    return 0 if all(row["right"] for row in report.get("correctness", [])) else 1


if __name__ == "__main__":
    sys.exit(main())
