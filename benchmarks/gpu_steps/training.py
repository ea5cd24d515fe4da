"""Step `training`: how fast are whole training steps of GenRank and HSTU, and what holds them up?

The models are organization × encoding over the transformer's block (with equal blocks, the paper's comparison), and
HSTU with its own block. All take the trainer's steps on the same batches, by turns. MFU counts the operations of the
model's mathematics (genrank/models/flops.py), against the matrix rate measured here and against the card's data sheet.
"""

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import extract_stack
from typing import Any

import torch

from genrank.bench.steps import Steps, num_exposures
from genrank.bench.worlds import batches_of, regime
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.nn.experts import MultiTaskConfig
from genrank.recipes import as_hstu
from gpu_steps.machine import ROOT, Clock, Sizes, card_name, published_peak
from gpu_steps.report import Report, write_whole
from gpu_steps.workers import spread

GENRANK, HSTU, OWN_BLOCK = "action, genrank", "interleaved, hstu", "hstu with its own block"
WARMING = 0.35  # of the budget at most, for compiling
NUM_KERNELS = 15  # of the profile


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """Rows of every model at every length, then host waits and kernels of GenRank's and HSTU's steps."""
    if workers:  # else there is nothing to compile
        until = report.left - WARMING * report.seconds
        cases = [Warming(name, sizes) for name in models(sizes)]
        for outcome in spread(warm, cases, workers=workers, seconds=lambda: report.left - until):
            if outcome.error:
                report.error(f"first step of {outcome.case.name}", outcome.error)
    rate = clock.matrix_rate(sizes.matrix, sizes.dtype)
    report.fact("matrix_tflops", rate / 1e12)
    peak = published_peak(card_name(clock.device))
    report.fact("published_tflops", None if peak is None else peak / 1e12)
    for index, length in enumerate(report.cases(sizes.lengths)):
        with report.case(f"steps at {length}"):
            steps = _steps(sizes, length)
            _time(report, sizes, clock, steps, length, rate, peak)
            if index == 0:
                _explain(report, clock, steps)
            del steps


def models(sizes: Sizes) -> dict[str, SequenceRankerConfig]:
    """The paper's sizes in the paper's 2 × 2, and HSTU."""
    base = SequenceRankerConfig(
        width=sizes.num_heads * sizes.channels,
        num_blocks=sizes.num_blocks,
        num_heads=sizes.num_heads,
        feedforward=sizes.feedforward,
        embedding_dim=sizes.embedding_dim,
        heads=MultiTaskConfig(tower=2 * sizes.embedding_dim),
        attention="triton",
    )
    return {
        GENRANK: base,
        "interleaved, genrank": replace(base, organization="interleaved"),
        "action, hstu": replace(base, encoding="hstu"),
        HSTU: replace(base, organization="interleaved", encoding="hstu"),
        OWN_BLOCK: as_hstu(base),
    }


def _steps(sizes: Sizes, length: int, *, num_users: int | None = None) -> dict[str, Steps]:
    """Every model in training, on one batch."""
    _, loader = regime(
        length, sequences=num_users or sizes.users(length), num_batches=1, num_items=sizes.num_items, seed=0
    )
    loader.pin = torch.cuda.is_available()
    batches = batches_of(loader)
    return {name: Steps(config, loader, batches) for name, config in models(sizes).items()}


@dataclass(frozen=True)
class Warming:
    """A model whose kernels are to be compiled."""

    name: str
    sizes: Sizes


def warm(case: Warming) -> None:
    """One step on a small batch, whose kernels are those of the large ones."""
    small = replace(case.sizes, num_items=1000)
    _, loader = regime(case.sizes.lengths[0], sequences=2, num_batches=1, num_items=small.num_items, seed=0)
    loader.pin = torch.cuda.is_available()
    Steps(models(small)[case.name], loader, batches_of(loader))()


def _time(
    report: Report, sizes: Sizes, clock: Clock, steps: dict[str, Steps], length: int, rate: float, peak: float | None
) -> None:
    taken = clock.by_turns(steps, seconds=max(report.left / 3, 1.0))
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    for name, step in steps.items():
        with step.trainer.autocast():  # else kernels for fp32 would be compiled to count with
            flops = step.flops() / seconds[name]
        report.row(
            case=name,
            length=length,
            milliseconds=1000 * seconds[name],
            slowest=1000 * max(taken[name]),
            exposures_per_second=num_exposures(step.batches) / seconds[name],
            positions_per_second=sizes.users(length) * length / seconds[name],
            tokens_per_second=step.tokens() / seconds[name],
            mfu_measured=flops / rate,
            mfu_published=None if peak is None else flops / peak,
            over_hstu=seconds[HSTU] / seconds[name],
            over_own_block=seconds[OWN_BLOCK] / seconds[name],
            mebibytes=clock.peak_memory(step),
        )


def _explain(report: Report, clock: Clock, steps: dict[str, Steps]) -> None:
    """Where the host waits, and which kernels take the time."""
    for short, name in (("genrank", GENRANK), ("hstu", OWN_BLOCK)):
        with report.case(f"host waits, {name}"):
            with host_waits(clock.device) as found:
                steps[name]()
            report.fact(f"host waits in a step of {short}", dict(found))
        with report.case(f"profile, {name}"):
            table = kernels(steps[name], clock.device)
            report.fact(f"kernels of {short}", table)
            lines = [f"the {NUM_KERNELS} most expensive kernels of a training step: {name}"]
            lines += [
                f"{row['milliseconds']:10.3f} ms {row['share']:6.1%} {row['calls']:6d} × {row['name']}" for row in table
            ]
            write_whole(report.path.with_name(f"kernels-{short}.txt"), "\n".join(lines))


@contextmanager
def host_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Lines of genrank at which the host waits for the card: what CUDA itself warns of. None are found on a CPU."""
    found: Counter[str] = Counter()

    def note(message: Any, category: Any, *arguments: Any, **named: Any) -> None:
        del category, arguments, named
        if "synchroniz" in str(message):
            found[innermost_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def innermost_line() -> str:
    """The line of genrank that is being run; where autograd calls, that of `backward`."""
    source = ROOT / "src"
    for frame in reversed(extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(source):
            return f"{path.relative_to(source)}:{frame.lineno}: {frame.line}"
    return "no line of genrank"


def kernels(run_step: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """The most expensive kernels of a step (on a CPU: operators), by their own time."""
    activity = torch.profiler.ProfilerActivity
    cuda = device.type == "cuda"
    with torch.profiler.profile(activities=[activity.CUDA] if cuda else [activity.CPU]) as profile:
        run_step()
        if cuda:
            torch.cuda.synchronize()
    microseconds = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count)
        for event in profile.key_averages()
    }
    total = sum(took for took, _ in microseconds.values()) or 1.0
    first = sorted(microseconds.items(), key=lambda item: -item[1][0])[:NUM_KERNELS]
    return [
        {"name": name, "milliseconds": took / 1000, "share": took / total, "calls": count}
        for name, (took, count) in first
    ]
