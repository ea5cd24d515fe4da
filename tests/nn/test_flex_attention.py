"""FlexAttention's forward pass as written, on CPU; its gradient exists on GPUs only, see benchmarks/gpu.py."""

import pytest
import torch

from genrank.nn.attention import LearnedBias, Queries, ReferenceAttention, Scoring, Tokens, alibi
from genrank.nn.flex_attention import FlexAttention

HEADS, DIM = 2, 8
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def tokens(lengths: list[int]) -> Tokens:
    position = torch.cat([torch.arange(n) for n in lengths])
    return Tokens(torch.tensor([0, *lengths]).cumsum(0), position, position * 90)


def candidates(prefixes: list[list[int]]) -> Queries:
    prefix = torch.tensor([p for of_sequence in prefixes for p in of_sequence])
    time = prefix * 90 + 5
    offsets = torch.tensor([0, *(len(p) for p in prefixes)]).cumsum(0)
    return Queries(Tokens(offsets, prefix, time), prefix, time + 7)


@pytest.mark.parametrize("by", ["position", "both", "none"])
@pytest.mark.parametrize("learned", [False, True], ids=["given", "learned"])
@pytest.mark.parametrize(
    ("lengths", "prefixes"),
    [([5, 0, 40], None), ([5, 0, 40], [[0, 2, 5], [0], [7, 39]]), ([0], [[0, 0]])],
    ids=["history", "candidates", "no-context"],
)
def test_the_output_equals_the_reference(by, learned, lengths, prefixes) -> None:
    context = tokens(lengths)
    if prefixes is None:
        queries = Queries(context, context.position, context.time + 90, causal=True)
    else:
        queries = candidates(prefixes)
    random = torch.Generator().manual_seed(0)
    q, own_k, own_v = (torch.randn(len(queries.prefix), HEADS, DIM, generator=random) for _ in range(3))
    k, v = (torch.randn(len(context.position), HEADS, DIM, generator=random) for _ in range(2))
    if queries.causal:
        own_k, own_v = k, v
    bias = LearnedBias(torch.randn(6, generator=random), torch.randn(129, generator=random)) if learned else None
    ours, reference = (
        backend(queries, context, Scoring(alibi(HEADS, by)))(q, k, v, own_k, own_v, bias)
        for backend in (FlexAttention, ReferenceAttention)
    )
    torch.testing.assert_close(ours, reference, atol=5e-6, rtol=1e-4)
