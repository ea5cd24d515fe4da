"""Step `scoring`: how long does a request take whose users' histories are encoded already (a KV cache)?

A request brings the candidates of so many users from pinned memory; their scores on the host end it. bf16 on a card,
as `genrank serve` computes there. eager: every kernel is started by the host; graph: by one replay of a CUDA graph
(genrank/inference/cuda_graphs.py). P50 and P99 are of all requests of a case, which come one after another.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genrank.batch import PackedBatch, map_arrays
from genrank.bench.worlds import World, synthetic
from genrank.data.loader import in_one_block
from genrank.data.sequence import SequenceConfig
from genrank.inference.cuda_graphs import CudaCapture, GraphLimits, GraphScorer
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.models.sequence_ranker import SequenceRanker
from genrank.nn.experts import MultiTaskConfig
from genrank.nn.kv_cache import KVCache
from gpu_steps.machine import Clock, Sizes
from gpu_steps.report import Report

SECONDS = 1.5  # of a case's requests at most
LEAST = 3  # requests of a case
WARM_UPS = 5  # requests that don't count: kernels are compiled, a graph is captured


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request of `users` users, each with so many past events and candidates."""

    history: int
    candidates: int
    users: int

    def __str__(self) -> str:
        return f"{self.candidates} candidates over {self.history} events, batch {self.users}"


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """A row per case and way: eager, graph."""
    del workers
    cases = [
        Case(history=history, candidates=candidates, users=users)
        for history in sizes.score_histories
        for candidates in sizes.score_candidates
        for users in sizes.score_batches
    ]
    for case in report.cases(cases):
        with report.case(str(case)):
            _measure(report, sizes, clock, case)


def _measure(report: Report, sizes: Sizes, clock: Clock, case: Case) -> None:
    served = Served(sizes, clock.device, case)
    row: dict[str, Any] = {"history": case.history, "candidates": case.candidates, "batch": case.users}
    eager = served.scores(served.model.score)
    taken = milliseconds(lambda: served.scores(served.model.score), sizes.score_runs)
    report.row(**row, way="eager", **taken, difference=0.0, why="", right=bool(np.isfinite(eager).all()))
    graph = graph_scorer(served.model, clock.device)
    for _ in range(WARM_UPS):
        replayed = served.scores(graph)
    taken = milliseconds(lambda: served.scores(graph), sizes.score_runs)
    problem = graph.problem or ("" if graph.num_graphs else "no graph was captured")
    difference = float(np.abs(replayed - eager).max())
    why = problem or ("" if clock.device.type == "cuda" else "no graph: a stand-in for CUDA's capture")
    report.row(**row, way="graph", **taken, difference=difference, why=why, right=not problem)


class Served:
    """A model, encoded histories on the device, and a request in the host's memory."""

    def __init__(self, sizes: Sizes, device: torch.device, case: Case):
        self.device = device
        world = synthetic([case.history] * case.users, candidates=case.candidates, num_items=sizes.num_items)
        self.model = model(sizes, world, case.history).to(device).eval()
        sequence = SequenceConfig(max_history=case.history, max_candidates=case.candidates)
        loader = world.loader(sequence, batch_tokens=case.users * (case.history + case.candidates))
        samples, builder = loader.samples, loader.builder

        def on_host(known: Any) -> PackedBatch:
            batch: PackedBatch = map_arrays(builder.batch(samples, known=known), torch.from_numpy)
            return in_one_block(batch, pin=device.type == "cuda")

        self.request = on_host(samples.num_history)  # what is known is left out, as the service does
        with torch.no_grad(), self._precision():
            self.state = self.model.encode_history(on_host(None).to(device))

    @torch.no_grad()
    def scores(self, score: Callable[[KVCache, PackedBatch], dict[str, torch.Tensor]]) -> Any:
        """(tasks, C) on the host."""
        with self._precision():
            batch = self.request.to(self.device)
            logits = {name: value.float() for name, value in score(self.state, batch).items()}
        return torch.stack(list(self.model.predict(logits, batch).values())).cpu().numpy()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()


def model(sizes: Sizes, world: World, max_history: int) -> SequenceRanker:
    """GenRank with heads of 64 channels, with first weights."""
    torch.manual_seed(0)
    width = sizes.score_width
    config = SequenceRankerConfig(
        width=width,
        num_blocks=sizes.score_blocks,
        num_heads=max(width // 64, 2),
        feedforward=4 * width,
        embedding_dim=sizes.embedding_dim,
        heads=MultiTaskConfig(tower=2 * sizes.embedding_dim),
        attention="triton",
    )
    return SequenceRanker(config, world.spec, max_history=max_history)


def graph_scorer(ranker: SequenceRanker, device: torch.device) -> GraphScorer:
    """Captures at a class's first request. On a CPU, what is captured is simply called."""
    assert ranker.capturable
    capture = CudaCapture(device) if device.type == "cuda" else lambda function: function
    return GraphScorer(ranker, capture, limits=GraphLimits(after=1, bytes=2**34))


def milliseconds(request: Callable[[], object], most: int) -> dict[str, Any]:
    """P50 and P99 of requests that come one after another: `most`, or fewer where time is up."""
    for _ in range(min(WARM_UPS, most)):
        request()
    taken: list[float] = []
    began = time.monotonic()
    while len(taken) < most and (len(taken) < LEAST or time.monotonic() - began < SECONDS):
        start = time.perf_counter()
        request()
        taken.append(1000 * (time.perf_counter() - start))
    return {
        "p50_ms": float(np.percentile(taken, 50)),
        "p99_ms": float(np.percentile(taken, 99)),
        "requests": len(taken),
    }
