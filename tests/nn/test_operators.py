"""The C++ kernels as operators of PyTorch: schemas, shapes without data, gradients, compiling, export, the profiler."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genrank.nn import dropout
from genrank.nn.attention import TIME_BUCKETS, LearnedBias, Queries, Scoring, Tokens, alibi
from genrank.nn.native.library import load
from genrank.nn.native_attention import NativeAttention
from genrank.training import optimizers

pytestmark = pytest.mark.skipif(load() is None, reason="no C++ compiler")
HISTORY, CANDIDATES, HEADS, CHANNELS, POSITIONS = (9, 0, 4), (2, 1, 3), 2, 8, 16


def offsets(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def layer(*, causal: bool, silu: bool, learned: bool) -> tuple[NativeAttention, list[Tensor | None]]:
    """A layer's attention, and its inputs: q, k, v, own k and v, the learned tables."""
    random = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).requires_grad_()

    position = torch.cat([torch.arange(n) for n in HISTORY])
    context = Tokens(offsets(HISTORY), position, 1000 + 60 * position)
    queries = Queries(context, position, context.time + 60, causal=True)
    if not causal:
        prefix = torch.tensor([9, 5, 0, 4, 4, 2])
        tokens = Tokens(offsets(CANDIDATES), prefix, 2000 + 60 * prefix)
        queries = Queries(tokens, prefix, tokens.time)
    scoring = Scoring(alibi(HEADS, "none" if learned else "both"), "silu" if silu else "softmax", 20.0)
    num_queries, num_keys = len(queries.prefix), len(position)
    shapes = [(num_queries, HEADS, CHANNELS), *[(num_keys, HEADS, CHANNELS)] * 2]
    inputs: list[Tensor | None] = [leaf(*shape) for shape in shapes]
    inputs += [None, None] if causal else [leaf(*shapes[0]) for _ in range(2)]
    inputs += [leaf(POSITIONS), leaf(TIME_BUCKETS)] if learned else [None, None]
    return NativeAttention(queries, context, scoring), inputs


def arguments(attention: NativeAttention, inputs: list[Tensor | None]) -> tuple[Any, ...]:
    scoring = attention.scoring
    return (
        *inputs,
        *attention.layout,
        *attention.slopes,
        scoring.scale(CHANNELS),
        scoring.normalizer,
        scoring.weighting == "silu",
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("silu", "learned"), [(False, False), (True, True), (False, True)])
def test_attention_is_an_operator_with_shapes_and_gradients(causal: bool, silu: bool, learned: bool) -> None:
    attention, inputs = layer(causal=causal, silu=silu, learned=learned)
    given = arguments(attention, inputs)
    torch.library.opcheck(torch.ops.genrank.native_attention.default, given)
    out, logsumexp = torch.ops.genrank.native_attention.default(*given)
    detached = tuple(x.detach() if isinstance(x, Tensor) else x for x in (torch.ones_like(out), out, logsumexp, *given))
    torch.library.opcheck(torch.ops.genrank.native_attention_backward.default, detached)


def test_dropout_is_an_operator_with_shapes_and_gradients() -> None:
    torch.library.opcheck(torch.ops.genrank.native_dropout.default, (torch.randn(5, 7, requires_grad=True), 0.4, 11))


def test_the_update_of_a_table_is_an_operator_that_says_what_it_changes() -> None:
    given = torch.randn(6, 4), torch.zeros(6), torch.tensor([1, 3, 1]), torch.randn(3, 4), 0.1, 0.01, 1e-8
    torch.library.opcheck(optimizers.adagrad_step, given)


class Layer(nn.Module):
    """Candidates' attention with dropout behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, _ = layer(causal=False, silu=False, learned=True)
        self.dropout = dropout.Dropout(0.0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, own_k: Tensor, own_v: Tensor, p: Tensor, t: Tensor) -> Tensor:
        return self.dropout(self.attention(q, k, v, own_k, own_v, LearnedBias(p, t)))


def test_what_pytorch_compiles_and_exports_computes_the_same() -> None:
    module, (_, inputs) = Layer(), layer(causal=False, silu=False, learned=True)
    given = tuple(x for x in inputs if x is not None)
    expected = module(*given)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    found = compiled(*given)
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(out.sum(), given) for out in (found, expected))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    exported = torch.export.export(module, given)
    assert "genrank.native_attention" in str(exported.graph)
    assert torch.equal(exported.module()(*given), expected)


def test_the_profiler_names_both_passes() -> None:
    module, (_, inputs) = Layer(), layer(causal=False, silu=False, learned=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(*(x for x in inputs if x is not None)).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"genrank::native_attention", "genrank::native_attention_backward"} <= names
