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
from functools import partial
from typing import Any

import torch

from genrank.nn import triton_tiles
from genrank.nn.attention import Scoring, alibi
from genrank.nn.triton_attention import TritonAttention
from gpu_steps import check
from gpu_steps.machine import Clock, Sizes, card_name
from gpu_steps.report import Report
from gpu_steps.workers import spread

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
        case = self.case
        return {"kernel": self.kernel, "channels": case.channels, "learned": case.learned, "tile": written(self.tile)}

    def __str__(self) -> str:
        learned = ", learned bias" if self.case.learned else ""
        return f"{self.kernel}, {self.case.channels} channels{learned}, {written(self.tile)}"


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int, until: float) -> None:
    """A row per tile, when it was checked and when it was timed; both are over when `until` seconds are left."""
    lists = [[_trials(sizes, clock, channels, *one) for one in sizes.searches] for channels in sizes.search_channels]
    timing_begins = until + (report.left - until) * (1 - CHECKING)
    right = _checked(
        report, [trial for one in lists for trial in by_turns(one)], workers, lambda: report.left - timing_begins
    )
    found: list[triton_tiles.MeasuredTile] = []
    for trials in (each for one in lists for each in one):
        _time(report, sizes, clock, [trial for trial in trials if trial in right], found, until=until)


def by_turns(lists: list[list[Trial]]) -> list[Trial]:
    """The first of every list, then the second ones: where time is up, every kernel has had its most promising."""
    return [trial for rank in itertools.zip_longest(*lists) for trial in rank if trial is not None]


def _time(
    report: Report,
    sizes: Sizes,
    clock: Clock,
    trials: list[Trial],
    found: list[triton_tiles.MeasuredTile],
    *,
    until: float,
) -> None:
    """The tiles of one search. The fastest so far, if any, joins what was `found`."""
    before, best, run_kernel = list(found), 0.0, None
    for trial in trials:
        if report.left <= until:
            report.skip(str(trial))
            continue
        with report.case(str(trial)):
            run_kernel = run_kernel or _kernel(trial, clock.device)
            tile, reasoned = _compare(clock, run_kernel, trial)
            report.row(case="tile", **trial.columns(), milliseconds=1000 * tile, over_reasoned=reasoned / tile)
            if reasoned / tile > best:
                best = reasoned / tile
                found[:] = [*before, _measured(trial, tile, reasoned)]
                _write(report, sizes, clock, found)


def _checked(report: Report, trials: list[Trial], workers: int, seconds: Callable[[], float]) -> list[Trial]:
    """The trials whose tile compiles and gives right results."""
    left, right = list(trials), []
    for outcome in spread(try_tile, trials, workers=workers, seconds=seconds):
        trial = outcome.case
        left.remove(trial)
        why = outcome.error[-1] if outcome.error else check.wrong(outcome.value)
        report.row(case="tile checked", **trial.columns(), fits=not why, why=why)  # most often memory is too small
        if not why:
            right.append(trial)
        elif trial.tile == getattr(trial.reasoned, trial.kernel):
            report.error(str(trial), outcome.error or [why])
    for trial in left:
        report.skip(str(trial))
    return right


def _trials(sizes: Sizes, clock: Clock, channels: int, kernel: triton_tiles.Kernel, learned: bool) -> list[Trial]:
    """The reasoned tile, then others in order of promise. Heads of other sizes are as many as make the same width.

    learned: as HSTU has it, with SiLU; else softmax with ALiBi by position.
    """
    card = sizes.dtype, channels, shared_memory(clock.device)
    case = check.Case(
        backend="triton",
        dtype=sizes.dtype,
        channels=channels,
        weighting="silu" if learned else "softmax",
        by="none" if learned else "position",
        learned=learned,
        deterministic=False,
        device=str(clock.device),
        sizes=replace(sizes, num_heads=max(sizes.num_heads * sizes.channels // channels, 1), channels=channels),
    )
    tiles = triton_tiles.candidates(kernel, *card, learned=learned, at_most=sizes.search_at_most)
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


def _kernel(trial: Trial, device: torch.device) -> Callable[[], object]:
    """The trial's kernel alone, over the history and the candidates of a batch of every length."""
    from gpu_steps.attention import layer_of

    case, sizes = trial.case, trial.case.sizes
    scoring = Scoring(alibi(sizes.num_heads, case.by), case.weighting, 1000.0)
    calls = []
    for length in sizes.search_lengths:
        table = 2 * length if case.learned else 0
        for queries, context in layer_of(sizes, device, length):
            attention = Recorded(queries, context, scoring)
            leaves = check.random_leaves(
                queries, context, sizes.num_heads, sizes.channels, dtype=sizes.dtype, table=table
            )
            check.results(attention, leaves, torch.randn_like(leaves["q"]))
            calls.append(attention.calls[trial.kernel])
    return lambda: [call() for call in calls]


class Recorded(TritonAttention):
    """Keeps the calls of its kernels, so that each can be made alone."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.calls: dict[str, Callable[[], Any]] = {}

    def _kept(self, kernel: Callable[..., Any], arguments: tuple[Any, ...], flags: dict[str, Any]) -> Any:
        self.calls[kernel.__name__] = partial(kernel, self, *arguments, **flags)
        return self.calls[kernel.__name__]()

    def forward(self, *arguments: Any, **flags: Any) -> Any:
        """See TritonAttention, as of the others."""
        return self._kept(TritonAttention.forward, arguments, flags)

    def query_gradient(self, *arguments: Any, **flags: Any) -> Any:
        return self._kept(TritonAttention.query_gradient, arguments, flags)

    def key_gradient(self, *arguments: Any, **flags: Any) -> Any:
        return self._kept(TritonAttention.key_gradient, arguments, flags)

    def table_gradient(self, *arguments: Any, **flags: Any) -> Any:
        return self._kept(TritonAttention.table_gradient, arguments, flags)


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
        learned=trial.case.learned,
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
            f"{sizes.num_heads * sizes.channels} channels, history and candidates, softmax with ALiBi by position, "
            "or SiLU where the bias is learned",
            measured=tuple(found),
        ),
    )


def written(tile: triton_tiles.Tile) -> str:
    """128 × 64, 8 warps, 3 stages."""
    return f"{tile.queries} × {tile.keys}, {tile.num_warps} warps, {tile.num_stages} stages"
