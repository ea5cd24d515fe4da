"""Attention over a jagged context: one rule, one signature, several backends.

The rule: a query sees the first `prefix` context tokens of its sequence, and itself. For a history token the prefix is
the token's index (causal); for a candidate it is the index at which its request begins. Candidates are not context, so
nothing attends to them. Each query has a key and value for the term of itself.

    softmax   out = Σ_j softmax_j(q·k_j / √D + bias(q, j)) v_j     over j in prefix ∪ {self}
    silu      out = Σ_j silu(q·k_j + bias(q, j)) / N v_j            HSTU, arXiv 2402.17152: N is a constant

The bias is ALiBi's (no parameters) plus, if a layer has one, HSTU's learned table.
A backend is built once per batch from what is the same for all layers (which tokens a query sees, distances) and then
called per layer. Shapes:

    B sequences   Q queries   T context tokens   H heads   D channels of a head   L longest context   M most queries
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from genrank.batch import Candidates, History, LongHistory


@dataclass(frozen=True)
class Tokens:
    """Sequence, position and time of jagged tokens."""

    offsets: Tensor  # (B + 1) int64
    position: Tensor  # (N) int64, for the bias by position
    time: Tensor  # (N) int64 seconds, for the bias by time


@dataclass(frozen=True)
class Queries:
    """Tokens that attend. causal: the queries are the context itself, and a query's prefix is its index.

    If `sees_itself`, no token that a query sees has a larger position than the query: ALiBi by position is then a bias
    per key, which `fused` and `triton` use.
    """

    tokens: Tokens
    prefix: Tensor  # (Q) int64, context tokens of its sequence that the query sees
    next_time: Tensor  # (Q) int64 seconds, of the next token: the learned bias measures times from it
    sees_itself: bool = True  # false where the prefix includes the query (a fully visible history)
    causal: bool = False


FARTHEST = 2**31 - 1  # seconds, 68 years: the largest age of a token


def seconds_from_latest(queries: Queries, context: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Times of the (Q) queries, of their next tokens and of the (T) context tokens, from the latest of their sequence.

    Seconds, at most 0: differences fit into int32, and don't depend on the batch's other sequences.
    """
    sequence_Q, sequence_T = (
        torch.repeat_interleave(tokens.offsets.diff(), output_size=len(tokens.time))
        for tokens in (queries.tokens, context)
    )
    times = ((queries.tokens.time, sequence_Q), (queries.next_time, sequence_Q), (context.time, sequence_T))
    latest_B = torch.zeros_like(context.offsets[1:])
    for time, sequence in times:
        latest_B = latest_B.scatter_reduce(0, sequence, time, "amax")
    query, following, key = ((time - latest_B[sequence]).clamp_min(-FARTHEST) for time, sequence in times)
    return query, following, key


@dataclass(frozen=True)
class DistanceBias:
    """ALiBi (arXiv 2108.12409): per head, minus slope times distance, in positions or in log2(1 + minutes).

    The paper gives neither slopes nor how time enters: slopes 2^(-8h/H) are ALiBi's own, the time's scale is ours.
    """

    position_slopes: tuple[float, ...]  # (H)
    time_slopes: tuple[float, ...]  # (H), 0 where a head has no bias by time

    @property
    def uses_time(self) -> bool:
        """Whether any head is biased by time."""
        return any(slope != 0 for slope in self.time_slopes)

    @property
    def is_zero(self) -> bool:
        """Whether there is no bias at all."""
        return not self.uses_time and not any(self.position_slopes)


def alibi(num_heads: int, by: Literal["position", "time", "both", "none"]) -> DistanceBias:
    """Slopes for `num_heads` heads; `both`: every second head is biased by time."""
    slopes = [2 ** (-8 * (head + 1) / num_heads) for head in range(num_heads)]
    of_time = {"position": (), "none": (), "time": range(num_heads), "both": range(1, num_heads, 2)}[by]
    return DistanceBias(
        position_slopes=tuple(0.0 if by == "none" or h in of_time else slope for h, slope in enumerate(slopes)),
        time_slopes=tuple(slope if h in of_time else 0.0 for h, slope in enumerate(slopes)),
    )


@dataclass(frozen=True)
class Scoring:
    """How scores become attention weights, which depends on the block."""

    bias: DistanceBias
    weighting: Literal["softmax", "silu"] = "softmax"
    normalizer: float = 1.0  # silu: N, the longest context there can be

    def scale(self, channels: int) -> float:
        """The factor of q·k."""
        return 1 / math.sqrt(channels) if self.weighting == "softmax" else 1.0


class LearnedBias(NamedTuple):
    """HSTU's tables of one layer, shared by its heads."""

    position: Tensor  # (P) by distance in tokens; farther ones share the last entry
    time: Tensor  # (TIME_BUCKETS) by bucket of the seconds from the context token to the query's next token


TIME_BUCKETS = 129


def log_minutes(seconds: Tensor) -> Tensor:
    """log2(1 + minutes) of a time difference in seconds; negative ones count as 0."""
    return torch.log2(1 + seconds.clamp_min(0).to(torch.float64) / 60)


def time_bucket(seconds: Tensor) -> Tensor:
    """HSTU's bucket of a time difference: ⌊ln(max(1, |s|)) / 0.301⌋, at most 128."""
    return (torch.log(seconds.abs().clamp_min(1).double()) / 0.301).long().clamp_max(TIME_BUCKETS - 1)


class Attention(Protocol):
    """A backend, built for one batch."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring) -> None: ...

    def __call__(
        self,
        q_QHD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        own_k_QHD: Tensor,
        own_v_QHD: Tensor,
        learned: LearnedBias | None = None,
    ) -> Tensor:
        """(Q, H, D) outputs. k, v: of the context; own_k, own_v: of the queries."""


class ReferenceAttention:
    """The rule, one query at a time, in float64. For reading and for tests."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        self.queries, self.context, self.scoring = queries, context, scoring

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
        rows = []
        query_offsets = self.queries.tokens.offsets.tolist()
        scale = self.scoring.scale(q_QHD.shape[-1])
        for sequence, begin in enumerate(self.context.offsets[:-1].tolist()):
            for i in range(query_offsets[sequence], query_offsets[sequence + 1]):
                seen = slice(begin, begin + int(self.queries.prefix[i]))
                keys, values = k_THD[seen], v_THD[seen]
                position_K, time_K = self.context.position[seen], self.context.time[seen]
                if self.queries.sees_itself:
                    keys, values = torch.cat([keys, own_k_QHD[i : i + 1]]), torch.cat([values, own_v_QHD[i : i + 1]])
                    position_K = torch.cat([position_K, self.queries.tokens.position[i : i + 1]])
                    time_K = torch.cat([time_K, self.queries.tokens.time[i : i + 1]])
                scores_HK = torch.einsum("hd,khd->hk", q_QHD[i].double(), keys.double()) * scale
                scores_HK = scores_HK + self._bias(i, position_K, time_K, learned)
                rows.append(torch.einsum("hk,khd->hd", self._weights(scores_HK), values.double()))
        return torch.stack(rows).to(q_QHD.dtype) if rows else torch.zeros_like(q_QHD)

    def _weights(self, scores_HK: Tensor) -> Tensor:
        if self.scoring.weighting == "softmax":
            return torch.softmax(scores_HK, dim=-1)
        return scores_HK * torch.sigmoid(scores_HK) / self.scoring.normalizer

    def _bias(self, i: int, position_K: Tensor, time_K: Tensor, learned: LearnedBias | None) -> Tensor:
        distance_K = (self.queries.tokens.position[i] - position_K).abs()  # backwards only if history is fully visible
        minutes_K = log_minutes(self.queries.tokens.time[i] - time_K)
        position_H = torch.tensor(self.scoring.bias.position_slopes, dtype=torch.float64)
        time_H = torch.tensor(self.scoring.bias.time_slopes, dtype=torch.float64)
        bias_HK = -position_H[:, None] * distance_K.double() - time_H[:, None] * minutes_K
        if learned is not None:
            bucket_K = time_bucket(self.queries.next_time[i] - time_K)
            bias_HK = bias_HK + learned.position[distance_K.clamp_max(len(learned.position) - 1)]
            bias_HK = bias_HK + learned.time[bucket_K]
        return bias_HK


class Padding:
    """Slots of jagged tokens in a padded (B, L) rectangle, and the mapping in both directions.

    count, width: N and L, which are otherwise read from the device.
    """

    def __init__(self, offsets: Tensor, *, count: int | None = None, width: int | None = None):
        lengths = offsets.diff()
        if width is None:
            width = int(lengths.max()) if len(lengths) else 0
        count = int(offsets[-1]) if count is None else count
        self.num_rows, self.width = len(lengths), width
        column_BL = torch.arange(width, device=offsets.device)
        self.inside_BL = column_BL < lengths[:, None]
        # The slot of token n: after the empty slots of earlier rows.
        skipped_B = width * torch.arange(len(lengths), device=offsets.device) - offsets[:-1]
        skipped_N = torch.repeat_interleave(skipped_B, lengths, output_size=count)
        self.slot_N = torch.arange(count, device=offsets.device) + skipped_N
        # The token of each slot; empty slots read some other token, and are masked.
        self.source_BL = (offsets[:-1, None] + column_BL).clamp_max(max(count - 1, 0)).flatten()

    def pad(self, values_N: Tensor) -> Tensor:
        """(N, …) to (B, L, …). Empty slots hold 0."""
        padded: Tensor = _Pad.apply(values_N, self)  # type: ignore[no-untyped-call]
        return padded

    def unpad(self, values_BL: Tensor) -> Tensor:
        """(B, L, …) to (N, …)."""
        flat: Tensor = _Unpad.apply(values_BL, self)  # type: ignore[no-untyped-call]
        return flat

    def scatter(self, values_N: Tensor) -> Tensor:
        """`pad` without autograd."""
        out = values_N.new_zeros(self.num_rows * self.width, *values_N.shape[1:])
        out[self.slot_N] = values_N
        return out.view(self.num_rows, self.width, *values_N.shape[1:])

    def collect(self, values_BL: Tensor) -> Tensor:
        """`unpad` without autograd."""
        return values_BL.reshape(self.num_rows * self.width, *values_BL.shape[2:])[self.slot_N]


def padding_of(part: History | Candidates | LongHistory) -> Padding:
    """The padding of a batch's tokens, without reading the device if the batch knows its lengths."""
    return Padding(part.offsets, count=len(part.item), width=None if part.lengths is None else part.lengths.most)


# Each is the other's gradient: no accumulation, as a generic index backward would do.
class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(context, values_N, padding):  # type: ignore[no-untyped-def]
        context.padding = padding
        return padding.scatter(values_N)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return context.padding.collect(gradient), None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(context, values_BL, padding):  # type: ignore[no-untyped-def]
        context.padding = padding
        return padding.collect(values_BL)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return context.padding.scatter(gradient), None


class PlainAttention:
    """Padded tensors and ordinary operators, on any device and in the inputs' dtype."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        self.queries, self.context, self.scoring = queries, context, scoring
        self.query_padding = Padding(queries.tokens.offsets, count=len(queries.prefix))
        self.context_padding = Padding(context.offsets, count=len(context.position))
        self.bias_BHML = padded_bias(queries, context, scoring.bias, self.query_padding, self.context_padding)

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
        q, own_k, own_v = (self.query_padding.pad(x).transpose(1, 2) for x in (q_QHD, own_k_QHD, own_v_QHD))
        k, v = (self.context_padding.pad(x).transpose(1, 2) for x in (k_THD, v_THD))
        scale = self.scoring.scale(q_QHD.shape[-1])
        wide = torch.promote_types(q.dtype, torch.float32)  # scores with their bias are beyond bf16's eight bits
        scores_BHML = ((q @ k.transpose(-1, -2)) * scale).to(wide) + self.bias_BHML
        own_BHM1 = ((q * own_k).sum(-1, keepdim=True) * scale).to(wide)
        if learned is not None:
            scores_BHML = scores_BHML + self._learned(learned)[:, None]
            own_BHM1 = own_BHM1 + self._own_learned(learned)
        if not self.queries.sees_itself:
            own_BHM1 = own_BHM1 + MASKED
        if self.scoring.weighting == "softmax":
            weights = torch.softmax(torch.cat([scores_BHML, own_BHM1], dim=-1), dim=-1).to(v.dtype)
            out = weights[..., :-1] @ v + weights[..., -1:] * own_v
        else:
            weights, own = (silu_weights(s).to(v.dtype) for s in (scores_BHML, own_BHM1))
            out = (weights @ v + own * own_v) / self.scoring.normalizer
        return self.query_padding.unpad(out.transpose(1, 2))

    def _learned(self, learned: LearnedBias) -> Tensor:
        """(B, M, L)"""
        distance_BML, bucket_BML = self._indices
        return look_up(learned.position, distance_BML.clamp_max(len(learned.position) - 1)) + look_up(
            learned.time, bucket_BML
        )

    def _own_learned(self, learned: LearnedBias) -> Tensor:
        """(B, 1, M, 1)"""
        bucket_BM = self.query_padding.scatter(time_bucket(self.queries.next_time - self.queries.tokens.time))
        return (learned.position[0] + look_up(learned.time, bucket_BM))[:, None, :, None]

    @cached_property
    def _indices(self) -> tuple[Tensor, Tensor]:
        """(B, M, L) distances in tokens and buckets of time."""
        pad, context_pad, tokens = self.query_padding.scatter, self.context_padding.scatter, self.queries.tokens
        distance_BML = (pad(tokens.position)[..., None] - context_pad(self.context.position)[:, None]).abs()
        seconds_BML = pad(self.queries.next_time)[..., None] - context_pad(self.context.time)[:, None]
        return distance_BML, time_bucket(seconds_BML)


MASKED = -1e30  # finite: a query that sees no context must not become NaN before the term of itself is merged


def silu_weights(scores: Tensor) -> Tensor:
    """silu(scores): 0, with gradient 0, where they are MASKED."""
    return torch.nn.functional.silu(scores)


def look_up(table_P: Tensor, index: Tensor) -> Tensor:
    """table[index] for a small table and a large index: the gradient is one histogram, without index accumulation."""
    found: Tensor = _LookUp.apply(table_P, index)  # type: ignore[no-untyped-call]
    return found


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(saved, table, index):  # type: ignore[no-untyped-def]
        saved.save_for_backward(index)
        saved.size = len(table)
        return table[index]

    @staticmethod
    def backward(saved, gradient):  # type: ignore[no-untyped-def]
        (index,) = saved.saved_tensors
        return gradient.new_zeros(saved.size).index_add_(0, index.flatten(), gradient.flatten()), None


def padded_bias(
    queries: Queries, context: Tokens, bias: DistanceBias, query_padding: Padding, context_padding: Padding
) -> Tensor:
    """(B, H, M, L) float32: ALiBi where a query sees a context token, MASKED elsewhere; H is 1 without ALiBi."""
    prefix_BM = query_padding.scatter(queries.prefix)
    seen_BML = torch.arange(context_padding.width, device=prefix_BM.device) < prefix_BM[..., None]
    if bias.is_zero:
        return torch.where(seen_BML, 0.0, MASKED)[:, None]
    position_BM, position_BL = (
        query_padding.scatter(queries.tokens.position),
        context_padding.scatter(context.position),
    )
    distance_BML = (position_BM[..., None] - position_BL[:, None]).abs().float()
    device = distance_BML.device
    result_BHML = -torch.tensor(bias.position_slopes, device=device)[:, None, None] * distance_BML[:, None]
    if bias.uses_time:
        time_BM, time_BL = query_padding.scatter(queries.tokens.time), context_padding.scatter(context.time)
        minutes_BML = log_minutes(time_BM[..., None] - time_BL[:, None]).float()
        result_BHML -= torch.tensor(bias.time_slopes, device=device)[:, None, None] * minutes_BML[:, None]
    return result_BHML.masked_fill_(~seen_BML[:, None], MASKED)
