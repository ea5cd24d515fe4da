"""SequenceRankerConfig: the parts of a sequence ranker, GenRank's and HSTU's."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genrank.batch import PackedBatch
from genrank.models.inputs import RankerConfig
from genrank.nn.backends import Backend
from genrank.nn.organization import Organization, tokens_per_event
from genrank.schema import DataSpec

if TYPE_CHECKING:
    from genrank.models.sequence_ranker import SequenceRanker


@dataclass(frozen=True, kw_only=True)
class SequenceRankerConfig(RankerConfig):
    """The parts of a sequence ranker. The paper's setting: 3 blocks, 8 heads, width 768.

    encoding: `genrank` (the three embeddings and ALiBi, each of which can be switched off), `hstu` (learned relative
    bias by position and time), `none`.
    """

    retired: ClassVar[dict[str, Any]] = {"candidate_copies": False}  # gave the same numbers, more slowly

    kind: Literal["sequence"] = "sequence"
    organization: Organization = "action"
    encoding: Literal["genrank", "hstu", "none"] = "genrank"
    block: Literal["transformer", "hstu"] = "transformer"
    start: Literal["auto", "official", "uniform"] = "auto"  # initial weights of the hstu block: see `first_weights`
    input: Literal["norm", "scaled"] = "norm"  # LayerNorm, or as HSTU: times √width, plus absolute positions
    history_mask: Literal["causal", "full"] = "causal"
    alibi: Literal["position", "time", "both", "none"] = "position"  # of the encoding `genrank`, as the next three
    position_embedding: bool = True
    request_embedding: bool = True
    gap_embedding: bool = True  # the paper's pre-request time
    num_blocks: int = 2
    feedforward: int = 256  # of the transformer block, as the next two
    attention_gate: bool = True
    qk_norm: bool = False
    user_features: Literal["prefix", "token", "none"] = "token"
    embedding_dropout: float = 0.0  # on a token's whole input vector
    attention: Backend = "auto"
    recompute: bool = False  # the backward pass computes each block again instead of storing its activations

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_blocks", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.embedding_dropout < 1:
            raise ValueError(f"embedding_dropout is {self.embedding_dropout}; it must be at least 0 and below 1")

        if self.attention == "fused" and not self.fusible:
            raise ValueError("the attention backend 'fused' has neither SiLU nor a learned bias; set attention=auto")

    def build(self, spec: DataSpec, *, max_history: int) -> "SequenceRanker":
        """See ModelConfig."""
        from genrank.models.sequence_ranker import SequenceRanker

        return SequenceRanker(self, spec, max_history=max_history)

    def num_tokens(self, batch: PackedBatch) -> int:
        """Tokens of the history, and of the candidates that need a separate token."""
        own = batch.candidates.in_history < 0
        num_own = int(own.sum()) if self.predicts_in_place else len(own)
        return tokens_per_event(self.organization) * len(batch.history.item) + num_own

    @property
    def packs_requests(self) -> bool:  # type: ignore[override]
        """See ModelConfig: under a full mask history sees later events."""
        return self.history_mask == "causal"

    @property
    def slow_start(self) -> bool:  # type: ignore[override]
        """See ModelConfig."""
        return self.organization == "interleaved"

    @property
    def first_weights(self) -> Literal["official", "uniform"]:
        """`start`; auto is `official` for interleaved tokens, which need far more steps from PyTorch's weights."""
        if self.start == "auto":
            return "official" if self.organization == "interleaved" else "uniform"
        return self.start

    @property
    def predicts_in_place(self) -> bool:
        """Whether the item token of a past exposure predicts its action: see nn/organization.py."""
        return self.organization == "interleaved" and self.encoding == "hstu"

    @property
    def fusible(self) -> bool:
        """Whether PyTorch's fused attention can compute the attention of this model."""
        return self.block == "transformer" and self.encoding != "hstu"
