"""The backend on Triton kernels (triton_kernels.py): jagged, softmax or SiLU, any bias, exact gradients.

Which tokens each query sees is passed to the kernels as tables of blocks. Building them copies nothing to the host: the
host knows a bound on their number, and surplus rows are empty. A causal history needs no separate term for the query
itself: each token is also a key of the context, so its prefix is one longer.

On CPU tensors the kernels run in Triton's interpreter, if TRITON_INTERPRET=1 was set before they were imported.
Shapes as in attention.py; K blocks.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from genrank.nn.attention import (
    TIME_BUCKETS,
    DistanceBias,
    LearnedBias,
    Queries,
    Scoring,
    Tokens,
    seconds_from_latest,
)
from genrank.nn.triton_tiles import MAX_CHANNELS, Tile, Tiles, pieces, tiles_for

TABLE_PROGRAMS = 512  # each holds a copy of the learned tables' gradient
SECTION = 8192  # context tokens whose keys and values, 24 MiB at width 768 in bf16, fit into half of an H100's cache


@dataclass(frozen=True)
class _Inputs:
    """The tensors of one call, as the kernels take them."""

    q_QHD: Tensor
    k_THD: Tensor
    v_THD: Tensor
    own_k_QHD: Tensor
    own_v_QHD: Tensor
    position_P: Tensor
    time_table: Tensor

    @property
    def strides(self) -> list[int]:
        """Strides of rows and heads, tensor by tensor."""
        return [
            x.stride(d) for x in (self.q_QHD, self.k_THD, self.v_THD, self.own_k_QHD, self.own_v_QHD) for d in (0, 1)
        ]


class TritonAttention:
    """See Attention. fp32 and bf16 (or fp16), up to 128 channels a head."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        self.queries, self.context, self.scoring = queries, context, scoring
        self.merges_own = queries.sees_itself and not queries.causal
        self.prefix_Q = queries.prefix + 1 if queries.causal else queries.prefix
        self._query_blocks: dict[int, Tensor] = {}
        self._key_blocks: dict[int, Tensor] = {}
        self._places: dict[bool, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        q_QHD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        own_k_QHD: Tensor,
        own_v_QHD: Tensor,
        learned: LearnedBias | None = None,
    ) -> Tensor:
        """See Attention. ValueError if a head has too many channels."""
        if q_QHD.shape[-1] > MAX_CHANNELS:
            raise ValueError(
                f"the attention backend 'triton' takes heads of up to {MAX_CHANNELS} channels, not {q_QHD.shape[-1]}; "
                "set num_heads higher or attention=plain"
            )
        dtype = torch.float32 if q_QHD.device.type == "cpu" else q_QHD.dtype  # the interpreter has no bf16 arithmetic
        inputs = (x.to(dtype) for x in (q_QHD, k_THD, v_THD, own_k_QHD, own_v_QHD))
        tables = (None, None) if learned is None else (learned.position, learned.time)
        out: Tensor = _Attend.apply(self, *inputs, *tables)  # type: ignore[no-untyped-call]
        return out.to(q_QHD.dtype)

    def places(self, *, by_time: bool) -> tuple[Tensor, Tensor]:
        """(4, Q) and (2, T) int32 of queries and keys: see triton_kernels.py. Without `by_time` times are 0."""
        if by_time not in self._places:
            at_Q, at_T = self.queries.tokens.position, self.context.position
            zero_Q, zero_T = torch.zeros_like(at_Q), torch.zeros_like(at_T)
            times = seconds_from_latest(self.queries, self.context) if by_time else (zero_Q, zero_Q, zero_T)
            of_query = torch.stack([self.prefix_Q, _bits(at_Q), times[0], times[1]]).int()
            self._places[by_time] = of_query, torch.stack([_bits(at_T), times[2]]).int()
        return self._places[by_time]

    def query_blocks(self, size: int) -> Tensor:
        """(K, 3) int32: first row, end of the sequence's rows, the sequence's first context token."""
        if size not in self._query_blocks:
            offsets = self.queries.tokens.offsets
            sequence_K, begin_K = _blocks(offsets, len(self.prefix_Q), size)
            end_K = offsets[1:][sequence_K]
            last_K = torch.minimum(begin_K + size, end_K) - 1
            work_K = (
                self._seen[last_K.clamp_min(0)] % self._radix
            )  # empty blocks end at once, in any place of the order
            context_K = self.context.offsets[:-1][sequence_K]
            table_K3 = torch.stack([begin_K, end_K, context_K], dim=1)
            self._query_blocks[size] = _ordered(table_K3, work_K, context_K, self._most_work)
        return self._query_blocks[size]

    def key_blocks(self, size: int) -> Tensor:
        """(K, 6) int32: first key, the sequence's first key and end, first query that sees any of the block, first
        query from which on all see the whole block, end of the sequence's queries."""
        if size not in self._key_blocks:
            offsets, query_offsets = self.context.offsets, self.queries.tokens.offsets
            sequence_K, begin_K = _blocks(offsets, len(self.context.position), size)
            context_K, end_K = offsets[:-1][sequence_K], offsets[1:][sequence_K]
            before_K = sequence_K * self._radix + begin_K - context_K
            end_query_K = query_offsets[1:][sequence_K]
            first_K = torch.minimum(torch.searchsorted(self._seen, before_K, right=True), end_query_K)
            whole_query_K = torch.searchsorted(self._seen_from_here_on, before_K + size)
            table_K6 = torch.stack([begin_K, context_K, end_K, first_K, whole_query_K, end_query_K], dim=1)
            self._key_blocks[size] = _ordered(table_K6, end_query_K - first_K, context_K, self._most_work)
        return self._key_blocks[size]

    @property
    def _most_work(self) -> int:
        """An upper bound on the difference of work between blocks, in keys or queries."""
        return len(self.context.position) + len(self.prefix_Q) + 2

    @property
    def _radix(self) -> int:
        return len(self.context.position) + 1

    @cached_property
    def _sees(self) -> Tensor:
        """(Q) sequence times radix plus prefix."""
        row_Q = torch.arange(len(self.prefix_Q), device=self.prefix_Q.device)
        sequence_Q = torch.searchsorted(self.queries.tokens.offsets[1:], row_Q, right=True)
        return sequence_Q * self._radix + self.prefix_Q

    @cached_property
    def _seen(self) -> Tensor:
        """(Q) the largest `_sees` up to the query: non-decreasing over the whole batch."""
        return self._sees.cummax(0).values

    @cached_property
    def _seen_from_here_on(self) -> Tensor:
        """(Q) the smallest `_sees` from the query on: non-decreasing too."""
        return self._sees.flip(0).cummin(0).values.flip(0)

    def forward(self, x: _Inputs, *, learned: bool) -> tuple[Tensor, Tensor]:
        """(Q, H, D) outputs and (H, Q) log-sum-exps in base 2, which are empty for SiLU."""
        num_queries, num_heads, channels = x.q_QHD.shape
        out_QHD = x.q_QHD.new_empty(num_queries, num_heads, channels)
        z_HQ = _per_query(x.q_QHD, empty=self.scoring.weighting == "silu")
        tile = _tiles(x, learned=learned).forward
        blocks = self.query_blocks(tile.queries)
        _kernels().forward_kernel[(len(blocks) * num_heads,)](
            x.q_QHD,
            x.k_THD,
            x.v_THD,
            x.own_k_QHD,
            x.own_v_QHD,
            out_QHD,
            z_HQ,
            *self._tables(blocks, x),
            *x.strides,
            *self._sizes(x),
            **self._flags(x, tile, learned=learned),
            SELF=self.merges_own,
        )
        return out_QHD, z_HQ

    def query_gradient(
        self, x: _Inputs, out_QHD: Tensor, z_HQ: Tensor, d_out_QHD: Tensor, *, learned: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Gradients of q, own k and own v (None without a term of the query), and (H, Q) delta, empty for SiLU."""
        d_q, d_own_k, d_own_v = (
            torch.empty_like(out_QHD) if used else None for used in (True, self.merges_own, self.merges_own)
        )
        delta_HQ, tile = torch.empty_like(z_HQ), _tiles(x, learned=learned).query_gradient
        blocks = self.query_blocks(tile.queries)
        _kernels().query_gradient_kernel[(len(blocks) * x.q_QHD.shape[1],)](
            x.q_QHD,
            x.k_THD,
            x.v_THD,
            x.own_k_QHD,
            x.own_v_QHD,
            out_QHD,
            d_out_QHD,
            z_HQ,
            delta_HQ,
            d_q,
            d_own_k,
            d_own_v,
            *self._tables(blocks, x),
            *x.strides,
            *self._sizes(x),
            **self._flags(x, tile, learned=learned),
            SELF=self.merges_own,
        )
        assert d_q is not None
        return d_q, d_own_k, d_own_v, delta_HQ

    def key_gradient(
        self, x: _Inputs, z_HQ: Tensor, delta_HQ: Tensor, d_out_QHD: Tensor, *, learned: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of k and v."""
        d_k, d_v = (x.new_empty(x.shape) for x in (x.k_THD, x.v_THD))
        tile = _tiles(x, learned=learned).key_gradient
        blocks = self.key_blocks(tile.keys)
        _kernels().key_gradient_kernel[(len(blocks) * x.q_QHD.shape[1],)](
            x.q_QHD,
            x.k_THD,
            x.v_THD,
            d_out_QHD,
            z_HQ,
            delta_HQ,
            d_k,
            d_v,
            *self._tables(blocks, x),
            *x.strides[:6],
            *self._sizes(x),
            **self._flags(x, tile, learned=learned),
        )
        return d_k, d_v

    def table_gradient(self, x: _Inputs, z_HQ: Tensor, delta_HQ: Tensor, d_out_QHD: Tensor) -> tuple[Tensor, Tensor]:
        """(P), (TIME_BUCKETS) float32 gradients of the learned tables."""
        tile, num_positions = _tiles(x, learned=True).table_gradient, len(x.position_P)
        blocks = self.query_blocks(tile.queries)
        num_programs = min(len(blocks), TABLE_PROGRAMS)
        partial = z_HQ.new_zeros(num_programs, num_positions + TIME_BUCKETS)
        num_queries, num_keys, _, scale, share = self._sizes(x)
        flags = self._flags(x, tile, learned=True)
        del flags["LEARNED"], flags["LINEAR"]
        _kernels().table_gradient_kernel[(num_programs,)](
            x.q_QHD,
            x.k_THD,
            x.v_THD,
            x.own_k_QHD,
            x.own_v_QHD,
            d_out_QHD,
            z_HQ,
            delta_HQ,
            partial,
            *self._tables(blocks, x),
            *x.strides,
            num_queries,
            num_keys,
            num_positions,
            len(blocks),
            partial.stride(0),
            scale,
            share,
            **flags,
            SELF=self.merges_own,
            ATOMIC=not torch.are_deterministic_algorithms_enabled(),
        )
        summed = partial.sum(0)
        return summed[:num_positions], summed[num_positions:]

    def _tables(self, blocks: Tensor, x: _Inputs) -> list[Tensor]:
        bias = self.scoring.bias
        places = self.places(by_time=bias.uses_time or len(x.time_table) > 0)
        return [blocks, *places, _slopes(bias, x.q_QHD.device), x.position_P, x.time_table]

    def _sizes(self, x: _Inputs) -> tuple[int, int, int, float, float]:
        scale, share = self.scoring.scale(x.q_QHD.shape[-1]), 1 / self.scoring.normalizer
        return len(x.q_QHD), len(x.k_THD), len(x.position_P), scale, share

    def _flags(self, x: _Inputs, tile: Tile, *, learned: bool) -> dict[str, Any]:
        num_heads, channels = x.q_QHD.shape[1:]
        first, second = pieces(channels)
        bias, silu = self.scoring.bias, self.scoring.weighting == "silu"
        by_position = any(bias.position_slopes)
        return {
            "SILU": silu,
            "LINEAR": by_position and not silu and self.queries.sees_itself,  # a bias per key alone
            "BY_POSITION": by_position,
            "BY_TIME": bias.uses_time,
            "LEARNED": learned,
            "H": num_heads,
            "D": channels,
            "D0": first,
            "D1": second,
            "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
            "M": tile.queries,
            "N": tile.keys,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        }


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(saved, plan, q, k, v, own_k, own_v, position, time):  # type: ignore[no-untyped-def]
        learned = position is not None
        if not learned:
            position = time = q.new_empty(0, dtype=torch.float32)
        elif q.dtype.itemsize == 2:  # tables in 16 bits: with 32 bits there would be less shared memory for keys
            position, time = position.half(), time.half()
        tensors = [t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v, own_k, own_v, position, time)]
        x = _Inputs(*tensors)
        out, z = plan.forward(x, learned=learned) if len(q) else (torch.zeros_like(q), _per_query(q, empty=False))
        saved.plan, saved.learned = plan, learned
        saved.save_for_backward(*tensors, out, z)
        return out

    @staticmethod
    def backward(saved, d_out):  # type: ignore[no-untyped-def]
        *tensors, out, z = saved.saved_tensors  # read once: with `recompute` they can be read only once
        plan, learned, x = saved.plan, saved.learned, _Inputs(*tensors)
        if len(out) == 0:
            return None, *(torch.zeros_like(t) for t in tensors[:5]), None, None
        d_out = d_out.contiguous()
        d_q, d_own_k, d_own_v, delta = plan.query_gradient(x, out, z, d_out, learned=learned)
        d_k, d_v = plan.key_gradient(x, z, delta, d_out, learned=learned)
        d_position = d_time = None
        if learned and any(saved.needs_input_grad[-2:]):
            d_position, d_time = plan.table_gradient(x, z, delta, d_out)
        return None, d_q, d_k, d_v, d_own_k, d_own_v, d_position, d_time


def _kernels() -> ModuleType:
    """Imported on first use, because Triton is not installed everywhere."""
    from genrank.nn import triton_kernels

    return triton_kernels


def _bits(position_N: Tensor) -> Tensor:
    """Positions as the bits of float32, exact up to 2^24, in an int32 tensor: kernels then need no conversion."""
    return position_N.float().view(torch.int32)


def _blocks(offsets: Tensor, num_rows: int, size: int) -> tuple[Tensor, Tensor]:
    """(K) sequence and first row of every block of up to `size` rows; surplus ones begin where the last ends."""
    counts_B = (offsets.diff() + size - 1) // size
    ends_B = counts_B.cumsum(0)
    index_K = torch.arange(num_rows // size + len(counts_B), device=offsets.device)
    sequence_K = torch.searchsorted(ends_B, index_K, right=True).clamp_max(len(counts_B) - 1)
    begin_K = offsets[:-1][sequence_K] + (index_K - (ends_B - counts_B)[sequence_K]) * size
    return sequence_K, torch.minimum(begin_K, offsets[1:][sequence_K])


def _ordered(table: Tensor, work_K: Tensor, context_K: Tensor, most_work: int) -> Tensor:
    """Blocks in sections of SECTION context tokens; within a section longest work first, so that no long one is last.

    Programs that run at the same time then read the same keys, which stay in the cache.
    """
    order_K = torch.sub(work_K, context_K // SECTION, alpha=most_work).argsort(descending=True, stable=True)
    return table[order_K].int()


def _per_query(q_QHD: Tensor, *, empty: bool) -> Tensor:
    """(H, Q) float32."""
    num_queries, num_heads = q_QHD.shape[:2]
    return torch.empty(num_heads, 0 if empty else num_queries, dtype=torch.float32, device=q_QHD.device)


@cache
def _slopes(bias: DistanceBias, device: torch.device) -> Tensor:
    """(2, H) by position, by time."""
    return torch.tensor([bias.position_slopes, bias.time_slopes], dtype=torch.float32, device=device)


def _tiles(x: _Inputs, *, learned: bool) -> Tiles:
    return tiles_for(x.q_QHD.device, x.q_QHD.dtype, x.q_QHD.shape[-1], learned=learned)
