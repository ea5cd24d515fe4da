"""How a service runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from genrank.retrieval.search import Precision

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How a service runs.

    max_candidates, max_retrieved, max_events, max_items: of one call. max_new_items: beyond those of the prepared data
    (each takes some 500 bytes and its embeddings). deadline: seconds within which a ranking is
    answered or refused.
    batch_candidates: of the rankings that are done together. wait: seconds for others to join them. values: named value
    formulas, weights by task; "" is the run's own.
    """

    max_candidates: int = 2000
    max_retrieved: int = 5000
    max_events: int = 1000
    max_items: int = 1000
    max_new_items: int = 1_000_000
    deadline: float = 0.5
    batch_candidates: int = 2000
    wait: float = 0.001
    cache_bytes: int = 512 * MIB  # of encoded histories
    decoded_bytes: int = 256 * MIB  # of histories as they are before that
    threads: int = 1  # of PyTorch; small models serve fastest with one, and scale by workers. 0: as many as it takes
    device: str = "auto"  # a GPU where there is one
    precision: Literal["fp32", "bf16"] = "fp32"
    index_precision: Precision = "int8"  # of the first look at the vectors of a retriever's index
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_candidates", "max_retrieved", "max_events", "max_items", "max_new_items", "batch_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.deadline <= 0 or min(self.wait, self.cache_bytes, self.decoded_bytes) < 0:
            raise ValueError("deadline must be above 0, wait, cache_bytes and decoded_bytes 0 or more")
