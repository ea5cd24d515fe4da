"""The backend on PyTorch's FlexAttention: softmax, all sequences in one row, without blocks that no query sees.

The keys are those of the context's tokens and, after them, of the queries. It is for comparison on GPUs, where it is
compiled; on CPU it is not, which builds all scores and is for tests. Shapes as in attention.py; S = T + Q keys.
"""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from genrank.nn.attention import LearnedBias, Queries, Scoring, Tokens, time_bucket


class FlexAttention:
    """See Attention. Softmax only."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        assert scoring.weighting == "softmax"
        self.queries, self.scoring = queries, scoring
        self.merges_own = queries.sees_itself and not queries.causal
        self.num_queries, self.num_context = len(queries.prefix), len(context.position)
        self.compiled = queries.prefix.device.type == "cuda"
        keys = _joined(context, queries.tokens) if self.merges_own else context
        self.position_S, self.time_S = keys.position, keys.time

        self.sequence_Q = _sequence(queries.tokens.offsets, self.num_queries)
        self.prefix_Q = queries.prefix + int(queries.causal)  # a causal token is a key of the context too
        self.sequence_T = _sequence(context.offsets, self.num_context)
        self.index_T = torch.arange(self.num_context, device=context.offsets.device) - context.offsets[self.sequence_T]

    def __call__(
        self,
        q_QHD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        own_k_QHD: Tensor,
        own_v_QHD: Tensor,
        learned: LearnedBias | None = None,
    ) -> Tensor:
        """See Attention."""
        if self.num_context == 0:
            return own_v_QHD + 0 * (q_QHD * own_k_QHD)  # each query sees itself only
        if self.merges_own:
            k_THD, v_THD = torch.cat([k_THD, own_k_QHD]), torch.cat([v_THD, own_v_QHD])
        q, k, v = (x.transpose(0, 1)[None] for x in (q_QHD, k_THD, v_THD))
        attend = _compiled(flex_attention) if self.compiled else flex_attention
        out: Tensor = attend(q, k, v, score_mod=self._score(learned), block_mask=self.mask)
        return out[0].transpose(0, 1)

    @cached_property
    def mask(self) -> BlockMask:
        """Which keys each query sees."""
        prefix_Q, sequence_Q, last = self.prefix_Q, self.sequence_Q, self.num_context - 1
        sequence_T, index_T, num_context = self.sequence_T, self.index_T, self.num_context

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            del batch, head
            token = key.clamp_max(last)
            seen = (sequence_T[token] == sequence_Q[query]) & (index_T[token] < prefix_Q[query])
            return torch.where(key < num_context, seen, key - num_context == query)

        create = _compiled(create_block_mask) if self.compiled else create_block_mask
        block_mask: BlockMask = create(
            sees, None, None, self.num_queries, len(self.position_S), device=str(prefix_Q.device)
        )
        return block_mask

    def _score(self, learned: LearnedBias | None) -> Any:
        position_Q, time_Q = self.queries.tokens.position, self.queries.tokens.time
        next_Q, position_S, time_S = self.queries.next_time, self.position_S, self.time_S
        by_position_H, by_time_H = self._slopes

        def alibi(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            del batch
            distance = (position_Q[query] - position_S[key]).abs()
            minutes = torch.log2(1 + (time_Q[query] - time_S[key]).clamp_min(0).float() / 60)
            return score - by_position_H[head] * distance.float() - by_time_H[head] * minutes

        def with_tables(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            assert learned is not None
            score = alibi(score, batch, head, query, key)
            distance = (position_Q[query] - position_S[key]).abs().clamp_max(len(learned.position) - 1)
            return score + learned.position[distance] + learned.time[time_bucket(next_Q[query] - time_S[key])]

        return alibi if learned is None else with_tables

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor]:
        bias, device = self.scoring.bias, self.prefix_Q.device
        return torch.tensor(bias.position_slopes, device=device), torch.tensor(bias.time_slopes, device=device)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)


def _sequence(offsets: Tensor, num_rows: int) -> Tensor:
    """(N) the sequence of each row."""
    return torch.searchsorted(offsets[1:], torch.arange(num_rows, device=offsets.device), right=True)


def _joined(context: Tokens, own: Tokens) -> Tokens:
    """The context's tokens, and the queries' after them; the offsets are the context's."""
    position, time = torch.cat([context.position, own.position]), torch.cat([context.time, own.time])
    return Tokens(context.offsets, position, time)
