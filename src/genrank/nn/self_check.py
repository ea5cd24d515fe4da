"""The self-check of a backend on a device: a small problem is compared with the plain backend, forward and gradients.

The results of a kernel depend on device, driver and compiler as well as on its source. So each is compared before its
first use, once per process, device, precision and head size. The check doesn't change any random state.
"""

import functools
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genrank.nn.attention import TIME_BUCKETS, Attention, LearnedBias, PlainAttention, Queries, Scoring, Tokens, alibi

LENGTHS, NUM_CANDIDATES, NUM_HEADS, NUM_POSITIONS = (19, 0, 3), (2, 1, 3), 2, 8
YEAR = 31_557_600
# For values of about 1. On a GPU, fp32 products may be rounded to 10 bits; bf16 has 8.
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


class Problem(NamedTuple):
    """One small problem."""

    causal: bool  # history, else candidates
    weighting: Literal["softmax", "silu"]
    learned: bool  # a learned bias, else ALiBi


@functools.cache
def failure(backend: type[Attention], device: str, dtype: torch.dtype, channels: int, *, fusible: bool) -> str:
    """What is wrong, in one line; empty if the backend is right.

    fusible: check softmax without learned bias; else SiLU and softmax, each with a learned bias.
    """
    try:
        # The first use may be under inference_mode, in which gradients can't be computed.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
            for problem in _cases(fusible):
                ours = _run(backend, device, dtype, channels, problem)
                expected = _run(PlainAttention, device, torch.float32, channels, problem)
                for name, one in ours.items():
                    far = float((one.float() - expected[name]).abs().max()) if one.numel() else 0.0
                    if not far <= TOLERANCE[dtype] * max(float(expected[name].abs().max()), 1.0):
                        return f"its {name} is off by {far:.2g} for {'history' if problem.causal else 'candidates'}"
    except Exception as error:  # noqa: BLE001  # whatever a compiler or a driver raises
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return ""


def _cases(fusible: bool) -> list[Problem]:
    weightings: tuple[Literal["softmax", "silu"], ...] = ("softmax",) if fusible else ("silu", "softmax")
    return [Problem(causal, weighting, not fusible) for causal in (True, False) for weighting in weightings]


def _run(
    backend: type[Attention], device: str, dtype: torch.dtype, channels: int, problem: Problem
) -> dict[str, Tensor]:
    """The output and the gradient of every input, by name."""
    queries, context = _tokens(device, causal=problem.causal)
    random = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype).requires_grad_()

    num_queries, num_keys = len(queries.prefix), len(context.time)
    leaves = {"q": leaf(num_queries, NUM_HEADS, channels)}
    leaves |= {name: leaf(num_keys, NUM_HEADS, channels) for name in ("k", "v")}
    if not problem.causal:
        leaves |= {name: leaf(num_queries, NUM_HEADS, channels) for name in ("own_k", "own_v")}
    learned = None
    if problem.learned:
        tables = [torch.randn(n, generator=random).to(device).requires_grad_() for n in (NUM_POSITIONS, TIME_BUCKETS)]
        learned = LearnedBias(*tables)
        leaves |= dict(zip(("position_table", "time_table"), tables, strict=True))
    scoring = Scoring(alibi(NUM_HEADS, "none" if problem.learned else "both"), problem.weighting, normalizer=20.0)
    attention = backend(queries, context, scoring)
    own = (leaves.get("own_k", leaves["k"]), leaves.get("own_v", leaves["v"]))
    out = attention(leaves["q"], leaves["k"], leaves["v"], *own, learned)
    weights = torch.randn(out.shape, generator=random).to(device)
    found = torch.autograd.grad((out.float() * weights).sum(), list(leaves.values()), materialize_grads=True)
    return {"output": out.detach(), **{f"gradient of {n}": g for n, g in zip(leaves, found, strict=True)}}


def _tokens(device: str, *, causal: bool) -> tuple[Queries, Tokens]:
    """Histories, one of them empty, and candidates that are years later."""

    def offsets(lengths: tuple[int, ...]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(device)

    position = torch.cat([torch.arange(n) for n in LENGTHS])
    time = position * 90 + torch.repeat_interleave(torch.tensor([0, 0, 30]) * YEAR, torch.tensor(LENGTHS))
    context = Tokens(offsets(LENGTHS), position.to(device), time.to(device))
    if causal:
        return Queries(context, context.position, context.time + 90, causal=True), context
    prefix = torch.cat([torch.arange(n) * (length > 0) for n, length in zip(NUM_CANDIDATES, LENGTHS, strict=True)])
    asked = torch.repeat_interleave(torch.tensor([1, 2, 33]) * YEAR, torch.tensor(NUM_CANDIDATES))
    tokens = Tokens(offsets(NUM_CANDIDATES), prefix.to(device), asked.to(device))
    return Queries(tokens, tokens.position, tokens.time + 7), context
