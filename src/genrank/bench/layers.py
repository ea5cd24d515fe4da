"""The layers of attention that are measured: queries and context as in the models, with random vectors.

Shapes as in nn/attention.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genrank.batch import PackedBatch, map_arrays
from genrank.bench.bench_options import BenchOptions
from genrank.bench.machine import bench_device
from genrank.bench.measure import Work
from genrank.bench.worlds import share_of, synthetic
from genrank.data.sequence import SequenceConfig
from genrank.nn.attention import TIME_BUCKETS, Attention, LearnedBias, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import BACKENDS
from genrank.nn.organization import action_context, interleaved_context


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which queries attend over which history, and how scores become weights."""

    queries: str  # history, candidates, interleaved
    hstu: bool = False  # the learned bias instead of ALiBi
    silu: bool = False
    jagged: bool = False  # histories of unequal lengths instead of equal ones


CASES: Mapping[str, Case] = {
    "history": Case(queries="history"),
    "history, unequal lengths": Case(queries="history", jagged=True),
    "candidates": Case(queries="candidates"),
    "interleaved": Case(queries="interleaved"),
    "interleaved, learned bias": Case(queries="interleaved", hstu=True),
    "interleaved, learned bias, silu": Case(queries="interleaved", hstu=True, silu=True),
}
GROWING = ("history", "candidates", "interleaved, learned bias")  # cases whose memory is measured by length


class Layer:
    """One layer's attention, as work to be timed in any backend."""

    def __init__(self, queries: Queries, context: Tokens, scoring: Scoring, *, heads: int, width: int, learned: bool):
        self.queries, self.context, self.scoring = queries, context, scoring
        device = queries.prefix.device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # as training computes it
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, heads, width // heads, device=device, generator=generator)
            return drawn.to(self.dtype).requires_grad_()

        self.q_QHD = random(len(queries.prefix))
        self.kv_T2HD = random(len(context.time), 2)  # one projection computes both, so each is a strided view
        is_context = queries.tokens.offsets is context.offsets
        self.own_Q2HD = self.kv_T2HD if is_context else random(len(queries.prefix), 2)
        tables = (int(context.offsets.diff().max()) + 1, TIME_BUCKETS)
        self.learned = (
            LearnedBias(*(torch.randn(n, device=device, generator=generator).requires_grad_() for n in tables))
            if learned
            else None
        )

    @property
    def flops(self) -> int:
        """Operations of a forward pass over visible pairs only: see models/flops.py."""
        return 4 * int((self.queries.prefix + 1).sum()) * self.q_QHD[0].numel()

    def forward(self, name: str) -> Callable[[], Tensor]:
        """Forward pass of a later layer of a batch: the backend is built already."""
        backend = self._built(name)

        @torch.no_grad()
        def run() -> Tensor:
            return self._call(backend)

        return run

    def training(self, name: str) -> Work:
        """Forward and backward pass of a later layer."""
        backend = self._built(name)
        return lambda: self._gradients(self._call(backend))

    def first(self, name: str) -> Work:
        """Forward pass of the first layer of a batch, including building the backend."""

        @torch.no_grad()
        def run() -> Tensor:
            return self._call(self._built(name))

        return run

    def whole(self, name: str) -> Work:
        """Building the backend, then forward and backward pass."""
        return lambda: self._gradients(self._call(self._built(name)))

    def deviation(self, name: str) -> float:
        """Largest difference from plain attention, as a share of its largest value."""
        return float((self.forward(name)() - self._plain).abs().max() / self._plain.abs().max())

    @cached_property
    def _plain(self) -> Tensor:
        return self.forward("plain")()

    def _built(self, name: str) -> Attention:
        return BACKENDS[name](self.queries, self.context, self.scoring)

    def _call(self, backend: Attention) -> Tensor:
        k_THD, v_THD = own_k_QHD, own_v_QHD = self.kv_T2HD.unbind(1)
        if self.own_Q2HD is not self.kv_T2HD:
            own_k_QHD, own_v_QHD = self.own_Q2HD.unbind(1)
        return backend(self.q_QHD, k_THD, v_THD, own_k_QHD, own_v_QHD, self.learned)

    def _gradients(self, out_QHD: Tensor) -> None:
        inputs = [self.q_QHD, self.kv_T2HD, *(self.learned or ())]
        inputs += [] if self.own_Q2HD is self.kv_T2HD else [self.own_Q2HD]
        torch.autograd.grad(out_QHD, inputs, torch.ones_like(out_QHD))


def layer_of(case: str, options: BenchOptions) -> Layer:
    """The layer of a case at the benchmark's size."""
    sizes = options.sizes
    history, candidates = share_of(sizes.positions)
    lengths = [history] * sizes.sequences
    if CASES[case].jagged:  # log-normal, so that most are short and one is cut off at the window
        random = np.random.default_rng(options.seed)
        drawn = np.exp(random.normal(np.log(history / 3), 0.8, sizes.sequences))
        lengths = drawn.clip(1, history).astype(int).tolist()
    return _layer(CASES[case], lengths, candidates, options)


def growing_layer(case: str, length: int, options: BenchOptions) -> Layer:
    """The layer of a case over one history of `length` context tokens, with the size's number of candidates."""
    events = length // 2 if CASES[case].queries == "interleaved" else length
    return _layer(CASES[case], [events], share_of(options.sizes.positions)[1], options)


def _layer(case: Case, lengths: list[int], candidates: int, options: BenchOptions) -> Layer:
    model = options.sizes.model
    batch = _batch(lengths, candidates, options)
    queries, context = _queries(case, batch)
    longest = int(context.offsets.diff().max())
    scoring = Scoring(
        alibi(model.num_heads, "none" if case.hstu else "position"), "silu" if case.silu else "softmax", longest + 2.0
    )
    return Layer(queries, context, scoring, heads=model.num_heads, width=model.width, learned=case.hstu)


def _batch(lengths: list[int], candidates: int, options: BenchOptions) -> PackedBatch:
    world = synthetic(lengths, candidates=candidates, num_items=options.sizes.items, seed=options.seed)
    sequence = SequenceConfig(max_history=max(*lengths, 2), max_candidates=candidates)
    loader = world.loader(sequence, batch_tokens=1)
    batch: PackedBatch = map_arrays(loader.builder.batch(loader.samples), torch.from_numpy)
    return batch.to(bench_device())


def _queries(case: Case, batch: PackedBatch) -> tuple[Queries, Tokens]:
    history, c = batch.history, batch.candidates
    nothing = torch.zeros(len(history.item), 1, device=history.time.device)
    if case.queries == "interleaved":
        context = interleaved_context(nothing, nothing, history, as_candidates=case.hstu)
        return context.queries, context.tokens
    context = action_context(nothing, history)
    if case.queries == "history":
        return context.queries, context.tokens
    return Queries(Tokens(c.offsets, c.prefix, c.time), c.prefix, c.time), context.tokens
