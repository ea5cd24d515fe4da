"""The backend in C++ for CPUs: jagged, no padding, no mask, every weighting and bias, memory linear in the context.

Computes in fp32: the bias of a long history is beyond bf16's eight bits. Shapes as in attention.py.
"""

import ctypes
import functools

import torch
from torch import Tensor

from genrank.nn.attention import (
    TIME_BUCKETS,
    LearnedBias,
    Queries,
    Scoring,
    Tokens,
    seconds_from_latest,
    time_bucket,
)
from genrank.nn.native.library import load

_OVERREAD = 64  # the kernel loads whole vectors, so places have this much room behind them


class _Strided(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64))

    @classmethod
    def of(cls, tensor_NHD: Tensor | None) -> "_Strided":
        if tensor_NHD is None:
            return cls(None, 0, 0)
        return cls(tensor_NHD.data_ptr(), tensor_NHD.stride(0), tensor_NHD.stride(1))


_SIZES = ("num_sequences", "num_queries", "num_heads", "channels", "num_positions")
_PLACES: tuple[str, ...] = ("query_offsets", "context_offsets", "prefix", "query_position", "query_time", "next_time")
_PLACES += ("key_position", "key_time")
_INPUTS = ("q", "k", "v", "own_k", "own_v")
_BIASES = ("position_slopes", "time_slopes", "position_table", "time_table", "bucket_begins")
_RESULTS: tuple[str, ...] = ("out", "logsumexp", "d_out", "d_q", "d_k", "d_v", "d_own_k", "d_own_v")
_RESULTS += ("d_position_table", "d_time_table")


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in _PLACES),
        *((name, _Strided) for name in _INPUTS),
        *((name, ctypes.c_void_p) for name in _BIASES),
        ("scale", ctypes.c_float),
        ("normalizer", ctypes.c_float),
        ("silu", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _RESULTS),
    )


@functools.cache
def _bucket_begins() -> Tensor:
    """(TIME_BUCKETS + 1) int32: the first whole second of every bucket, the largest number where there is none."""
    last = 2**31 - 1
    begins = torch.full((TIME_BUCKETS + 1,), last, dtype=torch.int64)
    for bucket in range(TIME_BUCKETS):
        guess = min(int(2.718281828459045 ** (0.301 * bucket)), last)
        near = torch.arange(max(guess - 2, 0), min(guess + 3, last))
        reached = near[time_bucket(near) >= bucket]
        if 0 < len(reached) < len(near) or bucket == 0:
            begins[bucket] = reached[0]
    return begins.int()


class NativeAttention:
    """See Attention. CPU only."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring):
        # A causal query's own term is its context token: one token more, and no term of its own.
        self.sees_itself = queries.sees_itself and not queries.causal
        self.scoring, self.tokens = scoring, context
        self.prefix = _int32(queries.prefix + int(queries.causal))
        self.query_offsets, self.context_offsets = queries.tokens.offsets.contiguous(), context.offsets.contiguous()
        self.query_position, self.key_position = _int32(queries.tokens.position), _int32(context.position)
        self.query_time, self.next_time, self.key_time = map(_int32, seconds_from_latest(queries, context))
        bias = scoring.bias
        self.position_slopes = torch.tensor(bias.position_slopes) if any(bias.position_slopes) else None
        self.time_slopes = torch.tensor(bias.time_slopes) if bias.uses_time else None

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
        own = (own_k_QHD, own_v_QHD) if self.sees_itself else (None, None)
        tables = (None, None) if learned is None else learned
        out: Tensor = _Native.apply(self, q_QHD, k_THD, v_THD, *own, *tables)  # type: ignore[no-untyped-call]
        return out

    @property
    def num_tasks(self) -> int:
        """Tasks of a sequence: its heads are shared out where there are few sequences for the threads."""
        return -(-4 * torch.get_num_threads() // max(len(self.query_offsets) - 1, 1))

    def call(self, inputs: list[Tensor | None], results: dict[str, Tensor | None]) -> _Call:
        """The kernel's arguments: `inputs` are q, k, v, own_k, own_v and the learned tables."""
        q_QHD, tables = inputs[0], inputs[5:]
        assert q_QHD is not None
        places = [_pointer(getattr(self, name)) for name in _PLACES]
        slopes = [_pointer(x) for x in (self.position_slopes, self.time_slopes, *tables)]
        return _Call(
            len(self.query_offsets) - 1,
            *q_QHD.shape,
            0 if tables[0] is None else len(tables[0]),
            *places,
            *map(_Strided.of, inputs[:5]),
            *slopes,
            _bucket_begins().data_ptr(),
            self.scoring.scale(q_QHD.shape[-1]),
            self.scoring.normalizer,
            self.scoring.weighting == "silu",
            torch.get_num_threads(),
            *(_pointer(results.get(name)) for name in _RESULTS),
        )


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(saved, attention, *given):  # type: ignore[no-untyped-def]
        inputs = [None if x is None else _ready(x) for x in given]
        q_QHD = inputs[0]
        assert q_QHD is not None
        out_QHD = torch.empty(q_QHD.shape)
        logsumexp_QH = torch.empty(q_QHD.shape[:2])
        call = attention.call(inputs, {"out": out_QHD, "logsumexp": logsumexp_QH})
        _library().attention_forward(ctypes.byref(call), min(attention.num_tasks, q_QHD.shape[1]))
        saved.save_for_backward(*inputs, out_QHD, logsumexp_QH)
        saved.attention, saved.dtypes = attention, [None if x is None else x.dtype for x in given]
        return out_QHD.to(given[0].dtype)

    @staticmethod
    def backward(saved, d_out_QHD):  # type: ignore[no-untyped-def]
        *inputs, out_QHD, logsumexp_QH = saved.saved_tensors
        groups = min(saved.attention.num_tasks, out_QHD.shape[1])
        tasks = groups * (len(saved.attention.query_offsets) - 1)
        gradients = [None if x is None else torch.empty(x.shape) for x in inputs[:5]]
        tables = [None if x is None else torch.zeros(tasks, len(x), dtype=torch.float64) for x in inputs[5:]]
        results = {"out": out_QHD, "logsumexp": logsumexp_QH, "d_out": d_out_QHD.float().contiguous()}
        call = saved.attention.call(inputs, results | dict(zip(_RESULTS[3:], gradients + tables, strict=True)))
        _library().attention_backward(ctypes.byref(call), groups)
        gradients += [None if x is None else x.sum(0) for x in tables]
        return None, *(g if g is None else g.to(dtype) for g, dtype in zip(gradients, saved.dtypes, strict=True))


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library


def _ready(tensor: Tensor) -> Tensor:
    """fp32 with neighbouring channels."""
    tensor = tensor.float()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _int32(values_N: Tensor) -> Tensor:
    padded = torch.zeros(len(values_N) + _OVERREAD, dtype=torch.int32)
    padded[: len(values_N)] = values_N
    return padded


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
