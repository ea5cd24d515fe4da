"""The tile that each Triton kernel works on: measured for a card, or else chosen by its shared memory.

A tile is chosen by kernel, by size of numbers (`half`: bf16 and fp16, `single`: fp32), by class of channels, the
smallest of CHANNEL_CLASSES that holds a head's channels after padding, and by whether there is a learned bias, which
takes registers. The first of these that has a tile:

    using(tiles)                     the tiles of a search or a test, while it lasts
    tiles/<card>.json                the tiles that a search measured on a card of this name
    fallback(…)                      ours, from registers and shared memory: see docs/performance.md

A file of this package that can't be read, or whose tiles are illegal, must not stop a training run: the log gets one
warning, and the fallback is used. `read` itself raises.
"""

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from genrank.config import build, to_dict
from genrank.documents import read_json
from genrank.errors import ConfigError
from genrank.finite_json import json_text
from genrank.folders import replace_text

log = logging.getLogger(__name__)

Kernel = Literal["forward", "query_gradient", "key_gradient", "table_gradient"]
NumberSize = Literal["half", "single"]
MAX_CHANNELS = 128
CHANNEL_CLASSES = (32, 64, 96, 128)
FOLDER = Path(__file__).parent / "tiles"


@dataclass(frozen=True)
class Tile:
    """The work of one program: queries by keys, with a number of warps, and of stages that loads are ahead."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for name, least, most in (("queries", 16, 256), ("keys", 16, 256), ("num_warps", 1, 16)):
            value = getattr(self, name)
            if not least <= value <= most or value & (value - 1):
                raise ValueError(f"{name} must be a power of two from {least} to {most}, not {value}")
        if not 1 <= self.num_stages <= 6:
            raise ValueError(f"num_stages must be 1 to 6, not {self.num_stages}")


@dataclass(frozen=True)
class Tiles:
    """One tile per kernel."""

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile
    table_gradient: Tile


KERNELS: tuple[Kernel, ...] = tuple(field.name for field in fields(Tiles))  # type: ignore[misc]

SINGLE = Tiles(*(Tile(32, 32, 8, 1),) * 4)
INTERPRETED = Tiles(Tile(32, 32, 1, 1), Tile(32, 16, 1, 1), Tile(16, 32, 1, 1), Tile(32, 32, 1, 1))
ROOMY_BYTES = 200 * 1024
# Ours, from the compiler's figures (benchmarks/gpu_compile.py), not from a search: registers that don't spill, then two
# programs at once, so that one multiplies while the other exponentiates, or few instructions per score. Keys: whether
# there are 200 KiB of shared memory (H100), learned bias; for heads of up to 64, 96 and 128 channels.
_HALF = {
    (True, False): (
        Tiles(Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
        Tiles(Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(64, 128, 8, 2), Tile(64, 32, 4, 2)),
        Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2), Tile(32, 32, 4, 2)),
    ),
    (True, True): (
        Tiles(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
        Tiles(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 128, 8, 2), Tile(64, 32, 4, 2)),
        Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 128, 8, 2), Tile(32, 32, 4, 2)),
    ),
    (False, False): (
        Tiles(Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2), Tile(32, 32, 4, 1)),
        Tiles(Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2), Tile(32, 32, 4, 1)),
        Tiles(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(32, 64, 4, 2), Tile(32, 32, 4, 2)),
    ),
    (False, True): (
        Tiles(Tile(64, 32, 4, 2), Tile(64, 16, 4, 2), Tile(16, 64, 4, 2), Tile(32, 32, 4, 1)),
        Tiles(Tile(64, 32, 4, 2), Tile(64, 16, 4, 2), Tile(16, 64, 4, 2), Tile(32, 32, 4, 1)),
        Tiles(Tile(64, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)),
    ),
}


def pieces(channels: int) -> tuple[int, int]:
    """Two powers of two that hold the channels, the second one possibly 0; tensor cores want at least 16."""
    first = max(16, 1 << (channels.bit_length() - 1))
    rest = max(channels - first, 0)
    second = max(16, 1 << (rest - 1).bit_length()) if rest else 0
    return (2 * first, 0) if second == first else (first, second)


def number_size(dtype: torch.dtype) -> NumberSize:
    """`half` for numbers of 2 bytes."""
    return "half" if dtype.itemsize == 2 else "single"


def channel_class(channels: int) -> int:
    """The smallest class that holds a head's channels. At most MAX_CHANNELS."""
    return next(size for size in CHANNEL_CLASSES if sum(pieces(channels)) <= size)


REDUCTIONS = {"forward": 8192, "query_gradient": 1024, "key_gradient": 2048, "table_gradient": 1024}  # bytes


def shared_bytes(kernel: Kernel, tile: Tile, size: NumberSize, channels: int, *, learned: bool = False) -> int:
    """Upper bound on the shared memory of one program, in bytes.

    It has the tensors that a program holds and those that it streams, in num_stages copies: two tensors each, but the
    forward kernel holds the queries only. A learned bias takes space too, and so do scores and their gradients in the
    key gradient of 32 bits, which are multiplied without tensor cores. Compiled kernels need at most REDUCTIONS more.
    """
    held, streamed = (tile.keys, tile.queries) if kernel == "key_gradient" else (tile.queries, tile.keys)
    rows = (held if kernel == "forward" else 2 * held) + 2 * streamed * tile.num_stages
    if kernel == "table_gradient":  # it streams over heads, and so everything
        rows = 2 * (held + streamed) * tile.num_stages
    passing = int(learned or kernel == "table_gradient") + 2 * (kernel == "key_gradient" and size == "single")
    numbers = rows * sum(pieces(channels)) + passing * tile.queries * tile.keys
    return numbers * (2 if size == "half" else 4) + REDUCTIONS[kernel]


def registers(kernel: Kernel, tile: Tile, channels: int) -> int:
    """Registers per thread for sums and scores of one tile, out of 255; addresses need some more."""
    width, pairs = sum(pieces(channels)), tile.queries * tile.keys
    numbers = {
        "forward": tile.queries * width + 3 * pairs // 2,
        "query_gradient": tile.queries * width + 2 * pairs,
        "key_gradient": 2 * tile.keys * width + 2 * pairs,
        "table_gradient": 4 * pairs,
    }[kernel]
    return numbers // (32 * tile.num_warps)


def illegal(
    kernel: Kernel, tile: Tile, size: NumberSize, channels: int, shared_memory: int, *, learned: bool = False
) -> str:
    """Why a card with `shared_memory` bytes can't run a tile; empty if it can."""
    need = shared_bytes(kernel, tile, size, channels, learned=learned)
    if need > shared_memory:
        return f"needs up to {need} bytes of shared memory, of which the card has {shared_memory}"
    return ""


def fallback(dtype: torch.dtype, channels: int, shared_memory: int, *, learned: bool = False) -> Tiles:
    """The unmeasured tiles for a card with `shared_memory` bytes per program."""
    if number_size(dtype) == "single":
        return SINGLE
    return _HALF[shared_memory >= ROOMY_BYTES, learned][max(CHANNEL_CLASSES.index(channel_class(channels)) - 1, 0)]


def candidates(
    kernel: Kernel,
    dtype: torch.dtype,
    channels: int,
    shared_memory: int,
    *,
    learned: bool = False,
    at_most: int = 16,
) -> list[Tile]:
    """Legal tiles for a search: the fallback, then the others, fewest factors of two away from it first."""
    first = getattr(fallback(dtype, channels, shared_memory, learned=learned), kernel)
    size = number_size(dtype)

    def steps(tile: Tile) -> tuple[int, int]:
        pairs = zip(
            (tile.queries, tile.keys, tile.num_warps), (first.queries, first.keys, first.num_warps), strict=True
        )
        factors = sum(abs(ours.bit_length() - its.bit_length()) for ours, its in pairs)
        return factors + abs(tile.num_stages - first.num_stages), -tile.queries * tile.keys

    edges = (32, 64, 128) if size == "half" else (16, 32, 64)
    grid = [
        Tile(queries, keys, num_warps, num_stages)
        for queries in edges
        for keys in edges
        for num_warps in (4, 8)
        for num_stages in ((1, 2, 3, 4) if size == "half" else (1, 2))
    ]
    fitting = [
        tile
        for tile in grid
        if not illegal(kernel, tile, size, channels, shared_memory, learned=learned)
        and 16 <= registers(kernel, tile, channels) <= 200
        and tile != first
    ]
    return [first, *sorted(fitting, key=steps)][:at_most]


@dataclass(frozen=True, kw_only=True)
class MeasuredTile:
    """The fastest tile of a search."""

    kernel: Kernel
    size: NumberSize
    channels: int  # one of CHANNEL_CLASSES
    tile: Tile
    milliseconds: float
    fallback_milliseconds: float  # of the fallback tile, in the same search
    learned: bool = False  # with a learned bias; ignored for table_gradient, which always has one

    def __post_init__(self) -> None:
        if self.channels not in CHANNEL_CLASSES:
            raise ValueError(f"channels must be one of {', '.join(map(str, CHANNEL_CLASSES))}, not {self.channels}")
        if not (self.milliseconds > 0 and self.fallback_milliseconds > 0):
            raise ValueError("milliseconds must be above 0")


@dataclass(frozen=True, kw_only=True)
class CardTiles:
    """The results of a search on one card."""

    card: str  # as torch.cuda.get_device_name says
    shared_memory: int  # bytes that a program can have
    driver: str
    torch_version: str
    triton_version: str
    date: str  # ISO
    setting: str  # what was timed, in words
    measured: tuple[MeasuredTile, ...]

    def __post_init__(self) -> None:
        entries = [f"{one.kernel} {one.size} {one.channels}{' learned' * one.learned}" for one in self.measured]
        twice = next((entry for entry in entries if entries.count(entry) > 1), None)
        if twice:
            raise ValueError(f"two tiles for {twice}")
        for entry, one in zip(entries, self.measured, strict=True):
            why = illegal(one.kernel, one.tile, one.size, one.channels, self.shared_memory, learned=one.learned)
            if why:
                raise ValueError(f"the tile for {entry} {why}")

    def over(self, tiles: Tiles, dtype: torch.dtype, channels: int, *, learned: bool = False) -> Tiles:
        """`tiles`, replaced by measured ones if there are any for this dtype, channels and bias."""
        wanted = number_size(dtype), channel_class(channels)
        found = {
            one.kernel: one.tile
            for one in self.measured
            if (one.size, one.channels) == wanted and (one.learned == learned or one.kernel == "table_gradient")
        }
        return Tiles(**{kernel: found.get(kernel, getattr(tiles, kernel)) for kernel in KERNELS})


def card_path(card: str, folder: Path = FOLDER) -> Path:
    """The file of a card: "NVIDIA H100 80GB HBM3" is nvidia-h100-80gb-hbm3.json."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json")


def write(path: Path, found: CardTiles) -> None:
    """Write the file atomically. OutputError if it can't be written."""
    replace_text(path, json_text(to_dict(found), indent=1))


def read(path: Path) -> CardTiles:
    """Read a card's file. ConfigError, naming file and remedy, if it is damaged or has illegal tiles."""
    remedy = "delete it, and search again with benchmarks/gpu_steps/"
    try:
        return build(CardTiles, read_json(path, error=ConfigError, remedy=remedy), where=str(path))
    except ConfigError as problem:
        said = str(problem)
        raise ConfigError(said if said.endswith(remedy) else f"{said}; {remedy}") from None


_in_use: list[Tiles] = []  # for all threads, because backward passes run in other threads


@contextmanager
def using(tiles: Tiles) -> Iterator[None]:
    """Use these tiles on every device within the `with` block, instead of measured ones."""
    _in_use.append(tiles)
    try:
        yield
    finally:
        _in_use.pop()


def tiles_for(device: torch.device, dtype: torch.dtype, channels: int, *, learned: bool = False) -> Tiles:
    """The kernels' tiles for heads of `channels`; on the CPU, in Triton's interpreter, tiles are small."""
    if _in_use:
        return _in_use[-1]
    return INTERPRETED if device.type == "cpu" else _on_card(device, dtype, channels, learned)


@functools.cache
def _on_card(device: torch.device, dtype: torch.dtype, channels: int, learned: bool) -> Tiles:
    properties: Any = torch.cuda.get_device_properties(device)
    tiles = fallback(dtype, channels, int(properties.shared_memory_per_block_optin), learned=learned)
    measured = measured_on(torch.cuda.get_device_name(device))
    return tiles if measured is None else measured.over(tiles, dtype, channels, learned=learned)


@functools.cache
def measured_on(card: str, folder: Path = FOLDER) -> CardTiles | None:
    """The tiles measured on a card of this name; None, with a warning in the log, if the file can't be used."""
    path = card_path(card, folder)
    if not path.exists():
        return None
    try:
        return read(path)
    except ConfigError as problem:
        log.warning(f"{problem}; until then the Triton kernels use tiles that were not measured")
        return None
