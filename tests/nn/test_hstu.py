"""HSTU's layer against the equations of arXiv 2402.17152, written out one pair at a time in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from genrank.nn.attention import PlainAttention, Queries, ReferenceAttention, Scoring, Tokens, alibi
from genrank.nn.blocks import HSTUBlock, RelativeBias

WIDTH, HEADS, LENGTH, NORMALIZER = 12, 3, 9, 40.0


def layer_by_the_equations(
    x: torch.Tensor, time: torch.Tensor, next_time: torch.Tensor, block: HSTUBlock, relative: RelativeBias
) -> torch.Tensor:
    """One causal sequence: y_i = W_o (U_i ⊙ norm(Σ_j≤i silu(q_i·k_j + rab_ij) v_j / N)) + x_i."""
    normed = F.layer_norm(x, (WIDTH,), eps=1e-6)
    gate, query = F.silu(normed @ block.gate_query.weight.T).split(WIDTH, dim=1)
    key, value = F.silu(normed @ block.key_value.weight.T).split(WIDTH, dim=1)
    per_head = WIDTH // HEADS
    rows = []
    for i in range(len(x)):
        attended = torch.zeros(WIDTH, dtype=torch.float64)
        for head in range(HEADS):
            channels = slice(head * per_head, (head + 1) * per_head)
            for j in range(i + 1):
                seconds = abs(int(next_time[i]) - int(time[j]))
                bucket = min(int(math.log(max(1, seconds)) / 0.301), 128)
                score = query[i, channels] @ key[j, channels] + relative.position[i - j] + relative.time[bucket]
                attended[channels] += score * torch.sigmoid(score) / NORMALIZER * value[j, channels]
        gated = gate[i] * F.layer_norm(attended, (WIDTH,), eps=1e-6)
        rows.append(block.out.weight @ gated + block.out.bias + x[i])
    return torch.stack(rows)


@pytest.mark.parametrize("backend", [ReferenceAttention, PlainAttention])
def test_the_block_equals_the_equations_within_1e_10(backend: type) -> None:
    torch.manual_seed(0)
    relative = RelativeBias(LENGTH + 1)
    block = HSTUBlock(WIDTH, HEADS, dropout=0.0, relative=relative).double()
    with torch.no_grad():
        for table in (relative.position, relative.time):
            table.mul_(50)  # as large as the scores, so that a wrong bias would show
    x = torch.randn(LENGTH, WIDTH, dtype=torch.float64)
    time = torch.randint(0, 4000, (LENGTH + 1,)).cumsum(0)
    index = torch.arange(LENGTH)
    tokens = Tokens(torch.tensor([0, LENGTH]), index, time[:-1])
    queries = Queries(tokens, index, time[1:], causal=True)
    scoring = Scoring(alibi(HEADS, "none"), "silu", NORMALIZER)
    ours, _ = block(x, backend(queries, tokens, scoring), None)
    expected = layer_by_the_equations(x, time[:-1], time[1:], block, relative)
    assert (ours - expected).abs().max() < 1e-10
    gradients = [torch.autograd.grad(y.square().sum(), list(block.parameters())) for y in (ours, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).abs().max() < 1e-10
