"""SequenceRanker: a causal transformer over a user's actions that predicts the actions on candidates.

GenRank, arXiv 2505.04180, equation (1):

    history      e_i = φ(x_i) + ϕ(a_i) + E_pe + E_ri + E_rt
    candidate    e_j = φ(x_j) + M      + E_pe + E_ri + E_rt      M: the learned mask action

φ is the item with its features, ϕ the sum of one embedding per action type. Features of the exposure are added to
both kinds of token; those of the user are added too, or stand as one token before the history. A candidate sees the
history of earlier requests and itself. Only candidates reach the heads, so the last block needs the history's keys
and values only.

Shapes: B sequences, T history tokens, X = T or T + B context tokens, C candidates, W width.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genrank.batch import PackedBatch
from genrank.nn.attention import Attention, Queries, Tokens, alibi
from genrank.nn.backends import BACKENDS, Backend, choose_backend
from genrank.nn.blocks import KeysValues, TransformerBlock
from genrank.nn.embeddings import ActionEmbedding, FeatureEmbedding
from genrank.nn.encoding import GenRankEncoding, NoEncoding
from genrank.nn.heads import DurationHead, SharedBottom, task_head
from genrank.schema import DataSpec

log = logging.getLogger(__name__)

ENCODINGS = {"genrank": GenRankEncoding, "none": NoEncoding}


@dataclass(frozen=True, kw_only=True)
class SequenceRankerConfig:
    """The parts of a sequence ranker. The paper's setting: 3 blocks, 8 heads, width 768."""

    organization: Literal["action"] = "action"
    encoding: Literal["genrank", "none"] = "genrank"
    block: Literal["transformer"] = "transformer"
    history_mask: Literal["causal", "full"] = "causal"
    alibi: Literal["position", "time", "both", "none"] = "position"
    width: int = 64
    num_blocks: int = 2
    num_heads: int = 4
    feedforward: int = 256
    tower: int = 64
    embedding_dim: int = 32  # of each feature, before the projection to `width`
    attention_gate: bool = True
    user_features: Literal["prefix", "token", "none"] = "token"
    duration_head: DurationHead = "ordinal"
    dropout: float = 0.1
    embedding_dropout: float = 0.0  # on a token's whole input vector
    id_dropout: float = 0.05  # share of item and user ids that count as unknown while training
    attention: Backend = "auto"

    def __post_init__(self) -> None:
        for name in ("width", "num_blocks", "num_heads", "feedforward", "tower", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        for name in ("dropout", "embedding_dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class HistoryState:
    """An encoded history: all that scoring candidates needs of it, and what a cache keeps."""

    context: Tokens  # X places
    keys_values: tuple[KeysValues, ...]  # per block
    num_prefix_tokens: int
    user_BW: Tensor | None  # the users' vectors, where they are added to candidates


class SequenceRanker(nn.Module):
    """Organization × encoding × blocks × heads."""

    def __init__(self, config: SequenceRankerConfig, spec: DataSpec, *, max_history: int):
        super().__init__()
        self.config, self.spec, self.max_history = config, spec, max_history
        width = config.width
        self.items = self._features("item")
        self.contexts = self._features("exposure") if spec.of("exposure") else None
        self.users = self._features("user") if spec.of("user") and config.user_features != "none" else None
        self.actions = ActionEmbedding(spec, width)
        self.mask_action = nn.Parameter(torch.randn(width) * 0.02)
        self.encoding = ENCODINGS[config.encoding](max_history, width)
        self.input_norm = nn.LayerNorm(width)
        self.input_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(self._block() for _ in range(config.num_blocks))
        self.heads = {task.name: task_head(task, config.duration_head) for task in spec.tasks}
        self.towers = SharedBottom(
            {name: head.num_logits for name, head in self.heads.items()},
            width=width,
            tower=config.tower,
            dropout=config.dropout,
        )
        self.bias = alibi(config.num_heads, config.alibi)
        self._logged: set[str] = set()

    def _features(self, owner: Literal["item", "user", "exposure"]) -> FeatureEmbedding:
        config = self.config
        return FeatureEmbedding(
            self.spec.of(owner), dim=config.embedding_dim, width=config.width, id_dropout=config.id_dropout
        )

    def _block(self) -> TransformerBlock:
        config = self.config
        return TransformerBlock(
            config.width,
            config.num_heads,
            feedforward=config.feedforward,
            dropout=config.dropout,
            gate=config.attention_gate,
        )

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits per task, (C, logits of the task's head)."""
        items_IW = self.items(batch.items)
        return self._score(self._encode(batch, items_IW), batch, items_IW)

    def encode_history(self, batch: PackedBatch) -> HistoryState:
        """The batch's histories; its candidates are not looked at."""
        return self._encode(batch, self.items(batch.items))

    def score(self, state: HistoryState, batch: PackedBatch) -> dict[str, Tensor]:
        """Logits of the batch's candidates over histories that were encoded before; its history is not looked at."""
        return self._score(state, batch, self.items(batch.items))

    def predict(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """(C) per task: a probability, or expected seconds."""
        return {name: head.predict(logits[name]) for name, head in self.heads.items()}

    def loss(self, logits: dict[str, Tensor], batch: PackedBatch) -> dict[str, Tensor]:
        """(C) per task: each candidate's loss, 0 where its label is unknown."""
        c = batch.candidates
        return {
            name: head.loss(logits[name], c.labels[name], c.censored.get(name)) for name, head in self.heads.items()
        }

    def _encode(self, batch: PackedBatch, items_IW: Tensor) -> HistoryState:
        history = batch.history
        x_TW = items_IW[history.item] + self.actions(history.actions)
        x_TW = x_TW + self.encoding(history.position, history.request, history.gap)
        if self.contexts is not None:
            x_TW = x_TW + self.contexts(history.features)
        user_BW = self.users(batch.users) if self.users is not None else None
        prefixed = user_BW is not None and self.config.user_features == "prefix"
        context = Tokens(history.offsets, history.position, history.time)
        if user_BW is not None:
            x_TW, context = (
                self._prefixed(x_TW, user_BW, context)
                if prefixed
                else (x_TW + _per_token(user_BW, history.offsets), context)
            )
        return HistoryState(context, self._context_blocks(x_TW, context), int(prefixed), None if prefixed else user_BW)

    def _context_blocks(self, x_XW: Tensor, context: Tokens) -> tuple[KeysValues, ...]:
        x_XW = self.input_dropout(self.input_norm(x_XW))
        causal = self.config.history_mask == "causal"
        begin_X = _per_token(context.offsets[:-1], context.offsets)
        index_X = torch.arange(len(x_XW), device=x_XW.device) - begin_X
        prefix_X = index_X if causal else _per_token(context.offsets.diff(), context.offsets)
        attention = self._attention(Queries(context, prefix_X, sees_itself=causal, causal=causal), context)
        states: list[KeysValues] = []
        for number, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            if number == len(self.blocks) - 1:
                states.append(block.keys_values(x_XW))
            else:
                x_XW, own = block(x_XW, attention, None)
                states.append(own)
        return tuple(states)

    def _score(self, state: HistoryState, batch: PackedBatch, items_IW: Tensor) -> dict[str, Tensor]:
        c = batch.candidates
        x_CW = items_IW[c.item] + self.mask_action + self.encoding(c.prefix, c.request, c.gap)
        if self.contexts is not None:
            x_CW = x_CW + self.contexts(c.features)
        if state.user_BW is not None:
            x_CW = x_CW + _per_token(state.user_BW, c.offsets)
        x_CW = self.input_dropout(self.input_norm(x_CW))
        prefix = c.prefix + state.num_prefix_tokens
        attention = self._attention(Queries(Tokens(c.offsets, prefix, c.time), prefix), state.context)
        for block, keys_values in zip(self.blocks, state.keys_values, strict=True):
            x_CW, _ = block(x_CW, attention, keys_values)
        logits: dict[str, Tensor] = self.towers(x_CW)
        return logits

    def _prefixed(self, x_TW: Tensor, user_BW: Tensor, context: Tokens) -> tuple[Tensor, Tokens]:
        """The context with one token of the user before each history, as old as its first event."""
        num_users = len(user_BW)
        offsets = context.offsets + torch.arange(num_users + 1, device=x_TW.device)
        at_user = offsets[:-1]
        at_history = (
            torch.arange(len(x_TW), device=x_TW.device)
            + 1
            + _per_token(torch.arange(num_users, device=x_TW.device), context.offsets)
        )
        x_XW = x_TW.new_zeros(len(x_TW) + num_users, x_TW.shape[1])
        x_XW = x_XW.index_copy(0, at_history, x_TW).index_copy(0, at_user, user_BW)
        position, time = (x_XW.new_zeros(len(x_XW), dtype=torch.int64) for _ in range(2))
        position[at_history], time[at_history] = context.position + 1, context.time
        has_history = context.offsets.diff() > 0
        time[at_user[has_history]] = context.time[context.offsets[:-1][has_history]]
        return x_XW, Tokens(offsets, position, time)

    def _attention(self, queries: Queries, context: Tokens) -> Attention:
        name = choose_backend(self.config.attention, queries.prefix.device)
        if name not in self._logged:
            self._logged.add(name)
            log.info("attention backend: %s on %s", name, queries.prefix.device)
        return BACKENDS[name](queries, context, self.bias)


def _per_token(values_B: Tensor, offsets: Tensor) -> Tensor:
    """Each sequence's value for all of its tokens: (B, …) to (N, …)."""
    return torch.repeat_interleave(values_B, offsets.diff(), dim=0)
