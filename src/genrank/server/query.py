"""A caller's query to a pipeline, with the fields that any of its stages may need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PipelineQuery:
    """A user, a time, candidates or how to retrieve them, and how to rank them.

    time: seconds since the epoch, None for now. k, without, exclude (ids), exclude_seen: see RetrieveRequest.
    context: see FeatureEncoder.encode; of_each: names in `context` whose value is a list with one value per candidate,
    even if it could be read otherwise. tasks: wanted in the answer; empty: all. value: weight of each task in the
    value, or a formula's name. top_k: number of candidates in the answer; 0: all.
    """

    user: str
    time: int | None = None
    candidates: tuple[str, ...] = ()
    k: int = 500
    without: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    exclude_seen: bool | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    of_each: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()
    value: Mapping[str, float] | str = ""
    top_k: int = 0
