"""The search of step `attention`: which tile makes each Triton kernel fastest on this card?

First tiles are compiled and checked against float64, side by side in processes of their own. Then, when no other
process uses the card, each is timed by turns with the reasoned tile, over batches of the paper's length and of a long
one. What is fastest so far is written to OUT/tiles/<card>.json after every improvement: the file that genrank/nn/tiles/
takes.
"""

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from genrank.nn import triton_tiles
from genrank.nn.attention import Scoring, alibi
from genrank.nn.triton_attention import TritonAttention
from gpu_steps import check
from gpu_steps.machine import Clock, Sizes, card_name
from gpu_steps.report import Report
from gpu_steps.workers import spread

KERNELS: tuple[triton_tiles.Kernel, ...] = (
    "forward",
    "key_gradient",
    "query_gradient",
    "table_gradient",
)  # by how much a step gains from them
CHECKING = 0.6  # of the search's time: compiling and checking; the rest is timing
PRETENDED = 227 * 1024  # bytes of shared memory in the interpreter: an H100's


@dataclass(frozen=True)
class Trial:
    """A tile of one kernel, and what it has to compute rightly."""

    kernel: triton_tiles.Kernel
    tile: triton_tiles.Tile
    case: check.Case
    card: tuple[torch.dtype, int, int]  # what the reasoned tiles depend on

    @property
    def reasoned(self) -> triton_tiles.Tiles:
        """Those for every kernel."""
        return triton_tiles.fallback(*self.card, learned=self.case.learned)

    @property
    def tiles(self) -> triton_tiles.Tiles:
        """The reasoned ones, with this tile among them."""
        return replace(self.reasoned, **{self.kernel: self.tile})

    def columns(self) -> dict[str, Any]:
        """What a row says of it."""
        return {"kernel": self.kernel, "channels": self.case.channels, "tile": written(self.tile)}

    def __str__(self) -> str:
        return f"{self.kernel}, {self.case.channels} channels, {written(self.tile)}"


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int, until: float) -> None:
    """A row per tile, when it was checked and when it was timed; both are over when `until` seconds are left."""
    trials = [
        t for channels in sizes.search_channels for kernel in KERNELS for t in _trials(sizes, clock, kernel, channels)
    ]
    timing_begins = until + (report.left - until) * (1 - CHECKING)
    right = _checked(report, trials, workers, seconds=lambda: report.left - timing_begins)
    found: dict[tuple[str, int], triton_tiles.MeasuredTile] = {}
    for (kernel, channels), group in itertools.groupby(right, key=lambda trial: (trial.kernel, trial.case.channels)):
        run_kernel = None
        for trial in group:
            if report.left <= until:
                report.skip(str(trial))
                continue
            with report.case(str(trial)):
                run_kernel = run_kernel or _kernel(trial.case.sizes, clock.device, kernel)
                tile, reasoned = _compare(clock, run_kernel, trial)
                report.row(case="tile", **trial.columns(), milliseconds=1000 * tile, over_reasoned=reasoned / tile)
                best = found.get((kernel, channels))
                if best is None or reasoned / tile > best.fallback_milliseconds / best.milliseconds:
                    found[kernel, channels] = _measured(trial, tile, reasoned)
                    _write(report, sizes, clock, list(found.values()))


def _checked(report: Report, trials: list[Trial], workers: int, *, seconds: Callable[[], float]) -> list[Trial]:
    """The trials whose tile compiles and gives right results, in their order."""
    left, right = list(trials), []
    for outcome in spread(try_tile, trials, workers=workers, seconds=seconds):
        trial = outcome.case
        left.remove(trial)
        why = outcome.error[-1] if outcome.error else _wrong(outcome.value)
        report.row(case="tile checked", **trial.columns(), fits=not why, why=why)  # most often memory is too small
        if not why:
            right.append(trial)
        elif trial.tile == getattr(trial.reasoned, trial.kernel):
            report.error(str(trial), outcome.error or [why])
    for trial in left:
        report.skip(str(trial))
    return [trial for trial in trials if trial in right]


def _wrong(rows: list[dict[str, Any]]) -> str:
    """By how much a tile's results are off; empty where they are right."""
    worst = max(error for row in rows for error in row["errors"].values())
    return "" if all(row["right"] for row in rows) else f"off by {worst:.2g}"


def _trials(sizes: Sizes, clock: Clock, kernel: triton_tiles.Kernel, channels: int) -> list[Trial]:
    """The reasoned tile, then others in order of promise. Heads of other sizes are as many as make the same width."""
    sized = replace(sizes, num_heads=max(sizes.num_heads * sizes.channels // channels, 1), channels=channels)
    card = sizes.dtype, channels, shared_memory(clock.device)
    case = check.Case(
        backend="triton",
        dtype=sizes.dtype,
        channels=channels,
        weighting="silu" if kernel == "table_gradient" else "softmax",
        by="none" if kernel == "table_gradient" else "position",
        learned=kernel == "table_gradient",
        deterministic=False,
        device=str(clock.device),
        sizes=sized,
    )
    tiles = triton_tiles.candidates(kernel, *card, learned=case.learned, at_most=sizes.search_at_most)
    return [Trial(kernel, tile, case, card) for tile in tiles]


def try_tile(trial: Trial) -> list[dict[str, Any]]:
    """Compiles it, and compares what comes out with float64."""
    with triton_tiles.using(trial.tiles):
        return check.check(trial.case)


def _compare(clock: Clock, run_kernel: Callable[[], object], trial: Trial) -> tuple[float, float]:
    """Seconds with the trial's tile and with the reasoned one."""

    def with_tiles(tiles: triton_tiles.Tiles) -> Callable[[], object]:
        def run_with() -> object:
            with triton_tiles.using(tiles):
                return run_kernel()

        return run_with

    work = {"tile": with_tiles(trial.tiles), "reasoned": with_tiles(trial.reasoned)}
    taken = clock.by_turns(work, seconds=3)
    return statistics.median(taken["tile"]), statistics.median(taken["reasoned"])


def _kernel(sizes: Sizes, device: torch.device, kernel: triton_tiles.Kernel) -> Callable[[], object]:
    """One kernel alone, over the history and the candidates of a batch of every length."""
    from gpu_steps.attention import layer_of

    hstu = kernel == "table_gradient"
    scoring = Scoring(alibi(sizes.num_heads, "none" if hstu else "position"), "silu" if hstu else "softmax", 1000.0)
    calls = []
    for length in sizes.search_lengths:
        for queries, context in layer_of(sizes, device, length):
            attention = Recorded(queries, context, scoring)
            leaves = check.random_leaves(
                queries, context, sizes.num_heads, sizes.channels, dtype=sizes.dtype, table=2 * length if hstu else 0
            )
            check.results(attention, leaves, torch.randn_like(leaves["q"]))
            calls.append(attention.calls[kernel])
    return lambda: [call() for call in calls]


class Recorded(TritonAttention):
    """Keeps the calls of its kernels, so that each can be made alone."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.calls: dict[str, Callable[[], object]] = {}

    def forward(self, *arguments: Any, **flags: Any) -> Any:
        """See TritonAttention."""
        self.calls["forward"] = lambda: TritonAttention.forward(self, *arguments, **flags)
        return super().forward(*arguments, **flags)

    def query_gradient(self, *arguments: Any, **flags: Any) -> Any:
        """See TritonAttention."""
        self.calls["query_gradient"] = lambda: TritonAttention.query_gradient(self, *arguments, **flags)
        return super().query_gradient(*arguments, **flags)

    def key_gradient(self, *arguments: Any, **flags: Any) -> Any:
        """See TritonAttention."""
        self.calls["key_gradient"] = lambda: TritonAttention.key_gradient(self, *arguments, **flags)
        return super().key_gradient(*arguments, **flags)

    def table_gradient(self, *arguments: Any, **flags: Any) -> Any:
        """See TritonAttention."""
        self.calls["table_gradient"] = lambda: TritonAttention.table_gradient(self, *arguments, **flags)
        return super().table_gradient(*arguments, **flags)


def shared_memory(device: torch.device) -> int:
    """Bytes that one program can have."""
    if device.type == "cpu":
        return PRETENDED
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _measured(trial: Trial, seconds: float, reasoned: float) -> triton_tiles.MeasuredTile:
    return triton_tiles.MeasuredTile(
        kernel=trial.kernel,
        size=triton_tiles.number_size(trial.case.dtype),
        channels=triton_tiles.channel_class(trial.case.channels),
        tile=trial.tile,
        milliseconds=1000 * seconds,
        fallback_milliseconds=1000 * reasoned,
    )


def _write(report: Report, sizes: Sizes, clock: Clock, found: list[triton_tiles.MeasuredTile]) -> None:
    card, machine = card_name(clock.device), report.content["machine"]
    path = triton_tiles.card_path(card, report.path.parent / "tiles")
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = " and ".join(map(str, sizes.search_lengths))
    triton_tiles.write(
        path,
        triton_tiles.CardTiles(
            card=card,
            shared_memory=shared_memory(clock.device),
            driver=machine["driver"] or "unknown",
            torch_version=machine["torch"],
            triton_version=machine["triton"],
            date=datetime.now(UTC).date().isoformat(),
            setting=f"a batch of {sizes.num_positions} positions at each of {lengths} positions a user, "
            f"{sizes.num_heads * sizes.channels} channels, history and candidates, softmax with ALiBi by position; "
            "table_gradient: SiLU with the learned bias",
            measured=tuple(found),
        ),
    )


def written(tile: triton_tiles.Tile) -> str:
    """128 × 64, 8 warps, 3 stages."""
    return f"{tile.queries} × {tile.keys}, {tile.num_warps} warps, {tile.num_stages} stages"
