"""The sizes of what benchmarks measure, and how long they may take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genrank.models.pointwise_ranker import PointwiseRankerConfig
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.nn.experts import MultiTaskConfig
from genrank.recipes import LARGE_POINTWISE, LARGE_SEQUENCE, PAPER_SEQUENCE
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.simulation import WorldConfig

GRANK = RetrieverConfig(events="all")  # the paper's sizes, over every event of a user
DIN = replace(LARGE_POINTWISE, pooling="din")  # of the recipe din


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of a benchmark's input. The paper's regime: 480 positions of a user, the last of which are candidates."""

    model: SequenceRankerConfig
    world: WorldConfig  # the simulated feed
    narrow: SequenceRankerConfig  # a small recipe's model, for which attention is the larger part of a step
    pace: float  # factor of the time that a benchmark takes at size small
    positions: int = 480  # of a user, history and candidates
    long_positions: int = 512  # for comparing fused with plain attention
    sequences: int = 8  # of a training step
    group: int = 4  # users of the simulated feed in a round that compares packed with unpacked requests
    batch_tokens: int = 4096
    max_history: int = 256  # on the simulated feed
    growth: tuple[int, ...] = (256, 512, 1024, 2048, 4096)  # history lengths at which memory is measured
    matrix: int = 2048  # rows and columns of the product that measures the matrix rate
    items: int = 50_000
    table: tuple[int, int] = (2_000_000, 64)
    lookups: int = 32_768
    generative: SequenceRankerConfig = (
        LARGE_SEQUENCE  # models whose scoring time is measured by size: those of the recipes genrank and din
    )
    pointwise: PointwiseRankerConfig = DIN
    scored: tuple[int, int] = (512, 500)  # history, candidates
    scored_candidates: tuple[int, ...] = (50, 200, 500, 1000, 2000)
    scored_histories: tuple[int, ...] = (64, 256, 512, 1024, 2048)
    served_candidates: int = 200
    searched: tuple[int, ...] = (100_000, 1_000_000)  # items of a catalogue
    search_width: int = 128
    search_k: int = 500
    search_queries: int = 64
    retriever: RetrieverConfig = GRANK
    retrieved_items: int = 100_000
    retrieved_candidates: tuple[int, ...] = (500, 1000, 2000, 3000, 5000)  # of the ranker
    auxiliary: tuple[int, int] = (64, 300)  # GRank: events, candidates of a training step
    auxiliary_sequences: int = 16
    auxiliary_model: tuple[int, int, int] = (128, 4, 4)  # width, heads, blocks


TINY_MODEL = SequenceRankerConfig(
    width=16, num_blocks=2, num_heads=2, feedforward=32, embedding_dim=8, heads=MultiTaskConfig(tower=8)
)
NARROW_MODEL = SequenceRankerConfig(width=64, num_blocks=2)  # of the recipes genrank-small and genrank-demo
TINY = Size(
    model=TINY_MODEL,
    narrow=TINY_MODEL,
    world=WorldConfig(num_users=24, num_days=5, requests_per_day=8, num_items=200, new_items_per_day=10),
    pace=0.002,
    positions=40,
    long_positions=40,
    sequences=2,
    group=3,
    batch_tokens=512,
    max_history=64,
    growth=(32, 64, 128),
    matrix=128,
    items=500,
    table=(5_000, 8),
    lookups=512,
    generative=TINY_MODEL,
    pointwise=replace(DIN, width=8, embedding_dim=8, mlp=(16,), heads=MultiTaskConfig(tower=8)),
    scored=(32, 20),
    scored_candidates=(5, 20),
    scored_histories=(16, 32),
    served_candidates=20,
    retriever=RetrieverConfig(
        events="all", width=16, num_heads=2, num_blocks=1, feedforward=16, ranker_events=40, num_candidates=60
    ),
    retrieved_items=300,
    retrieved_candidates=(30, 60),
    searched=(300, 2000),
    search_width=8,
    search_k=20,
    search_queries=10,
    auxiliary=(8, 12),
    auxiliary_sequences=2,
    auxiliary_model=(16, 2, 2),
)
SMALL = Size(
    model=SequenceRankerConfig(
        width=256, num_blocks=4, num_heads=4, feedforward=1024, embedding_dim=64, heads=MultiTaskConfig(tower=128)
    ),
    narrow=NARROW_MODEL,
    world=WorldConfig(num_users=250),
    pace=1.0,
)
PAPER = Size(model=PAPER_SEQUENCE, narrow=NARROW_MODEL, world=WorldConfig(num_users=1500), pace=2.0)
SIZES: Mapping[str, Size] = {"tiny": TINY, "small": SMALL, "paper": PAPER}


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options of a call.

    name: of the benchmark. size: `small` is width 256 with 4 blocks, `paper` the GenRank paper's 768 with 3, `tiny` is
    for tests. minutes: about how long to measure, at least three rounds of everything; None: the benchmark's default.
    run: the run to serve, instead of a small new one.
    """

    name: Literal["attention", "training", "data", "optimizer", "scoring", "serve", "decomposed", "search", "retrieve"]
    size: Literal["tiny", "small", "paper"] = "small"
    minutes: float | None = None
    seed: int = 0
    run: Path | None = None

    def __post_init__(self) -> None:
        if self.run is not None and self.name != "serve":
            raise ValueError(f"run is for the bench serve; {self.name} makes a model itself")
        if self.minutes is not None and not 0 < self.minutes <= 24 * 60:
            raise ValueError(f"minutes is {self.minutes}; it must be above 0 and at most {24 * 60}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")

    @property
    def sizes(self) -> Size:
        """The sizes that `size` names."""
        return SIZES[self.size]

    def seconds(self, default_minutes: float, share: float = 1.0) -> float:
        """Time for `share` of a benchmark that takes `default_minutes` at size small by default."""
        minutes = default_minutes * self.sizes.pace if self.minutes is None else self.minutes
        return 60 * minutes * share
