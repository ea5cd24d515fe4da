"""PointwiseRanker: the production baseline, embeddings and an MLP over one candidate at a time.

    candidate's features, user, context, history pooled for it, window statistics, SIM's long history
        → concatenated → cross network (DCN-v2) and MLP → task towers

History is pooled by `pooling`: means over all exposures and over the positives of each task (`mean`), or these and
DIN's target attention (`din`). Features, search, heads, trainer and evaluation are those of the sequence ranker.

Shapes: B sequences, T history events, C candidates, I distinct items, W width.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genrank.batch import History, PackedBatch
from genrank.models.inputs import Inputs, RankerConfig
from genrank.models.outputs import Outputs
from genrank.models.ranker import Ranker
from genrank.nn.crosses import CrossNetwork
from genrank.nn.dropout import Dropout
from genrank.nn.encoding import NUM_GAP_BUCKETS, gap_bucket
from genrank.nn.organization import per_token
from genrank.nn.pooling import MeanPooling, TargetAttention
from genrank.schema import DataSpec

NUM_LENGTH_BUCKETS = 24  # history lengths, one per doubling


@dataclass(frozen=True, kw_only=True)
class PointwiseRankerConfig(RankerConfig):
    """The parts of a pointwise ranker."""

    kind: Literal["pointwise"] = "pointwise"
    pooling: Literal["mean", "din"] = "mean"
    attention_hidden: int = 16  # of DIN's MLP; the paper has 36
    num_cross_layers: int = 2  # 0: no cross network
    cross_rank: int = 32
    mlp: tuple[int, ...] = (256, 128)  # widths of the hidden layers; the last one is the heads' input

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mlp or min(self.mlp) < 1:
            raise ValueError(f"mlp is {list(self.mlp)}; it must hold at least one width, each at least 1")
        if self.num_cross_layers < 0 or self.cross_rank < 1 or self.attention_hidden < 1:
            raise ValueError("num_cross_layers must be 0 or more, cross_rank and attention_hidden at least 1")

    def build(self, spec: DataSpec, *, max_history: int) -> "PointwiseRanker":
        """See ModelConfig. Pooling takes any length of history."""
        del max_history
        return PointwiseRanker(self, spec)


@dataclass(frozen=True)
class EmbeddedHistory:
    """The parts of a history that scoring needs. Nothing more can be cached: pooling depends on the candidate."""

    history: History
    item_TW: Tensor
    event_TW: Tensor | None  # DIN only
    user_BW: Tensor | None


class PointwiseRanker(Ranker):
    """Embeddings × pooling × crosses and MLP × heads."""

    config: PointwiseRankerConfig

    def __init__(self, config: PointwiseRankerConfig, spec: DataSpec):
        super().__init__()
        self.config, self.spec, width = config, spec, config.width
        uses_actions = config.pooling == "din" or config.search.kind != "none"
        self.inputs = Inputs(config, spec, use_actions=uses_actions)
        binary = tuple(task.name for task in spec.tasks if task.kind == "binary")
        self.mean = MeanPooling(binary, width)
        self.din = TargetAttention(width, hidden=config.attention_hidden) if config.pooling == "din" else None
        self.gap = nn.Embedding(NUM_GAP_BUCKETS, width)
        self.length = nn.Embedding(NUM_LENGTH_BUCKETS, width)
        for table in (self.gap, self.length):
            nn.init.normal_(table.weight, std=0.02)
        parts = (self.inputs.users, self.inputs.contexts, self.inputs.sim, self.inputs.statistics, self.din)
        joined = width * (3 + sum(part is not None for part in parts))  # item, mean of the history, gap and length
        self.joined_norm = nn.LayerNorm(joined)
        self.crosses = CrossNetwork(joined, num_layers=config.num_cross_layers, rank=config.cross_rank)
        widths = (joined, *config.mlp)
        self.mlp = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(one, other), nn.LayerNorm(other), nn.GELU(), Dropout(config.dropout))
                for one, other in itertools.pairwise(widths)
            )
        )
        self.of_crosses = nn.Linear(joined, widths[-1], bias=False) if config.num_cross_layers else None
        self.outputs = Outputs(
            spec,
            config.heads,
            width=widths[-1],
            prior=self.inputs.prior,
            dropout=config.dropout,
            duration=config.duration_head,
            position=config.position_feature,
        )

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """See Ranker."""
        items_IW = self.inputs.items(batch.items)
        return self._score(self._embed(batch, items_IW), batch, items_IW)

    def encode_history(self, batch: PackedBatch) -> EmbeddedHistory:
        """See Ranker."""
        return self._embed(batch, self.inputs.items(batch.items))

    def score(self, state: EmbeddedHistory, batch: PackedBatch) -> dict[str, Tensor]:
        """See Ranker."""
        return self._score(state, batch, self.inputs.items(batch.items))

    def _embed(self, batch: PackedBatch, items_IW: Tensor) -> EmbeddedHistory:
        history = batch.history
        item_TW = items_IW[history.item]
        event_TW = None
        if self.din is not None:
            event_TW = item_TW + self.inputs.of_actions(history)
            context_TW = self.inputs.of_history(history)
            event_TW = event_TW if context_TW is None else event_TW + context_TW
        return EmbeddedHistory(history, item_TW, event_TW, self.inputs.user_vectors(batch))

    def _score(self, state: EmbeddedHistory, batch: PackedBatch, items_IW: Tensor) -> dict[str, Tensor]:
        x_CW = self.joined_norm(torch.cat(self._parts(state, batch, items_IW), dim=-1))
        hidden_CW = self.mlp(x_CW)
        if self.of_crosses is not None:
            hidden_CW = hidden_CW + self.of_crosses(self.crosses(x_CW))
        prior_CP = self.inputs.prior_of(batch, items_IW, state.user_BW) if self.outputs.uses_prior else None
        logits: dict[str, Tensor] = self.outputs(hidden_CW, prior_CP, batch.candidates.slot)
        return logits

    def _parts(self, state: EmbeddedHistory, batch: PackedBatch, items_IW: Tensor) -> list[Tensor]:
        """All inputs of a candidate, each (C, W)."""
        c, inputs = batch.candidates, self.inputs
        item_CW = items_IW[c.item]
        length_C = torch.log2(1 + c.prefix.double()).ceil().long().clamp_max(NUM_LENGTH_BUCKETS - 1)
        parts = [
            item_CW,
            self.mean(state.item_TW, state.history, c),
            self.gap(gap_bucket(c.gap)) + self.length(length_C),
            None if state.user_BW is None else per_token(state.user_BW, c.offsets, len(c.item)),
            inputs.of_candidates(c),
            None if state.event_TW is None or self.din is None else self.din(state.event_TW, item_CW, state.history, c),
            inputs.long_history(batch, items_IW),
            inputs.window_statistics(batch),
        ]
        return [part for part in parts if part is not None]
