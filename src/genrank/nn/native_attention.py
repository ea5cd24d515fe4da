"""The backend in C++ for CPUs: jagged, no padding, no mask, every weighting and bias, memory linear in the context.

It computes in fp32, because the bias of a long history needs more than bf16's eight bits. Both passes are operators of
PyTorch, `genrank::native_attention` and `genrank::native_attention_backward`, which the profiler, torch.compile and
torch.export see. Shapes as in attention.py.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

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
from genrank.nn.native.library import is_watched, load

Results = dict[str, Tensor | None]  # by the names of _RESULTS
NUM_INPUTS, NUM_NUMBERS = 7, 3  # of the operators, see _ARGUMENTS
_OVERREAD = 64  # elements of padding after positions and times, because the kernel loads whole vectors


class _Strided(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64))

    @classmethod
    def of(cls, tensor_NHD: Tensor | None) -> "_Strided":
        if tensor_NHD is None:
            return cls(None, 0, 0)
        return cls(tensor_NHD.data_ptr(), tensor_NHD.stride(0), tensor_NHD.stride(1))


_SIZES = ("num_sequences", "num_queries", "num_heads", "channels", "num_positions")
_LAYOUT: tuple[str, ...] = ("query_offsets", "context_offsets", "prefix", "query_position", "query_time", "next_time")
_LAYOUT += ("key_position", "key_time")
_INPUTS = ("q", "k", "v", "own_k", "own_v")
_BIASES = ("position_slopes", "time_slopes", "position_table", "time_table", "bucket_begins")
_RESULTS: tuple[str, ...] = ("out", "logsumexp", "d_out", "d_q", "d_k", "d_v", "d_own_k", "d_own_v")
_RESULTS += ("d_position_table", "d_time_table")


class _KernelCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in _LAYOUT),
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
    """(TIME_BUCKETS + 1) int32: the first whole second of every bucket; the largest number if a bucket has none."""
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
        # A causal query is a context token itself: its prefix is one longer, and it has no separate term.
        self.sees_itself = queries.sees_itself and not queries.causal
        self.scoring = scoring
        query_time, next_time, key_time = seconds_from_latest(queries, context)
        prefix, position = queries.prefix + int(queries.causal), queries.tokens.position
        of_tokens = (prefix, position, query_time, next_time, context.position, key_time)
        offsets = (queries.tokens.offsets.contiguous(), context.offsets.contiguous())
        self.layout = [*offsets, *map(_int32, of_tokens)]  # in the order of _LAYOUT
        bias = scoring.bias
        by_position = torch.tensor(bias.position_slopes) if any(bias.position_slopes) else None
        self.slopes = by_position, torch.tensor(bias.time_slopes) if bias.uses_time else None

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
        inputs = (q_QHD, k_THD, v_THD, *own, *(learned or (None, None)))
        scoring = self.scoring
        numbers = (scoring.scale(q_QHD.shape[-1]), scoring.normalizer, scoring.weighting == "silu")
        attend: Any = torch.ops.genrank.native_attention if is_watched() else _DirectAttention.apply
        out_QHD: Tensor = attend(
            *(None if x is None else _ready(x) for x in inputs), *self.layout, *self.slopes, *numbers
        )[0]
        return out_QHD.to(q_QHD.dtype)


# The operators. Both take, in this order, the inputs that have gradients (q, k, v, own k and v, the learned tables),
# the layout, ALiBi's slopes, and numbers. Inputs are in fp32 with contiguous channels.
_ARGUMENTS = ", ".join(
    (
        "Tensor q, Tensor k, Tensor v, Tensor? own_k, Tensor? own_v, Tensor? position_table, Tensor? time_table",
        *(f"Tensor {name}" for name in _LAYOUT),
        "Tensor? position_slopes, Tensor? time_slopes, float scale, float normalizer, bool silu",
    )
)
_OPERATORS = torch.library.Library("genrank", "FRAGMENT")  # type: ignore[no-untyped-call]
_FORWARD = f"native_attention({_ARGUMENTS}) -> (Tensor, Tensor)"
_BACKWARD = f"native_attention_backward(Tensor d_out, Tensor out, Tensor logsumexp, {_ARGUMENTS}) -> Tensor[]"
for _schema in (_FORWARD, _BACKWARD):
    _OPERATORS.define(_schema)  # type: ignore[no-untyped-call]


@torch.library.impl(_OPERATORS, "native_attention", "CPU")
def _forward(*given: Any) -> tuple[Tensor, Tensor]:
    """(Q, H, D) outputs and (Q, H) log-sum-exps, 0 for SiLU."""
    q, layout = given[0], given[NUM_INPUTS:]
    out, logsumexp = torch.empty(q.shape), torch.zeros(q.shape[:2])
    call = _call(given, {"out": out, "logsumexp": logsumexp})
    _library().attention_forward(ctypes.byref(call), min(_num_tasks(layout), q.shape[1]))
    return out, logsumexp


@torch.library.impl(_OPERATORS, "native_attention_backward", "CPU")
def _gradients(d_out: Tensor, out: Tensor, logsumexp: Tensor, *given: Any) -> list[Tensor]:
    """Gradients of the inputs that are not None, in their order."""
    inputs, layout = given[:NUM_INPUTS], given[NUM_INPUTS:]
    groups = min(_num_tasks(layout), out.shape[1])
    num_tasks = groups * (len(layout[0]) - 1)
    gradients = [None if x is None else torch.empty(x.shape) for x in inputs[:5]]
    tables = [None if x is None else torch.zeros(num_tasks, len(x), dtype=torch.float64) for x in inputs[5:]]
    results: Results = {"out": out, "logsumexp": logsumexp, "d_out": d_out.contiguous()}
    call = _call(given, results | dict(zip(_RESULTS[3:], gradients + tables, strict=True)))
    _library().attention_backward(ctypes.byref(call), groups)
    return [x for x in (*gradients, *(None if x is None else x.sum(0).float() for x in tables)) if x is not None]


@torch.library.register_fake("genrank::native_attention", lib=_OPERATORS)  # type: ignore[untyped-decorator]
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:2])


@torch.library.register_fake("genrank::native_attention_backward", lib=_OPERATORS)  # type: ignore[untyped-decorator]
def _(*given: Any) -> list[Tensor]:
    inputs = [x for x in given[3 : 3 + NUM_INPUTS] if x is not None]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:-NUM_NUMBERS])
    ctx.numbers = inputs[-NUM_NUMBERS:]


def _backward(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    out, logsumexp, *given = ctx.saved_tensors
    gradients = torch.ops.genrank.native_attention_backward if is_watched() else _gradients
    found = iter(gradients(d_out, out, logsumexp, *given, *ctx.numbers))
    rest = [None] * (len(given) - NUM_INPUTS + NUM_NUMBERS)
    return *(None if x is None else next(found) for x in given[:NUM_INPUTS]), *rest


class _DirectAttention(torch.autograd.Function):
    """The same without the dispatcher. (With `setup_context` PyTorch would inspect the signature in every call.)"""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        found = _forward(*given)
        _save(ctx, given, found)
        return found

    backward = staticmethod(_backward)


torch.library.register_autograd("genrank::native_attention", _backward, setup_context=_save, lib=_OPERATORS)


def _call(given: Sequence[Any], results: Results) -> _KernelCall:
    """The kernel's arguments, from an operator's."""
    inputs, layout = given[:NUM_INPUTS], given[NUM_INPUTS : NUM_INPUTS + len(_LAYOUT)]
    slopes, numbers = given[-NUM_NUMBERS - 2 : -NUM_NUMBERS], given[-NUM_NUMBERS:]
    tables = inputs[5:]
    return _KernelCall(
        len(layout[0]) - 1,
        *inputs[0].shape,
        0 if tables[0] is None else len(tables[0]),
        *map(_pointer, layout),
        *map(_Strided.of, inputs[:5]),
        *map(_pointer, (*slopes, *tables)),
        _bucket_begins().data_ptr(),
        *numbers,
        torch.get_num_threads(),
        *(_pointer(results.get(name)) for name in _RESULTS),
    )


def _num_tasks(layout: Sequence[Tensor]) -> int:
    """Tasks per sequence: heads are split over tasks if there are few sequences per thread."""
    return -(-4 * torch.get_num_threads() // max(len(layout[0]) - 1, 1))


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library


def _ready(tensor: Tensor) -> Tensor:
    """The tensor in fp32 with contiguous channels."""
    tensor = tensor.float()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _int32(values_N: Tensor) -> Tensor:
    padded = torch.zeros(len(values_N) + _OVERREAD, dtype=torch.int32)
    padded[: len(values_N)] = values_N
    return padded


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
