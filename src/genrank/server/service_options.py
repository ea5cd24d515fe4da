"""Settings of a service."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from genrank.errors import shown
from genrank.retrieval.item_search import Precision

MIB = 2**20
LONGEST = 3600.0  # seconds, of any setting that is a time


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be, and how long one may be slow.

    most: 0 for 1024, or fewer if the limit on open files requires it. head_bytes: of request line and headers together.
    head_seconds: for these to arrive. body_seconds: for a body to arrive, plus a second for each 128 KiB of it.
    idle_seconds: between requests. answer_seconds: for an answer to be read.
    """

    most: int = 0
    head_bytes: int = 16 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    idle_seconds: float = 75.0  # longer than load balancers keep idle connections
    answer_seconds: float = 30.0

    def __post_init__(self) -> None:
        require_whole("connections.most", self.most, 0, 60_000)
        require_whole("connections.head_bytes", self.head_bytes, 1024, MIB)
        for name in ("head_seconds", "body_seconds", "idle_seconds", "answer_seconds"):
            require_seconds(f"connections.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How a service ranks and retrieves.

    max_candidates, max_retrieved, max_events, max_items: of one call. max_new_items: items added to those of the
    prepared data (each takes some 500 bytes and its embeddings). deadline: seconds within which a ranking is answered
    or refused. batch_candidates: most candidates in a batch of rankings. wait: seconds that a batch waits for more
    rankings. values: named value formulas, weights by task; "" is that of the run.
    """

    max_candidates: int = 2000
    max_retrieved: int = 5000
    max_events: int = 1000
    max_items: int = 1000
    max_new_items: int = 1_000_000
    deadline: float = 0.5
    batch_candidates: int = 2000
    wait: float = 0.001
    cache_bytes: int = 512 * MIB  # of encoded histories, on the device
    decoded_bytes: int = 256 * MIB  # of histories before encoding
    max_exposures: int = 20_000_000  # of prepared data whose timelines are in memory; those of larger data stay on disk
    timeline_bytes: int = 512 * MIB  # of timelines read from disk that are kept
    threads: int = 1  # of PyTorch; small models are fastest with one, and several workers. 0: PyTorch's default
    device: str = "auto"  # a GPU where there is one
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of a ranker's blocks: bf16 on a GPU, as training
    cuda_graphs: bool = True  # on a GPU: the kernels of a ranking are launched together
    index_precision: Precision = "int8"  # of the first search of a retriever's index
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_candidates", "max_retrieved", "max_events", "max_items", "batch_candidates"):
            require_whole(name, getattr(self, name), 1, 1_000_000)
        require_whole("max_new_items", self.max_new_items, 1, 1_000_000_000)
        for name in ("cache_bytes", "decoded_bytes", "timeline_bytes", "max_exposures"):
            require_whole(name, getattr(self, name), 0, 2**60)
        require_whole("threads", self.threads, 0, 1024)
        require_seconds("deadline", self.deadline)
        if self.wait != 0:
            require_seconds("wait", self.wait)
        if self.wait >= self.deadline:
            raise ValueError(f"wait is {self.wait} s, the deadline {self.deadline} s; set a shorter wait")
        for formula, weights in self.values.items():
            for task, weight in weights.items():
                if isinstance(weight, bool) or not math.isfinite(weight):
                    raise ValueError(f"values.{formula}.{task} is {weight}; a weight is a finite number")


def require_whole(name: str, value: int, least: int, most: int) -> None:
    """ValueError where the setting isn't a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be at least {least} and at most {most}")


def require_seconds(name: str, value: float) -> None:
    """ValueError unless the setting is a number of seconds above 0, at most an hour."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST:
        raise ValueError(f"{name} is {shown(value)}; it must be a number of seconds, above 0, at most {LONGEST:.0f}")
