# mypy: ignore-errors
# Triton compiles these functions itself; the types of its language are not Python's.
"""The kernels of TritonAttention: forward, gradients of queries, of keys and values, and of the learned tables.

A program computes one block of queries (or of keys) of one sequence and one head. Blocks are rows of a small table,
longest work first; surplus rows are empty. Running maximum, sum and output begin with the query's own term. Scores
are kept in base 2 for softmax (UNIT = log2 e) and as they are for SiLU. A head of D channels is read in two pieces of
D0 + D1 channels, both powers of two, D1 possibly 0, so that 96 channels cost 96. Shapes:

    Q queries   T context tokens   H heads   D channels   M queries of a block   N keys of a block   P positions

Integers come in int32: `of_query` (4, Q) prefix, position, time, next time; `of_key` (2, T) position, time; positions
are the bits of float32, times are relative to one moment. `slopes` (2, H) by position, by time. `position_table` (P)
and `time_table` are the learned bias. `z` (H, Q) is the log-sum-exp of a query's scores, `delta` (H, Q) the inner
product of output and gradient.

LINEAR: softmax, and no query sees a key at a later position. Minus slope times distance is then a term of the key plus
one of the query, which cancels: a score costs one multiply-add, bias and scale together.
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra import libdevice

INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)  # there are none of CUDA's functions then

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
BUCKETS_PER_LOG2: tl.constexpr = tl.constexpr(0.6931471805599453 / 0.301)  # HSTU's buckets of time: ⌊ln(s) / 0.301⌋
FAR: tl.constexpr = tl.constexpr(1e30)  # below minus FAR is who is not seen, so that e^(score - largest) is 0 always


@triton.jit
def _log2(x):
    """CUDA's, to 22 bits, in one instruction where Triton's own takes twenty. x is at least 1."""
    if INTERPRETED:
        return tl.log2(x)
    return libdevice.fast_log2f(x)


@triton.jit
def _sigmoid(x):
    """With CUDA's division to 22 bits."""
    if INTERPRETED:
        return tl.sigmoid(x)
    return libdevice.fast_dividef(1.0, 1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def _load_piece(
    base, row, stride, inside, first: tl.constexpr, width: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr
):
    column = first + tl.arange(0, width)
    address = base + row[:, None] * stride + column[None, :]
    if WHOLE:
        if first + width > D:
            return tl.load(address, mask=(column < D)[None, :], other=0.0)
        return tl.load(address)
    mask = inside[:, None]
    if first + width > D:
        mask = mask & (column < D)[None, :]
    return tl.load(address, mask=mask, other=0.0)


@triton.jit
def _load(base, row, stride, inside, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, WHOLE: tl.constexpr = False):
    """Rows in two pieces; without a second one it is the first again, and unused. If WHOLE, all rows are inside."""
    x0 = _load_piece(base, row, stride, inside, 0, D0, D, WHOLE)
    x1 = _load_piece(base, row, stride, inside, D0, D1, D, WHOLE) if D1 > 0 else x0
    return x0, x1


@triton.jit
def _store_piece(base, row, stride, inside, x, first: tl.constexpr, width: tl.constexpr, D: tl.constexpr):
    column = first + tl.arange(0, width)
    mask = inside[:, None]
    if first + width > D:
        mask = mask & (column < D)[None, :]
    tl.store(base + row[:, None] * stride + column[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _store(base, row, stride, inside, x0, x1, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr):
    _store_piece(base, row, stride, inside, x0, 0, D0, D)
    if D1 > 0:
        _store_piece(base, row, stride, inside, x1, D0, D1, D)


@triton.jit
def _outer(a0, a1, b0, b1, D1: tl.constexpr, PRECISION: tl.constexpr):
    """a bᵀ over the channels."""
    product = tl.dot(a0, tl.trans(b0), input_precision=PRECISION)
    if D1 > 0:
        product = tl.dot(a1, tl.trans(b1), product, input_precision=PRECISION)
    return product


@triton.jit
def _add_product(sum0, sum1, weight, x0, x1, D1: tl.constexpr, PRECISION: tl.constexpr):
    """sum + weight x."""
    weight = weight.to(x0.dtype)
    sum0 = tl.dot(weight, x0, sum0, input_precision=PRECISION)
    if D1 > 0:
        sum1 = tl.dot(weight, x1, sum1, input_precision=PRECISION)
    return sum0, sum1


@triton.jit
def _inner(a0, a1, b0, b1, D1: tl.constexpr):
    """a·b of each row."""
    product = tl.sum(a0.to(tl.float32) * b0.to(tl.float32), 1)
    if D1 > 0:
        product += tl.sum(a1.to(tl.float32) * b1.to(tl.float32), 1)
    return product


@triton.jit
def _query_places(of_query, num_queries, row, inside):
    prefix = tl.load(of_query + row, mask=inside, other=0)
    position = tl.load(of_query + num_queries + row, mask=inside, other=0).to(tl.float32, bitcast=True)
    time = tl.load(of_query + 2 * num_queries + row, mask=inside, other=0)
    next_time = tl.load(of_query + 3 * num_queries + row, mask=inside, other=0)
    return prefix, position, time, next_time


@triton.jit
def _key_places(of_key, num_keys, row, inside, WHOLE: tl.constexpr = False):
    if WHOLE:
        position, time = tl.load(of_key + row), tl.load(of_key + num_keys + row)
    else:
        position = tl.load(of_key + row, mask=inside, other=0)
        time = tl.load(of_key + num_keys + row, mask=inside, other=0)
    return position.to(tl.float32, bitcast=True), time


@triton.jit
def _distance_index(position_q, position_k, num_positions):
    return tl.minimum(tl.abs(position_q.to(tl.int32) - position_k.to(tl.int32)), num_positions - 1)


@triton.jit
def _time_index(next_time, time_k):
    """At most 71 for int32 seconds."""
    seconds = tl.maximum(tl.abs(next_time - time_k), 1).to(tl.float32)
    return (_log2(seconds) * BUCKETS_PER_LOG2).to(tl.int32)


@triton.jit
def _unit(SILU: tl.constexpr):
    return 1.0 if SILU else LOG2_E


@triton.jit
def _slopes(slopes, head, H: tl.constexpr, SILU: tl.constexpr):
    """The head's slopes by position and by time, in units of the scores."""
    unit = _unit(SILU)
    return tl.load(slopes + head) * unit, tl.load(slopes + H + head) * unit


@triton.jit
def _learned(position_q, position_k, time_k, next_time, position_table, time_table, num_positions, SILU: tl.constexpr):
    """The learned bias of every pair, in units of the scores."""
    by_position = tl.load(position_table + _distance_index(position_q, position_k, num_positions))
    by_time = tl.load(time_table + _time_index(next_time, time_k))
    return (by_position.to(tl.float32) + by_time.to(tl.float32)) * _unit(SILU)


@triton.jit
def _biased(
    score,
    factor,
    key_bias,
    position_q,
    position_k,
    time_q,
    time_k,
    next_time,
    by_position,
    by_time,
    position_table,
    time_table,
    num_positions,
    SILU: tl.constexpr,
    LINEAR: tl.constexpr,
    BY_POSITION: tl.constexpr,
    BY_TIME: tl.constexpr,
    LEARNED: tl.constexpr,
):
    """The product times factor, with its bias. Places broadcast against each other: (M, 1) and (1, N), or (1, M) and
    (N, 1)."""
    if LINEAR:
        score = score * factor + key_bias
    else:
        score = score * factor
        if BY_POSITION:
            score -= by_position * tl.abs(position_q - position_k)
    if BY_TIME:
        seconds = tl.maximum(time_q - time_k, 0).to(tl.float32)
        score -= by_time * _log2(1.0 + seconds * (1 / 60))
    if LEARNED:
        score += _learned(position_q, position_k, time_k, next_time, position_table, time_table, num_positions, SILU)
    return score


@triton.jit
def _beyond(by_position, position, reference):
    """The bias by position from a reference to each place: of keys their bias, of queries what all their scores lack.

    Where every key that a query sees stands before it, minus slope times distance is a term of the key and one of the
    query, of which softmax needs the first only.
    """
    return by_position * (position - reference)


@triton.jit
def _own_score(
    q0, q1, own0, own1, time_q, next_time, position_table, time_table, scale, D1: tl.constexpr,
    SILU: tl.constexpr, LEARNED: tl.constexpr,
):  # fmt: skip
    """(M) scores of the queries with themselves: both distances are 0."""
    unit = _unit(SILU)
    score = _inner(q0, q1, own0, own1, D1) * scale * unit
    if LEARNED:
        by_time = tl.load(time_table + _time_index(next_time, time_q))
        score += (tl.load(position_table).to(tl.float32) + by_time.to(tl.float32)) * unit
    return score


@triton.jit
def _weights(score, d_weight, z, delta, visible, share, SILU: tl.constexpr, MASKED: tl.constexpr):
    """Weights, and the gradient of the scores in natural units; if MASKED, both are 0 where not visible."""
    if SILU:
        gate = _sigmoid(score)
        weight = score * gate * share
        d_score = d_weight * share * gate * (1 + score * (1 - gate))
        if MASKED:
            weight, d_score = tl.where(visible, weight, 0.0), tl.where(visible, d_score, 0.0)
    else:
        if MASKED:
            score = tl.where(visible, score, -2 * FAR)
        weight = tl.exp2(score - z)
        d_score = weight * (d_weight - delta)
    return weight, d_score


@triton.jit
def _query_block(blocks, index):
    """First row, the row after the sequence's last, and where the sequence's context begins."""
    return tl.load(blocks + 3 * index), tl.load(blocks + 3 * index + 1), tl.load(blocks + 3 * index + 2)


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_positions"])
def forward_kernel(  # noqa: C901
    q, k, v, own_k, own_v, out, z, blocks, of_query, of_key, slopes, position_table, time_table,
    q_row, q_head, k_row, k_head, v_row, v_head, own_k_row, own_k_head, own_v_row, own_v_head,
    num_queries, num_keys, num_positions, scale, share,
    SILU: tl.constexpr, LINEAR: tl.constexpr, BY_POSITION: tl.constexpr, BY_TIME: tl.constexpr, LEARNED: tl.constexpr,
    SELF: tl.constexpr, H: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """`out` (Q, H, D) and, for softmax, `z` in base 2. `share` is 1 / the normalizer of SiLU."""
    head = (tl.program_id(0) % H).to(tl.int64)  # wide: a head's stride may be all queries
    begin, end, context = _query_block(blocks, tl.program_id(0) // H)
    if begin >= end:
        return
    row = tl.arange(0, M)
    inside = begin + row < end
    prefix, position_q, time_q, next_time = _query_places(of_query, num_queries, begin + row, inside)
    by_position, by_time = _slopes(slopes, head, H, SILU)
    reference = tl.max(position_q)
    lacking = tl.zeros([M], tl.float32)
    if LINEAR:  # not of rows beyond the last: their weights are to be finite
        lacking = tl.where(inside, _beyond(by_position, position_q, reference), lacking)
    begin_wide, context_wide = begin.to(tl.int64), context.to(tl.int64)
    q0, q1 = _load(q + begin_wide * q_row + head * q_head, row, q_row, inside, D, D0, D1)
    k += context_wide * k_row + head * k_head
    v += context_wide * v_row + head * v_head

    out0, out1 = tl.zeros([M, D0], tl.float32), tl.zeros([M, D1 if D1 > 0 else D0], tl.float32)
    largest, total = tl.full([M], -FAR, tl.float32), tl.zeros([M], tl.float32)
    if SELF:
        own_k0, own_k1 = _load(own_k + begin_wide * own_k_row + head * own_k_head, row, own_k_row, inside, D, D0, D1)
        own_v0, own_v1 = _load(own_v + begin_wide * own_v_row + head * own_v_head, row, own_v_row, inside, D, D0, D1)
        own = _own_score(
            q0, q1, own_k0, own_k1, time_q, next_time, position_table, time_table, scale, D1, SILU, LEARNED
        )
        if SILU:
            own_weight = own * _sigmoid(own) * share
        else:
            largest, own_weight = own + lacking, tl.full([M], 1.0, tl.float32)
            total = own_weight
        out0 = own_weight[:, None] * own_v0.to(tl.float32)
        if D1 > 0:
            out1 = own_weight[:, None] * own_v1.to(tl.float32)

    # First the keys that every query of the block sees, then those that some see.
    limit = tl.max(prefix)
    full = tl.min(tl.where(inside, prefix, limit)) // N * N
    for masked in tl.static_range(2):
        low, high = (full, limit) if masked else (0, full)
        for start in range(low, high, N):
            key = start + tl.arange(0, N)
            known = key < limit
            position_k, time_k = _key_places(of_key, num_keys, context + key, known, not masked)
            k0, k1 = _load(k, key, k_row, known, D, D0, D1, not masked)
            v0, v1 = _load(v, key, v_row, known, D, D0, D1, not masked)
            score = _biased(
                _outer(q0, q1, k0, k1, D1, PRECISION), scale * _unit(SILU),
                _beyond(by_position, position_k, reference)[None, :],
                position_q[:, None], position_k[None, :], time_q[:, None], time_k[None, :], next_time[:, None],
                by_position, by_time, position_table, time_table, num_positions,
                SILU, LINEAR, BY_POSITION, BY_TIME, LEARNED,
            )  # fmt: skip
            visible = key[None, :] < prefix[:, None]
            if SILU:
                weight = score * _sigmoid(score) * share
                if masked:
                    weight = tl.where(visible, weight, 0.0)
            else:
                if masked:
                    score = tl.where(visible, score, -2 * FAR)
                new = tl.maximum(largest, tl.max(score, 1))
                weight = tl.exp2(score - new[:, None])
                shrink = tl.exp2(largest - new)
                total = total * shrink + tl.sum(weight, 1)
                out0 = out0 * shrink[:, None]
                if D1 > 0:
                    out1 = out1 * shrink[:, None]
                largest = new
            out0, out1 = _add_product(out0, out1, weight, v0, v1, D1, PRECISION)

    if not SILU:
        sees = total > 0
        total = tl.where(sees, total, 1.0)  # who sees nothing gets 0
        share_M = (1 / total)[:, None]
        out0 = out0 * share_M
        if D1 > 0:
            out1 = out1 * share_M
        z_M = tl.where(sees, largest - lacking + tl.log2(total), 0.0)
        tl.store(z + head * num_queries + begin + row, z_M, mask=inside)
    _store(out + (begin_wide * H + head) * D, row, H * D, inside, out0, out1, D, D0, D1)


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_positions"])
def query_gradient_kernel(
    q, k, v, own_k, own_v, out, d_out, z, delta, d_q, d_own_k, d_own_v,
    blocks, of_query, of_key, slopes, position_table, time_table,
    q_row, q_head, k_row, k_head, v_row, v_head, own_k_row, own_k_head, own_v_row, own_v_head,
    num_queries, num_keys, num_positions, scale, share,
    SILU: tl.constexpr, LINEAR: tl.constexpr, BY_POSITION: tl.constexpr, BY_TIME: tl.constexpr, LEARNED: tl.constexpr,
    SELF: tl.constexpr, H: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """`d_q`, `d_own_k`, `d_own_v` (Q, H, D) and, for softmax, `delta`, which the other gradients need."""
    head = (tl.program_id(0) % H).to(tl.int64)  # wide: a head's stride may be all queries
    begin, end, context = _query_block(blocks, tl.program_id(0) // H)
    if begin >= end:
        return
    row = tl.arange(0, M)
    inside = begin + row < end
    prefix, position_q, time_q, next_time = _query_places(of_query, num_queries, begin + row, inside)
    by_position, by_time = _slopes(slopes, head, H, SILU)
    reference = tl.max(position_q)
    lacking = tl.zeros([M], tl.float32)
    if LINEAR:  # not of rows beyond the last: their weights are to be finite
        lacking = tl.where(inside, _beyond(by_position, position_q, reference), lacking)
    begin_wide, context_wide = begin.to(tl.int64), context.to(tl.int64)
    dense = (begin_wide * H + head) * D
    q0, q1 = _load(q + begin_wide * q_row + head * q_head, row, q_row, inside, D, D0, D1)
    d_out0, d_out1 = _load(d_out + dense, row, H * D, inside, D, D0, D1)
    k += context_wide * k_row + head * k_head
    v += context_wide * v_row + head * v_head

    z_M, delta_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    if not SILU:
        out0, out1 = _load(out + dense, row, H * D, inside, D, D0, D1)
        delta_M = _inner(out0, out1, d_out0, d_out1, D1)
        z_M = tl.load(z + head * num_queries + begin + row, mask=inside, other=0.0)
        tl.store(delta + head * num_queries + begin + row, delta_M, mask=inside)
    d_q0, d_q1 = tl.zeros([M, D0], tl.float32), tl.zeros([M, D1 if D1 > 0 else D0], tl.float32)
    if SELF:
        own_k0, own_k1 = _load(own_k + begin_wide * own_k_row + head * own_k_head, row, own_k_row, inside, D, D0, D1)
        own_v0, own_v1 = _load(own_v + begin_wide * own_v_row + head * own_v_head, row, own_v_row, inside, D, D0, D1)
        own = _own_score(
            q0, q1, own_k0, own_k1, time_q, next_time, position_table, time_table, scale, D1, SILU, LEARNED
        )
        d_own_weight = _inner(d_out0, d_out1, own_v0, own_v1, D1)
        own_weight_M, d_own_M = _weights(own, d_own_weight, z_M, delta_M, inside, share, SILU, True)
        own_weight, d_own = own_weight_M[:, None], d_own_M[:, None]
        d_q0 = d_own * own_k0.to(tl.float32)
        if D1 > 0:
            d_q1 = d_own * own_k1.to(tl.float32)
        _store(d_own_v + dense, row, H * D, inside, own_weight * d_out0, own_weight * d_out1, D, D0, D1)
        _store(d_own_k + dense, row, H * D, inside, d_own * scale * q0, d_own * scale * q1, D, D0, D1)

    z_M += lacking
    limit = tl.max(prefix)
    full = tl.min(tl.where(inside, prefix, limit)) // N * N
    for masked in tl.static_range(2):
        low, high = (full, limit) if masked else (0, full)
        for start in range(low, high, N):
            key = start + tl.arange(0, N)
            known = key < limit
            position_k, time_k = _key_places(of_key, num_keys, context + key, known, not masked)
            k0, k1 = _load(k, key, k_row, known, D, D0, D1, not masked)
            v0, v1 = _load(v, key, v_row, known, D, D0, D1, not masked)
            score = _biased(
                _outer(q0, q1, k0, k1, D1, PRECISION), scale * _unit(SILU),
                _beyond(by_position, position_k, reference)[None, :],
                position_q[:, None], position_k[None, :], time_q[:, None], time_k[None, :], next_time[:, None],
                by_position, by_time, position_table, time_table, num_positions,
                SILU, LINEAR, BY_POSITION, BY_TIME, LEARNED,
            )  # fmt: skip
            d_weight = _outer(d_out0, d_out1, v0, v1, D1, PRECISION)
            visible = key[None, :] < prefix[:, None]
            _, d_score = _weights(score, d_weight, z_M[:, None], delta_M[:, None], visible, share, SILU, masked)
            d_q0, d_q1 = _add_product(d_q0, d_q1, d_score, k0, k1, D1, PRECISION)
    _store(d_q + dense, row, H * D, inside, d_q0 * scale, d_q1 * scale, D, D0, D1)


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_positions"])
def key_gradient_kernel(
    q, k, v, d_out, z, delta, d_k, d_v, blocks, of_query, of_key, slopes, position_table, time_table,
    q_row, q_head, k_row, k_head, v_row, v_head, num_queries, num_keys, num_positions, scale, share,
    SILU: tl.constexpr, LINEAR: tl.constexpr, BY_POSITION: tl.constexpr, BY_TIME: tl.constexpr, LEARNED: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """`d_k`, `d_v` (T, H, D). A block's row: its first key, the sequence's first key and end, the first query that
    sees any of the block, the first from which on all see the whole block, the row after the sequence's last query."""
    head, block = (tl.program_id(0) % H).to(tl.int64), blocks + 6 * (tl.program_id(0) // H)
    begin, context, end = tl.load(block), tl.load(block + 1), tl.load(block + 2)
    first_query, whole_query, end_query = tl.load(block + 3), tl.load(block + 4), tl.load(block + 5)
    if begin >= end:
        return
    row = tl.arange(0, N)
    inside = begin + row < end
    key = begin - context + row
    position_k, time_k = _key_places(of_key, num_keys, begin + row, inside)
    by_position, by_time = _slopes(slopes, head, H, SILU)
    reference = tl.max(position_k)
    key_bias = _beyond(by_position, position_k, reference)
    begin_wide = begin.to(tl.int64)
    k0, k1 = _load(k + begin_wide * k_row + head * k_head, row, k_row, inside, D, D0, D1)
    v0, v1 = _load(v + begin_wide * v_row + head * v_head, row, v_row, inside, D, D0, D1)
    d_k0, d_k1 = tl.zeros([N, D0], tl.float32), tl.zeros([N, D1 if D1 > 0 else D0], tl.float32)
    d_v0, d_v1 = tl.zeros([N, D0], tl.float32), tl.zeros([N, D1 if D1 > 0 else D0], tl.float32)
    query_wide = first_query.to(tl.int64)
    q += query_wide * q_row + head * q_head
    d_out += (query_wide * H + head) * D

    # First the queries some of which don't see all keys of the block, then those that do.
    masked_end = (tl.minimum(whole_query, end_query) - first_query + M - 1) // M * M
    for masked in tl.static_range(1, -1, -1):
        low, high = (0, masked_end) if masked else (masked_end, end_query - first_query)
        for start in range(low, high, M):
            query = start + tl.arange(0, M)
            known = first_query + query < end_query
            prefix, position_q, time_q, next_time = _query_places(of_query, num_queries, first_query + query, known)
            q0, q1 = _load(q, query, q_row, known, D, D0, D1)
            d_out0, d_out1 = _load(d_out, query, H * D, known, D, D0, D1)
            z_M, delta_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
            if not SILU:
                # Rows beyond the last query are zeros, and so add nothing, as long as their weights are finite.
                z_M = tl.load(z + head * num_queries + first_query + query, mask=known, other=FAR if LEARNED else 0.0)
                delta_M = tl.load(delta + head * num_queries + first_query + query, mask=known, other=0.0)
            if LINEAR:
                z_M += _beyond(by_position, position_q if masked else tl.maximum(position_q, reference), reference)
            score = _biased(
                _outer(k0, k1, q0, q1, D1, PRECISION), scale * _unit(SILU), key_bias[:, None],
                position_q[None, :], position_k[:, None], time_q[None, :], time_k[:, None], next_time[None, :],
                by_position, by_time, position_table, time_table, num_positions,
                SILU, LINEAR, BY_POSITION, BY_TIME, LEARNED,
            )  # fmt: skip
            d_weight = _outer(v0, v1, d_out0, d_out1, D1, PRECISION)
            visible = key[:, None] < prefix[None, :]
            weight, d_score = _weights(score, d_weight, z_M[None, :], delta_M[None, :], visible, share, SILU, masked)
            d_v0, d_v1 = _add_product(d_v0, d_v1, weight, d_out0, d_out1, D1, PRECISION)
            d_k0, d_k1 = _add_product(d_k0, d_k1, d_score, q0, q1, D1, PRECISION)
    dense = (begin_wide * H + head) * D
    _store(d_k + dense, row, H * D, inside, d_k0 * scale, d_k1 * scale, D, D0, D1)
    _store(d_v + dense, row, H * D, inside, d_v0, d_v1, D, D0, D1)


@triton.jit
def _scatter(target, index, value, visible, ATOMIC: tl.constexpr):
    """target[index] += value, 0 where not visible; in a fixed order if not ATOMIC, one slot after another."""
    if ATOMIC:
        tl.atomic_add(target + index, value, mask=visible, sem="relaxed")
    else:
        first = tl.min(tl.where(visible, index, 2147483647))
        last = tl.max(tl.where(visible, index, -1))
        for slot in range(first, last + 1):
            added = tl.sum(tl.where(index == slot, value, 0.0))
            tl.store(target + slot, tl.load(target + slot) + added)
            tl.debug_barrier()  # the next load of this slot is another thread's


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_positions", "num_blocks"])
def table_gradient_kernel(
    q, k, v, own_k, own_v, d_out, z, delta, partial, blocks, of_query, of_key, slopes, position_table, time_table,
    q_row, q_head, k_row, k_head, v_row, v_head, own_k_row, own_k_head, own_v_row, own_v_head,
    num_queries, num_keys, num_positions, num_blocks, partial_row, scale, share,
    SILU: tl.constexpr, BY_POSITION: tl.constexpr, BY_TIME: tl.constexpr, SELF: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """`partial` (programs, P + buckets of time): each program's share of the tables' gradients.

    The tables are the heads' in common, so a program adds up the score gradients of all heads before it scatters them
    to the program's own row: a scattered add is far dearer than the two products it takes to have them again.
    """
    of_position = partial + tl.program_id(0).to(tl.int64) * partial_row
    of_time = of_position + num_positions
    for index in range(tl.program_id(0), num_blocks, tl.num_programs(0)):
        begin, end, context = _query_block(blocks, index)
        row = tl.arange(0, M)
        inside = begin + row < end
        prefix, position_q, time_q, next_time = _query_places(of_query, num_queries, begin + row, inside)
        begin_wide, context_wide = begin.to(tl.int64), context.to(tl.int64)
        limit = tl.max(prefix)
        for start in range(0, limit, N):
            key = start + tl.arange(0, N)
            known = key < limit
            position_k, time_k = _key_places(of_key, num_keys, context + key, known)
            visible = key[None, :] < prefix[:, None]
            learned = _learned(
                position_q[:, None], position_k[None, :], time_k[None, :], next_time[:, None],
                position_table, time_table, num_positions, SILU,
            )  # fmt: skip
            total = tl.zeros([M, N], tl.float32)
            for head in range(H):
                by_position, by_time = _slopes(slopes, head, H, SILU)
                q0, q1 = _load(q + begin_wide * q_row + head * q_head, row, q_row, inside, D, D0, D1)
                d_out0, d_out1 = _load(d_out + (begin_wide * H + head) * D, row, H * D, inside, D, D0, D1)
                k0, k1 = _load(k + context_wide * k_row + head * k_head, key, k_row, known, D, D0, D1)
                v0, v1 = _load(v + context_wide * v_row + head * v_head, key, v_row, known, D, D0, D1)
                z_M, delta_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
                if not SILU:
                    z_M = tl.load(z + head * num_queries + begin + row, mask=inside, other=0.0)
                    delta_M = tl.load(delta + head * num_queries + begin + row, mask=inside, other=0.0)
                score = _biased(
                    _outer(q0, q1, k0, k1, D1, PRECISION), scale * _unit(SILU), 0.0,
                    position_q[:, None], position_k[None, :], time_q[:, None], time_k[None, :], next_time[:, None],
                    by_position, by_time, position_table, time_table, num_positions,
                    SILU, False, BY_POSITION, BY_TIME, False,
                )  # fmt: skip
                d_weight = _outer(d_out0, d_out1, v0, v1, D1, PRECISION)
                _, d_score = _weights(
                    score + learned, d_weight, z_M[:, None], delta_M[:, None], visible, share, SILU, True
                )
                total += d_score
            distance = _distance_index(position_q[:, None], position_k[None, :], num_positions)
            _scatter(of_position, distance, total, visible, ATOMIC)
            _scatter(of_time, _time_index(next_time[:, None], time_k[None, :]), total, visible, ATOMIC)
        if SELF:
            own_total = tl.zeros([M], tl.float32)
            for head in range(H):
                q0, q1 = _load(q + begin_wide * q_row + head * q_head, row, q_row, inside, D, D0, D1)
                d_out0, d_out1 = _load(d_out + (begin_wide * H + head) * D, row, H * D, inside, D, D0, D1)
                base_k, base_v = own_k + begin_wide * own_k_row, own_v + begin_wide * own_v_row
                own_k0, own_k1 = _load(base_k + head * own_k_head, row, own_k_row, inside, D, D0, D1)
                own_v0, own_v1 = _load(base_v + head * own_v_head, row, own_v_row, inside, D, D0, D1)
                z_M, delta_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
                if not SILU:
                    z_M = tl.load(z + head * num_queries + begin + row, mask=inside, other=0.0)
                    delta_M = tl.load(delta + head * num_queries + begin + row, mask=inside, other=0.0)
                own = _own_score(
                    q0, q1, own_k0, own_k1, time_q, next_time, position_table, time_table, scale, D1, SILU, True
                )
                d_own_weight = _inner(d_out0, d_out1, own_v0, own_v1, D1)
                _, d_own = _weights(own, d_own_weight, z_M, delta_M, inside, share, SILU, True)
                own_total += d_own
            _scatter(of_position, tl.zeros([M], tl.int32), own_total, inside, ATOMIC)
            _scatter(of_time, _time_index(next_time, time_q), own_total, inside, ATOMIC)
