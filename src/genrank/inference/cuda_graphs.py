"""Scoring by CUDA graphs: the kernels of a request's second half are launched by one call instead of one by one.

A graph is captured for a shape class (shape_classes.py) and reads its inputs from fixed memory. A request is copied
there, the graph is replayed, and the answer is copied out. The next replay uses weights that were changed in place; a
model with other tensors needs another scorer.

Capturing is behind an interface, `Capture`, so that everything except CUDA is tested without a GPU.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrank.batch import PackedBatch
from genrank.inference.shape_classes import ShapeClass, StaticInputs
from genrank.models.ranker import Ranker
from genrank.models.score_inputs import ScoreInputs
from genrank.nn.self_check import TOLERANCE

log = logging.getLogger(__name__)

Logits = dict[str, Tensor]
Score = Callable[[Any, PackedBatch], Logits]  # the signature of a ranker's `score`
Replay = Callable[[], Logits]  # replays the graph; its tensors are valid until the next replay of any graph
Capture = Callable[[Callable[[], Logits]], Replay]

WARM_UPS = 3  # runs before a capture, as in PyTorch's documentation: kernels are compiled, constants copied
CHECKED = 2  # replays of a new graph that are compared with the model's scores
REMEMBERED = 1000  # classes whose requests are counted
CAPTURING = threading.Lock()  # CUDA takes one capture at a time in a process; the next model's may come from any thread


@dataclass(frozen=True, kw_only=True)
class GraphLimits:
    """most, bytes: the most graphs, and the most memory of their inputs. after: requests of a class before its graph is
    captured, which takes as long as many requests."""

    most: int = 32
    bytes: int = 2**30
    after: int = 3


@dataclass
class _Captured:
    static: StaticInputs
    replay: Replay
    unchecked: int = CHECKED


def scorer(model: Ranker, device: torch.device, *, graphs: bool = True) -> Score:
    """The function that scores with the model on a device: with CUDA graphs if these are wanted and possible."""
    if not graphs or device.type != "cuda" or not model.capturable:
        return model.score
    return GraphScorer(model, CudaCapture(device))


class GraphScorer:
    """A ranker's `score`, by a captured graph if there is one for the request's class.

    Safe to call from several threads, which take turns; they have to use one stream. If a capture fails, or a graph
    gives other numbers than the model, the log says so once and no graph is used any more.
    """

    def __init__(self, model: Ranker, capture: Capture, *, limits: GraphLimits | None = None):
        """model: capturable, in evaluation mode."""
        self.model, self.capture, self.limits = model, capture, limits or GraphLimits()
        self.problem = ""  # why no graph is used any more
        self._captured: OrderedDict[ShapeClass, _Captured] = OrderedDict()  # the latest used last
        self._met: Counter[ShapeClass] = Counter()
        self._lock = threading.Lock()

    @property
    def num_graphs(self) -> int:
        """Graphs that are kept."""
        return len(self._captured)

    @torch.no_grad()
    def __call__(self, state: Any, batch: PackedBatch) -> Logits:
        """See SequenceRanker.score. The tensors are the caller's."""
        inputs = self.model.prepare_score(state, batch)
        with self._lock:
            found = None if self.problem else self._replayed(inputs)
        return self.model.score_prepared(inputs) if found is None else found

    def _replayed(self, inputs: ScoreInputs) -> Logits | None:
        """The graph's logits; None if the class has no graph."""
        shape = ShapeClass.of(inputs)
        try:
            captured = self._captured.get(shape) or self._capture(shape, inputs)
            if captured is None:
                return None
            self._captured.move_to_end(shape)
            captured.static.fill(inputs)
            logits = {task: tensor[: len(inputs.prefix_C)].clone() for task, tensor in captured.replay().items()}
            if captured.unchecked:
                captured.unchecked -= 1
                self.problem = _difference(logits, self.model.score_prepared(inputs))
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, requests are answered without it
            self.problem = f"{type(error).__name__}: {str(error)[:200]}"
        if self.problem:
            log.warning("scoring continues without CUDA graphs, more slowly: %s", " ".join(self.problem.split()))
            self._captured.clear()
            return None
        return logits

    def _capture(self, shape: ShapeClass, inputs: ScoreInputs) -> _Captured | None:
        """A new graph; None if the class has too few requests or is too large."""
        if len(self._met) >= REMEMBERED:
            self._met.clear()
        self._met[shape] += 1
        if self._met[shape] < self.limits.after or shape.num_bytes > self.limits.bytes:
            return None
        static = StaticInputs(inputs, shape)
        static.fill(inputs)
        with _uncached_autocast(inputs.x_CW.device):
            captured = _Captured(static, self.capture(lambda: self.model.score_prepared(static.inputs)))
        self._captured[shape] = captured
        while len(self._captured) > self.limits.most or self._bytes() > self.limits.bytes:
            old, _ = self._captured.popitem(last=False)  # never the one just captured: the pool lives as long as any
            del self._met[old]
        return captured

    def _bytes(self) -> int:
        return sum(shape.num_bytes for shape in self._captured)


def _difference(ours: Logits, expected: Logits) -> str:
    """How they differ beyond rounding in the present precision; empty if they don't. Waits for the device."""
    for task, right in expected.items():
        kind = right.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else right.dtype
        far = float((ours[task] - right).abs().max())
        if not far <= TOLERANCE[dtype] * max(float(right.abs().max()), 1.0):
            return f"a captured graph's logits of {task} are off by {far:.2g}"
    return ""


def _uncached_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """The present precision without cached casts of weights: one made before a capture doesn't exist at its replay."""
    return torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,
    )


class CudaCapture:
    """Captures on a separate stream, into one pool of memory for all graphs.

    They can share it because they are replayed one at a time, and an answer is copied before the next replay. It has
    never run on a GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            self.stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, function: Callable[[], Logits]) -> Replay:
        """See Capture."""
        with CAPTURING, torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            try:
                return self._captured(function, current)
            finally:
                torch.cuda.set_stream(current)  # a capture that fails leaves its own stream behind

    def _captured(self, function: Callable[[], Logits], current: torch.cuda.Stream) -> Replay:
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate and copy meanwhile, such as one that loads the next model.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            logits = function()

        def replay() -> Logits:
            graph.replay()
            return logits

        return replay
