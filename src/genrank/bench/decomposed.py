"""How much is saved if candidates attend to the history only, instead of full masked attention (GRank's training step)?

The alternative puts history and candidates into one sequence of L + B tokens under a mask, as a transformer without
separate candidates does. It is computed by PyTorch's fused attention, and, as `full, plain`, by matrix products and a
softmax. All use the same blocks with the same weights.

Shapes: N tokens of L history and B candidates each, H heads, D channels of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrank.bench.bench_options import BenchOptions
from genrank.bench.machine import bench_device, settle
from genrank.bench.measure import Work, interleave
from genrank.bench.peak_memory import peak_memory
from genrank.nn.attention import Attention, DistanceBias, LearnedBias, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import BACKENDS, choose_backend
from genrank.nn.blocks import TransformerBlock

DEFAULT_MINUTES = 2.0
WAYS = ("decomposed", "full", "full, plain")


class FullAttention:
    """Masked attention over all tokens of a batch at once, or of each of several equal sequences.

    bias: (…, H, N, N), -inf where a token doesn't see another. fused: by PyTorch's scaled_dot_product_attention.
    """

    def __init__(self, bias: Tensor, *, num_sequences: int = 1, fused: bool = False):
        self.bias, self.num_sequences, self.fused = bias, num_sequences, fused

    def __call__(
        self,
        q_QHD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        own_k_QHD: Tensor,
        own_v_QHD: Tensor,
        learned: LearnedBias | None = None,
    ) -> Tensor:
        """(Q, H, D). All tokens are context, so each query's own key and value are in it already."""
        del own_k_QHD, own_v_QHD, learned
        q, k, v = (x.view(self.num_sequences, -1, *x.shape[1:]).transpose(1, 2) for x in (q_QHD, k_THD, v_THD))
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            out = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.bias, -1) @ v
        return out.transpose(1, 2).flatten(0, 1)


def full_bias(context: Tokens, queries: Queries, bias: DistanceBias) -> Tensor:
    """(H, N, N) over the context's tokens and, after them, the queries, of all sequences: ALiBi, -inf where unseen."""
    sequence, position, sees = [], [], []
    for tokens in (context, queries.tokens):
        lengths = tokens.offsets.diff()
        sequence.append(torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths))
        position.append(tokens.position)
    num_context = len(context.position)
    index = torch.arange(num_context, device=context.position.device) - context.offsets[sequence[0]]
    sees = [index, queries.prefix]  # how many context tokens: those before it, or those before its request
    sequence_N, position_N, sees_N = torch.cat(sequence), torch.cat(position), torch.cat(sees)
    is_context = torch.arange(len(sequence_N), device=index.device) < num_context
    place = torch.cat([index, torch.full_like(queries.prefix, 2**40)])
    visible = (sequence_N[:, None] == sequence_N) & is_context & (place < sees_N[:, None])
    visible |= torch.eye(len(sequence_N), dtype=torch.bool, device=index.device)
    slopes = torch.tensor(bias.position_slopes, dtype=torch.float64, device=index.device)
    distance = (position_N[:, None] - position_N).double()
    return (-slopes[:, None, None] * distance).masked_fill(~visible, -torch.inf)


def decomposed(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`flops_saved`, `time_ratio`, `memory_ratio` of attention (forward, backward) and of a whole step's blocks."""
    history, candidates = options.sizes.auxiliary
    say(f"{candidates} candidates behind {history} events")
    parts = ("attention", "blocks")
    works = {f"{part}: {way}": work for part in parts for way, work in _works(options, part).items()}
    rounds = interleave(works, seconds=options.seconds(DEFAULT_MINUTES, 0.8), settle=settle)
    say("memory")
    peaks = {part: peak_memory(_works, options, part) for part in parts}
    figures: dict[str, Any] = {"flops_saved": 1 - _pairs(history, candidates) / (history + candidates) ** 2}
    for part in parts:
        figures[f"{part}_time_ratio"] = rounds.ratio(f"{part}: full", f"{part}: decomposed")
        figures[f"{part}_time_ratio_plain"] = rounds.ratio(f"{part}: full, plain", f"{part}: decomposed")
        for way in WAYS[1:]:
            name = f"{part}_memory_ratio" + ("_plain" if "plain" in way else "")
            figures[name] = peaks[part]["decomposed"] / peaks[part][way]
    cells = {
        f"{part}: {way}": {
            "ms": rounds.seconds(f"{part}: {way}").times(1e3),
            "peak_mib": peaks[part][way] / 2**20,
        }
        for part in parts
        for way in WAYS
    }
    return {**figures, "rounds": len(rounds), "deviation": _deviation(options), "cells": cells}


def _pairs(history: int, candidates: int) -> int:
    """Pairs of tokens that decomposed attention scores, the causal half counted whole, as in full attention."""
    return history**2 + candidates * (history + 1)


def _works(options: BenchOptions, part: str) -> dict[str, Work]:
    step = _Step(options)
    return {way: step.work(way, part) for way in WAYS}


def _deviation(options: BenchOptions) -> float:
    """The largest difference between the outputs for candidates, as a share of the largest value."""
    step = _Step(options)
    ours, full = (step.outcome(way).detach() for way in ("decomposed", "full"))
    return float((ours - full).abs().max() / full.abs().max())


class _Step:
    """Random tokens of a training step: `sequences` times L history and B candidates."""

    def __init__(self, options: BenchOptions):
        sizes, device = options.sizes, bench_device()
        (self.history, self.candidates), self.count = sizes.auxiliary, sizes.auxiliary_sequences
        torch.manual_seed(options.seed)
        self.width, self.heads, blocks = sizes.auxiliary_model
        self.blocks: list[TransformerBlock] = [
            TransformerBlock(self.width, self.heads, feedforward=4 * self.width, dropout=0.0, gate=False).to(device)
            for _ in range(blocks)
        ]
        self.x_TW = torch.randn(self.count * self.history, self.width, device=device, requires_grad=True)
        self.x_NW = torch.randn(self.count * self.candidates, self.width, device=device, requires_grad=True)
        steps = torch.arange(self.count + 1, device=device)
        place = torch.arange(self.history, device=device).repeat(self.count)
        self.context = Tokens(steps * self.history, place, torch.zeros_like(place))
        behind = torch.full((self.count * self.candidates,), self.history, device=device)
        behind_tokens = Tokens(steps * self.candidates, behind, torch.zeros_like(behind))
        self.causal = Queries(self.context, place, torch.zeros_like(place), causal=True)
        self.queries = Queries(behind_tokens, behind, torch.zeros_like(behind))
        self.scoring = Scoring(alibi(self.heads, "position"))
        one = Tokens(steps[:2] * self.history, place[: self.history], place[: self.history] * 0)
        its = behind[: self.candidates]
        alone = Queries(Tokens(steps[:2] * self.candidates, its, its * 0), its, its * 0)
        self.bias = full_bias(one, alone, self.scoring.bias).float()

    def work(self, way: str, part: str) -> Work:
        """Forward and backward of one layer's attention, or of all blocks."""
        return (lambda: self._attention(way)) if part == "attention" else (lambda: self._gradients(self.outcome(way)))

    def outcome(self, way: str) -> Tensor:
        """(N, W) the blocks' output for the candidates."""
        if way == "decomposed":
            x_TW, x_NW = self.x_TW, self.x_NW
            own, other = self._backends()
            for block in self.blocks:
                after, keys_values = block(x_TW, own, None)
                x_NW, _ = block(x_NW, other, keys_values)
                x_TW = after
            return x_NW
        x_XW, attention = self._together(self.x_TW, self.x_NW), self._full(way)
        for block in self.blocks:
            x_XW, _ = block(x_XW, attention, None)
        return x_XW.view(self.count, -1, self.width)[:, self.history :].flatten(0, 1)

    def _attention(self, way: str) -> None:
        heads = (-1, self.heads, self.width // self.heads)
        history, behind = self.x_TW.view(heads), self.x_NW.view(heads)
        if way == "decomposed":
            own, other = self._backends()
            out = [own(history, history, history, history, history, None)]
            out.append(other(behind, history, history, behind, behind, None))
            self._gradients(torch.cat(out))
            return
        x_XHD = self._together(self.x_TW, self.x_NW).view(heads)
        self._gradients(self._full(way)(x_XHD, x_XHD, x_XHD, x_XHD, x_XHD))

    def _backends(self) -> tuple[Attention, Attention]:
        device, channels = self.x_TW.device, self.width // self.heads
        backend = BACKENDS[choose_backend("auto", device, fusible=True, channels=channels)]
        return backend(self.causal, self.context, self.scoring), backend(self.queries, self.context, self.scoring)

    def _full(self, way: str) -> FullAttention:
        return FullAttention(self.bias, num_sequences=self.count, fused=way == "full")

    def _together(self, x_TW: Tensor, x_NW: Tensor) -> Tensor:
        parts = (x.view(self.count, -1, self.width) for x in (x_TW, x_NW))
        return torch.cat(list(parts), 1).flatten(0, 1)

    def _gradients(self, out: Tensor) -> None:
        for each in (self.x_TW, self.x_NW, *(p for block in self.blocks for p in block.parameters())):
            each.grad = None
        torch.autograd.backward(out, torch.ones_like(out))
