"""RetrieverConfig: the parts of a retriever, which finds candidates among all items (GRank, arXiv 2510.15299).

The paper's sizes: 4 blocks, width 128, 64 events; the ranker has 1,000 events and 2,000 candidates, and returns 500.
The paper doesn't give the losses' weights, the temperature and the negatives: these are ours.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from genrank.config import nearest
from genrank.data.past_search import SearchConfig
from genrank.model_config import ModelConfig, check_left_out
from genrank.nn.backends import Backend
from genrank.schema import DataSpec

if TYPE_CHECKING:
    from genrank.retrieval.retriever import Retriever


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig(ModelConfig):
    """The parts of a retriever.

    generator: `transformer` (GRank), or `pooled`, the two-tower baseline (DSSM): an MLP over the latest events.
    auxiliary, ranker: λ1 and λ2, the weights of their losses; the query's has weight 1; 0 leaves that part out. The
    ranker's loss trains the ranker and the items, never the query; with weight 1 the auxiliary's loss outweighed the
    query's. events: whether history has positives only, or all exposures with their actions.
    """

    retrieves: ClassVar[bool] = True
    kind: Literal["retrieval"] = "retrieval"
    generator: Literal["transformer", "pooled"] = "transformer"
    auxiliary: float = 0.1
    ranker: float = 1.0
    positive: str = ""  # the binary task that defines positives; empty: the first one, or every event if there is none
    events: Literal["positives", "all"] = "positives"
    width: int = 128
    num_heads: int = 4
    num_blocks: int = 4
    feedforward: int = 512
    embedding_dim: int = 64  # of each feature, before the projection to `width`
    without: tuple[str, ...] = ()  # features of the data that the model does not use
    user_id: bool = False  # a vector per user; overfits on small data, see docs/retrieval.md
    recent: tuple[int, ...] = (1, 16)  # the query token has means of the last event and of the last 16
    position_embedding: bool = True
    gap_embedding: bool = False  # time since the previous request; data without times has none
    alibi: bool = True
    attention_gate: bool = False
    similarity: Literal["dot", "cosine"] = "cosine"
    temperature: float = 0.07  # cosine only; with dot products the scale is learned
    ranker_events: int = 1000  # events that the ranker attends to, those of the window included
    exclude_seen: bool = True  # items that the user had before are not retrieved
    num_candidates: int = 2000  # k1: the generator's best, which the ranker scores
    full_softmax: int = 50_000  # items up to which the query's loss is over the whole catalogue
    num_negatives: int = 128  # uniformly drawn, beside those in the batch
    num_auxiliary: int = 64  # the auxiliary's negatives, a random part of that pool; most of the cost of training
    num_hard: int = 64  # the ranker's negatives, drawn from the query's best items of the whole catalogue
    hard_from: int = 0  # how many best items these are drawn from; 0: num_candidates, as in serving
    places: int = 1  # random places of each sample, drawn in each step, that train auxiliary and ranker
    dropout: float = 0.1
    embedding_dropout: float = 0.0
    id_dropout: float = 0.05
    feature_dropout: float = 0.01  # as in rankers
    attention: Backend = "auto"

    def __post_init__(self) -> None:
        self._check_numbers()
        if min(self.recent, default=0) < 1:
            raise ValueError(f"recent is {list(self.recent)}; it must name numbers of events, each at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.generator == "pooled" and self.auxiliary:
            raise ValueError("the auxiliary needs generator=transformer; set auxiliary=0 with generator=pooled")

    def _check_numbers(self) -> None:
        sizes = ("width", "num_heads", "num_blocks", "feedforward", "embedding_dim", "ranker_events", "num_candidates")
        drawn = ("places", "num_negatives", "num_auxiliary", "num_hard")
        for name in sizes + drawn:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("auxiliary", "ranker", "full_softmax", "hard_from"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("dropout", "embedding_dropout", "id_dropout", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    def build(self, spec: DataSpec, *, max_history: int) -> "Retriever":
        """See ModelConfig."""
        from genrank.retrieval.retriever import Retriever

        return Retriever(self, spec, max_history=max_history)

    def check(self, spec: DataSpec, *, num_items: int | None = None) -> None:
        """See ModelConfig."""
        if self.ranker and self.hard_from > self.num_candidates:
            raise ValueError(
                f"hard_from is {self.hard_from}; it must be at most num_candidates, {self.num_candidates}, the number "
                "of items that the ranker scores in serving; 0 is num_candidates"
            )
        if self.ranker and num_items is not None and self.hard_from > num_items:
            raise ValueError(
                f"hard_from is {self.hard_from}; it must be at most the {num_items:,} items that the data has; 0 is "
                "num_candidates"
            )
        binary = {task.name for task in spec.tasks if task.kind == "binary"}
        if self.positive and self.positive not in binary:
            raise ValueError(
                f"positive names {self.positive!r}, which is no binary task; {nearest(self.positive, binary)}"
            )
        check_left_out(self.without, spec)

    @property
    def search(self) -> SearchConfig:
        """How the sequence builder finds the events before the window: the ranker's long history."""
        return SearchConfig(kind="soft", max_events=self.ranker_events) if self.ranker else SearchConfig()

    @property
    def met_by_ranker(self) -> int:
        """How many of the query's best items the ranker is trained on."""
        return self.hard_from or self.num_candidates

    @property
    def losses(self) -> dict[str, float]:
        """The parts of the loss and their weights, without those of weight 0."""
        weights = {"query": 1.0, "auxiliary": self.auxiliary, "ranker": self.ranker}
        return {name: weight for name, weight in weights.items() if weight}


def positive_task(config: RetrieverConfig, spec: DataSpec) -> str:
    """The task that defines positives; empty if every event is one."""
    binary = [task.name for task in spec.tasks if task.kind == "binary"]
    return config.positive or next(iter(binary), "")
