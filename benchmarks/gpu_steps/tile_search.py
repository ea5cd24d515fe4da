"""The search of step `attention`: which tile makes each Triton kernel fastest on this card?

Tiles are compiled and checked against float64 side by side in processes of their own, then timed here alone, each by
turns with the reasoned tile, over batches of the paper's length and of a long one. What is fastest so far is written
to OUT/tiles/<card>.json after every improvement: the file that genrank/nn/tiles/ takes.
"""

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

KERNELS = ("forward", "key_gradient", "query_gradient", "table_gradient")  # by how much a step gains from them
PRETENDED = 227 * 1024  # bytes of shared memory in the interpreter: an H100's


@dataclass(frozen=True)
class Trial:
    """A tile of one kernel, and what it has to compute rightly."""

    kernel: triton_tiles.Kernel
    tile: triton_tiles.Tile
    tiles: triton_tiles.Tiles  # the reasoned ones, with this tile among them
    case: check.Case

    def __str__(self) -> str:
        return f"{self.kernel}, {self.case.channels} channels, {written(self.tile)}"


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """A row per tile. Kernels share the time that is left of the step's budget, the first one's leftover goes on."""
    found: list[triton_tiles.MeasuredTile] = []
    searches = [(channels, kernel) for channels in sizes.search_channels for kernel in KERNELS]
    for index, (channels, kernel) in enumerate(searches):
        name = f"search, {kernel}, {channels} channels"
        share = report.left / max(min(len(searches), len(KERNELS) * (index // len(KERNELS) + 1)) - index, 1)
        if report.left <= 0:
            report.skip(name)
            continue
        with report.case(name):
            _search(report, sizes, clock, kernel, channels, found, workers=workers, until=report.left - share)


def _search(
    report: Report,
    sizes: Sizes,
    clock: Clock,
    kernel: triton_tiles.Kernel,
    channels: int,
    found: list[triton_tiles.MeasuredTile],
    *,
    workers: int,
    until: float,
) -> None:
    """One kernel; no tile is begun when only `until` seconds of the budget are left."""
    sized = replace(sizes, num_heads=max(sizes.num_heads * sizes.channels // channels, 1), channels=channels)
    trials = _trials(sized, clock.device, kernel)
    reasoned, best = trials[0], None
    run_kernel = _kernel(sized, clock.device, kernel)
    left = list(trials)
    for outcome in spread(try_tile, trials, workers=workers, seconds=lambda: report.left - until):
        trial = outcome.case
        left.remove(trial)
        row: dict[str, Any] = {"case": "tile", "kernel": kernel, "channels": channels, "tile": written(trial.tile)}
        why = outcome.error[-1] if outcome.error else _wrong(outcome.value)
        if why and trial is reasoned:
            report.error(str(trial), outcome.error or [why])
        if why:  # most often a tile that doesn't fit after all
            report.row(**row, milliseconds=None, over_reasoned=None, why=why)
            continue
        took = _compare(clock, run_kernel, trial.tiles, reasoned.tiles)
        report.row(**row, milliseconds=1000 * took[0], over_reasoned=took[1] / took[0], why="")
        if best is None or took[1] / took[0] > best:
            best = took[1] / took[0]
            measured = _measured(sized, kernel, trial.tile, *took)
            found[:] = [one for one in found if (one.kernel, one.channels) != (kernel, measured.channels)]
            found.append(measured)
            _write(report, sizes, clock, found)
    for trial in left:
        report.skip(str(trial))


def _wrong(rows: list[dict[str, Any]]) -> str:
    """By how much a tile's results are off; empty where they are right."""
    worst = max(error for row in rows for error in row["errors"].values())
    return "" if all(row["right"] for row in rows) else f"off by {worst:.2g}"


def _trials(sizes: Sizes, device: torch.device, kernel: triton_tiles.Kernel) -> list[Trial]:
    """The reasoned tile, then others in order of promise."""
    shared = PRETENDED if device.type == "cpu" else shared_memory(device)
    reasoned = triton_tiles.fallback(sizes.dtype, sizes.channels, shared)
    case = check.Case(
        backend="triton",
        dtype=sizes.dtype,
        channels=sizes.channels,
        weighting="silu" if kernel == "table_gradient" else "softmax",
        by="none" if kernel == "table_gradient" else "position",
        learned=kernel == "table_gradient",
        deterministic=False,
        device=str(device),
        sizes=sizes,
    )
    tiles = triton_tiles.candidates(kernel, sizes.dtype, sizes.channels, shared, at_most=sizes.search_at_most)
    return [Trial(kernel, tile, replace(reasoned, **{kernel: tile}), case) for tile in tiles]


def try_tile(trial: Trial) -> list[dict[str, Any]]:
    """Compiles it, and compares what comes out with float64."""
    with triton_tiles.using(trial.tiles):
        return check.check(trial.case)


def _compare(
    clock: Clock, run_kernel: Callable[[], object], tiles: triton_tiles.Tiles, reasoned: triton_tiles.Tiles
) -> tuple[float, float]:
    """Seconds with the tiles and with the reasoned ones."""

    def with_tiles(these: triton_tiles.Tiles) -> Callable[[], object]:
        def run_with() -> object:
            with triton_tiles.using(these):
                return run_kernel()

        return run_with

    taken = clock.by_turns({"tile": with_tiles(tiles), "reasoned": with_tiles(reasoned)}, seconds=3)
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
            drawn = check.random_leaves(
                queries, context, sizes.num_heads, sizes.channels, learned=hstu, dtype=sizes.dtype
            )
            leaves = {name: leaf.to(device) for name, leaf in drawn.items()}
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
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _measured(
    sizes: Sizes, kernel: triton_tiles.Kernel, tile: triton_tiles.Tile, seconds: float, reasoned: float
) -> triton_tiles.MeasuredTile:
    return triton_tiles.MeasuredTile(
        kernel=kernel,
        size=triton_tiles.number_size(sizes.dtype),
        channels=triton_tiles.channel_class(sizes.channels),
        tile=tile,
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
            shared_memory=PRETENDED if clock.device.type == "cpu" else shared_memory(clock.device),
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
