"""SequenceRanker: a causal transformer over a user's actions that predicts the actions on candidates.

GenRank, arXiv 2505.04180, equation (1):

    history      e_i = φ(x_i) + ϕ(a_i) + E_pe + E_ri + E_rt
    candidate    e_j = φ(x_j) + M      + E_pe + E_ri + E_rt      M: the learned mask action

φ is the item with its features, ϕ the sum of one embedding per action type. Features of the exposure are added to
both kinds of token; those of the user are added too, or are one token before the history. A candidate sees the
history of earlier requests and itself. Only candidates reach the heads, so the last block needs only the keys and
values of the history. SIM's long history and the window statistics are added to the candidate's vector after the
blocks, so that the cached history doesn't depend on them.

HSTU is the same model with other `organization`, `encoding` and `block`: see nn/organization.py, nn/blocks.py.

Shapes: B sequences, T history events, X context tokens, C candidates, W width.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genrank.batch import Candidates, History, PackedBatch
from genrank.models.inputs import Inputs
from genrank.models.outputs import Outputs
from genrank.models.ranker import Ranker
from genrank.models.score_inputs import ScoreInputs
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.models.sequence_flops import sequence_attention_flops
from genrank.nn.attention import Attention, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import JAGGED_BACKENDS, AttentionMaker
from genrank.nn.blocks import Block, HSTUBlock, KeysValues, RelativeBias, TransformerBlock
from genrank.nn.dropout import Dropout
from genrank.nn.encoding import GenRankEncoding, ScaledInput
from genrank.nn.kv_cache import KVCache, Merge
from genrank.nn.organization import (
    Context,
    action_context,
    behind_user_tokens,
    fully_visible,
    interleaved_context,
    per_token,
    tokens_per_event,
    with_user_tokens,
)
from genrank.schema import DataSpec


class CandidateSplit(NamedTuple):
    """Candidates split by whether history contains the same exposure, whose item token then predicts it. In order."""

    own: Tensor  # (C') those that need a separate token
    in_place: Tensor  # (C - C')


class InPlace(NamedTuple):
    """Candidates that are predicted at their item tokens in the history."""

    split: CandidateSplit
    queries: Queries  # the candidates with a separate token
    x_CW: Tensor  # (C - C', W) input of the last block at the item tokens


class SequenceRanker(Ranker):
    """Organization × encoding × blocks × heads."""

    config: SequenceRankerConfig

    def __init__(self, config: SequenceRankerConfig, spec: DataSpec, *, max_history: int):
        super().__init__()
        self.config, self.spec, width = config, spec, config.width
        self.extends_history = config.history_mask == "causal"
        self.num_reencoded_events = 1 if config.encoding == "hstu" else 0  # its bias takes the next event's time
        self.inputs = Inputs(config, spec, use_users=config.user_features != "none")
        self.event_tokens = tokens_per_event(config.organization)
        self.num_positions = self.event_tokens * max_history + 2  # a user token before, a candidate after
        if config.organization == "action":
            self.mask_action = nn.Parameter(torch.randn(width) * 0.02)
        uses = config.encoding == "genrank"
        self.encoding = GenRankEncoding(
            self.num_positions,
            width,
            position=uses and config.position_embedding,
            request=uses and config.request_embedding,
            gap=uses and config.gap_embedding,
        )
        self.input_norm = nn.LayerNorm(width) if config.input == "norm" else None
        self.scaled_input = ScaledInput(self.num_positions, width) if config.input == "scaled" else None
        self.input_dropout = Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(self._block() for _ in range(config.num_blocks))
        self.outputs = Outputs(
            spec,
            config.heads,
            width=width,
            prior=self.inputs.prior,
            dropout=config.dropout,
            duration=config.duration_head,
            position=config.position_feature,
        )
        self.scoring = Scoring(
            alibi(config.num_heads, config.alibi if uses else "none"),
            "softmax" if config.block == "transformer" else "silu",
            float(self.num_positions),
        )
        channels = width // config.num_heads
        self.attention = AttentionMaker(config.attention, fusible=config.fusible, channels=channels)

    def _block(self) -> Block:
        config = self.config
        relative = RelativeBias(self.num_positions) if config.encoding == "hstu" else None
        if config.block == "hstu":
            start = config.first_weights
            return HSTUBlock(config.width, config.num_heads, dropout=config.dropout, start=start, relative=relative)
        return TransformerBlock(
            config.width,
            config.num_heads,
            feedforward=config.feedforward,
            dropout=config.dropout,
            gate=config.attention_gate,
            qk_norm=config.qk_norm,
            relative=relative,
        )

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """See Ranker."""
        items_IW = self.inputs.items(batch.items)
        state, x_XW = self._encode(batch, items_IW)
        if not self.config.predicts_in_place:
            return self.score_prepared(self._prepared(state, batch, items_IW, None))
        split = _split(batch.candidates)
        at_X = self._item_tokens(batch, state)[batch.candidates.in_history[split.in_place]]
        in_place = InPlace(split, _own_queries(batch.candidates, self._prefix(state, batch), split), x_XW[at_X])
        return self._score(self._prepared(state, batch, items_IW, split.own), in_place)

    def encode_history(self, batch: PackedBatch) -> KVCache:
        """See Ranker."""
        return self._encode(batch, self.inputs.items(batch.items))[0]

    def extend_history(self, state: KVCache, batch: PackedBatch) -> KVCache:
        """`state` extended by the events of the batch's history: only these are computed."""
        items_IW = self.inputs.items(batch.items)
        context = self._context(batch.history, items_IW, state.user_BW)
        if state.num_prefix_tokens:
            context = behind_user_tokens(context)
        merge = Merge(
            state.context.offsets,
            context.tokens.offsets,
            num_old=len(state.context.position),
            num_new=len(context.tokens.position),
        )
        places, asked = merge.tokens(state.context, context.tokens), context.queries
        attention = self._attention(Queries(asked.tokens, asked.prefix, asked.next_time), places)
        x_XW = self._input(context.x_XW, context.queries.tokens.position)
        states: list[KeysValues] = []
        for block, before in zip(self.blocks, state.keys_values, strict=True):
            assert isinstance(block, Block)
            states.append(merge.keys_values(before, block.keys_values(x_XW)))
            if block is not self.blocks[-1]:
                x_XW, _ = block(x_XW, attention, states[-1])
        return replace(state, context=places, keys_values=tuple(states))

    def score(self, state: KVCache, batch: PackedBatch) -> dict[str, Tensor]:
        """See Ranker."""
        return self.score_prepared(self.prepare_score(state, batch))

    def prepare_score(self, state: KVCache, batch: PackedBatch) -> ScoreInputs:
        """See Ranker."""
        return self._prepared(state, batch, self.inputs.items(batch.items), None)

    def score_prepared(self, inputs: ScoreInputs) -> dict[str, Tensor]:
        """See Ranker."""
        return self._score(inputs, None)

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """See Ranker."""
        return self.attention.backend(next(self.parameters()).device) in JAGGED_BACKENDS

    def attention_flops(self, batch: PackedBatch) -> int:
        """See Ranker."""
        return sequence_attention_flops(self.config, batch)

    def _encode(self, batch: PackedBatch, items_IW: Tensor) -> tuple[KVCache, Tensor]:
        """The state, and the input of the last block (X, W)."""
        user_BW = self.inputs.user_vectors(batch)
        context = self._context(batch.history, items_IW, user_BW)
        prefixed = user_BW is not None and self.config.user_features == "prefix"
        if prefixed:
            assert user_BW is not None
            context = with_user_tokens(context, user_BW)
        if self.config.history_mask == "full":
            context = fully_visible(context)
        attention = self._attention(context.queries, context.tokens)
        x_XW = self._input(context.x_XW, context.queries.tokens.position)
        states: list[KeysValues] = []
        for block in self.blocks[:-1]:
            x_XW, own = self._run(block, x_XW, attention, None)
            states.append(own)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        states.append(last.keys_values(x_XW))
        return KVCache(context.tokens, tuple(states), user_BW, int(prefixed), self.event_tokens), x_XW

    def _run(
        self, block: nn.Module, x_NW: Tensor, attention: Attention, context: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        result: tuple[Tensor, KeysValues] = (
            checkpoint(block, x_NW, attention, context, use_reentrant=False)
            if self.config.recompute and torch.is_grad_enabled()
            else block(x_NW, attention, context)
        )
        return result

    def _context(self, history: History, items_IW: Tensor, user_BW: Tensor | None) -> Context:
        inputs = self.inputs
        item_TW = items_IW[history.item]
        context_TW = inputs.of_history(history)
        item_TW = item_TW if context_TW is None else item_TW + context_TW
        added_TW = (
            0
            if user_BW is None or self.config.user_features == "prefix"
            else per_token(user_BW, history.offsets, len(history.item))
        )
        if self.config.organization == "action":
            encoded_TW = self.encoding(history.position, history.as_candidate.request, history.as_candidate.gap)
            return action_context(item_TW + inputs.of_actions(history) + encoded_TW + added_TW, history)
        action_TW, place = inputs.of_actions(history), 2 * history.position
        item_TW = item_TW + self.encoding(place, history.as_candidate.request, history.as_candidate.gap) + added_TW
        action_TW = (
            action_TW + self.encoding(place + 1, history.as_candidate.request, history.as_candidate.gap) + added_TW
        )
        return interleaved_context(item_TW, action_TW, history, as_candidates=self.config.encoding == "hstu")

    def _prepared(self, state: KVCache, batch: PackedBatch, items_IW: Tensor, own: Tensor | None) -> ScoreInputs:
        """own: (C') the candidates that need a separate token, whose vectors go into the blocks; None: all."""
        c, inputs = batch.candidates, self.inputs
        prefix_C = self._prefix(state, batch)
        x_CW = self._candidates(state, batch, items_IW)
        beside = (inputs.long_history(batch, items_IW), inputs.window_statistics(batch))
        return ScoreInputs(
            offsets=c.offsets,
            prefix_C=prefix_C,
            time_C=c.time,
            slot_C=c.slot,
            x_CW=self._input(x_CW, prefix_C) if own is None else self._input(x_CW[own], prefix_C[own]),
            beside=tuple(tensor for tensor in beside if tensor is not None),
            prior_CP=inputs.prior_of(batch, items_IW, state.user_BW) if self.outputs.uses_prior else None,
            context=state.context,
            keys_values=state.keys_values,
        )

    def _score(self, inputs: ScoreInputs, in_place: InPlace | None) -> dict[str, Tensor]:
        x_CW = inputs.x_CW
        queries = inputs.queries if in_place is None else in_place.queries
        attention = self._attention(queries, inputs.context)
        for block, keys_values in zip(self.blocks[:-1], inputs.keys_values[:-1], strict=True):
            x_CW, _ = self._run(block, x_CW, attention, keys_values)
        if in_place is not None and len(in_place.split.in_place):
            held_CW, split = in_place.x_CW, in_place.split
            x_CW = held_CW.new_zeros(len(inputs.prefix_C), held_CW.shape[1]).index_copy(0, split.own, x_CW)
            x_CW = x_CW.index_copy(0, split.in_place, held_CW)
            attention = self._attention(inputs.queries, inputs.context)
        x_CW, _ = self.blocks[-1](x_CW, attention, inputs.keys_values[-1])
        for beside_CW in inputs.beside:
            x_CW = x_CW + beside_CW
        logits: dict[str, Tensor] = self.outputs(x_CW, inputs.prior_CP, inputs.slot_C)
        return logits

    def _prefix(self, state: KVCache, batch: PackedBatch) -> Tensor:
        """(C) context tokens of its sequence that each candidate sees."""
        prefix_C: Tensor = self.event_tokens * batch.candidates.prefix + state.num_prefix_tokens
        return prefix_C

    def _candidates(self, state: KVCache, batch: PackedBatch, items_IW: Tensor) -> Tensor:
        """(C, W) vectors of the candidates."""
        c = batch.candidates
        x_CW: Tensor = items_IW[c.item] + self.encoding(self.event_tokens * c.prefix, c.request, c.gap)
        if self.config.organization == "action":
            x_CW = x_CW + self.mask_action
        context_CW = self.inputs.of_candidates(c)
        x_CW = x_CW if context_CW is None else x_CW + context_CW
        if state.user_BW is None or state.num_prefix_tokens:
            return x_CW
        return x_CW + per_token(state.user_BW, c.offsets, len(c.item))

    def _input(self, x_NW: Tensor, position_N: Tensor) -> Tensor:
        """(N, W) input of the first block. position_N: positions as queries: under HSTU's bias a past item token has
        the position that it had as a candidate, so that it can predict in place."""
        if self.scaled_input is not None:
            x_NW = self.scaled_input(x_NW, position_N)
        if self.input_norm is not None:
            x_NW = self.input_norm(x_NW)
        dropped: Tensor = self.input_dropout(x_NW)
        return dropped

    def _item_tokens(self, batch: PackedBatch, state: KVCache) -> Tensor:
        """(T) the context token of every history event's item."""
        history = batch.history
        begin_T = per_token(state.context.offsets[:-1], history.offsets, len(history.item))
        token_T: Tensor = begin_T + state.num_prefix_tokens + self.event_tokens * history.position
        return token_T

    def _attention(self, queries: Queries, context: Tokens) -> Attention:
        return self.attention(queries, context, self.scoring)


def _split(c: Candidates) -> CandidateSplit:
    """Split by sorting: the host knows the numbers, so that no mask has to be counted on the device."""
    is_held_C = c.in_history >= 0
    num_own = int((~is_held_C).sum()) if c.num_copies is None else c.num_copies
    order = torch.argsort(is_held_C, stable=True)
    return CandidateSplit(order[:num_own], order[num_own:])


def _own_queries(c: Candidates, prefix_C: Tensor, split: CandidateSplit) -> Queries:
    """The candidates that have a separate token, as queries."""
    counted = torch.cat([c.offsets.new_zeros(1), (c.in_history < 0).cumsum(0)])
    prefix, time = prefix_C[split.own], c.time[split.own]
    return Queries(Tokens(counted[c.offsets], prefix, time), prefix, time)
