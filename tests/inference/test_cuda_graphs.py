"""Scoring by captured graphs, without a GPU: what is captured is run again on the memory that a graph would read."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from amounts import examples, mostly_slow
from captured import Graphs
from genrank.batch import PackedBatch, map_arrays
from genrank.inference import cuda_graphs
from genrank.inference.cuda_graphs import WARM_UPS, CudaCapture, GraphLimits, GraphScorer, Logits, Replay, scorer
from genrank.inference.shape_classes import LEAST, ShapeClass, StaticInputs, rounded
from genrank.models.ranker import build_ranker
from genrank.models.score_inputs import ScoreInputs
from genrank.models.sequence_ranker import SequenceRanker
from genrank.recipes import genrank_paper, genrank_small, hstu
from genrank.runs.run_config import RunConfig
from host_waits import HostWaits, pretend_cuda
from worlds import SPEC, builder, timelines
from zoo import SEQUENCE, ranker

MAX_HISTORY = 24
NAMES = ("genrank", "alibi-both", "user-prefix", "one-block", "hstu", "hstu-user-prefix", "interleaved", "sim-soft")
NAMES += ("sim-hard", "hstu-sim", "scaled-input", "slot-and-clock", "ppnet", "ple", "qk-norm", "d2q")
ALWAYS = GraphLimits(after=1)
Lengths = list[int]


def batch_of(model: Any, lengths: Lengths, seed: int = 0) -> PackedBatch:
    """Candidates of some users, many of whose histories are cut short."""
    b = builder(timelines(lengths=lengths, seed=seed), max_history=MAX_HISTORY, search=model.config.search)
    batch: PackedBatch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    return batch


def of_zoo(name: str, **changes: Any) -> SequenceRanker:
    model = ranker(name, SPEC, max_history=MAX_HISTORY, **changes)
    assert isinstance(model, SequenceRanker)
    for parameter in model.parameters():  # far from the small numbers of a new model
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return model


def of_one_class(model: SequenceRanker, count: int) -> list[PackedBatch]:
    """Batches of one class, whose sizes differ."""
    found: dict[ShapeClass, dict[tuple[int, ...], PackedBatch]] = {}
    for seed in range(200):
        lengths = np.random.default_rng(seed).integers(0, 20, 3).tolist()
        batch = batch_of(model, lengths, seed)
        device = next(model.parameters()).device
        moved = batch.to(device)
        inputs = model.prepare_score(model.encode_history(moved), moved)
        sizes = tuple(len(part) for part in (inputs.offsets, inputs.prefix_C, inputs.context.position))
        same = found.setdefault(ShapeClass.of(inputs), {})
        same[sizes] = batch
        if len(same) == count:
            return list(same.values())
    raise AssertionError("no class with so many batches")


def tensors(inputs: ScoreInputs) -> list[Tensor]:
    found: list[Tensor] = []
    inputs.map(lambda _, tensor: found.append(tensor) or tensor)
    return found


def assert_close(found: Logits, expected: Logits, tolerance: float = 1e-6) -> None:
    assert set(found) == set(expected)
    for task, right in expected.items():
        torch.testing.assert_close(found[task], right, atol=tolerance, rtol=tolerance)


@given(st.integers(0, 100_000))
def test_a_class_holds_its_rows_and_its_surplus_is_at_most_a_quarter(count: int) -> None:
    size = rounded(count)
    assert size >= count
    assert size % LEAST == 0
    assert size - count <= max(LEAST - (count > 0), count / 4)
    assert rounded(size) == size


def test_there_are_few_classes() -> None:
    assert len({rounded(count) for count in range(1, 4097)}) == 4 + 4 * 6


@pytest.mark.parametrize("name", NAMES)
@examples(40, 5)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), seed=st.integers(0, 99))
def test_padding_changes_no_score(name: str, lengths: Lengths, seed: int) -> None:
    model = of_zoo(name)
    check_padding(model, batch_of(model, lengths, seed))


@pytest.mark.parametrize("backend", ["plain", "fused", "reference", "triton"])
def test_padding_changes_no_score_with_any_backend(backend: str) -> None:
    model = of_zoo("alibi-both", attention=backend)
    check_padding(model, batch_of(model, [17, 0, 40, 3], 1))


@torch.no_grad()
def check_padding(model: SequenceRanker, batch: PackedBatch) -> None:
    state = model.encode_history(batch)
    inputs = model.prepare_score(state, batch)
    shape = ShapeClass.of(inputs)
    static = StaticInputs(inputs, shape)
    for tensor in tensors(static.inputs)[1:]:  # what was there before
        tensor[: -1 if tensor is static.inputs.context.offsets else None].fill_(7)
    static.fill(inputs)
    queries, context = static.inputs.offsets.diff(), static.inputs.context.offsets.diff()
    assert (queries.sum(), context.sum()) == shape[1:3]
    assert (static.inputs.prefix_C <= context.repeat_interleave(queries)).all()
    count = len(batch.candidates.item)
    padded = model.score_prepared(static.inputs)
    assert all(len(logits) == shape.num_candidates > 0 for logits in padded.values())
    found = {task: logits[:count] for task, logits in padded.items()}
    expected = model.score(state, batch)
    assert_close(found, expected)
    for one, other in zip(model.predict(found, batch).values(), model.predict(expected, batch).values(), strict=True):
        clear = np.diff(np.sort(other.numpy())) > 1e-5
        order = np.argsort(other.numpy(), kind="stable")
        assert (np.diff(one.numpy()[order])[clear] > 0).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_replay_reads_nothing_but_the_memory_of_its_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_zoo(name)
    first, second = of_one_class(model, 2)
    states = [model.encode_history(batch) for batch in (first, second)]
    expected = [model.score(state, batch) for state, batch in zip(states, (first, second), strict=True)]
    made: list[ScoreInputs] = []
    prepare = model.prepare_score

    def prepared(state: Any, batch: PackedBatch) -> ScoreInputs:
        made.append(prepare(state, batch).map(lambda _, tensor: tensor.clone()))
        return made[-1]

    @contextmanager
    def poisoned() -> Iterator[None]:
        kept = [inputs.map(lambda _, tensor: tensor.clone()) for inputs in made]
        for inputs in made:
            inputs.map(lambda _, tensor: tensor.fill_(-(2**40) if tensor.dtype == torch.int64 else float("nan")))
        yield
        for inputs, before in zip(made, kept, strict=True):
            for tensor, original in zip(tensors(inputs), tensors(before), strict=True):
                tensor.copy_(original)

    monkeypatch.setattr(model, "prepare_score", prepared)
    graphs = Graphs(poisoned)
    score = GraphScorer(model, graphs, limits=ALWAYS)
    for state, batch, right in zip(states, (first, second), expected, strict=True):
        assert_close(score(state, batch), right)
    assert (graphs.captures, graphs.replays) == (1, 2)


class Calls(TorchDispatchMode):
    """Every operator with the sizes of its tensors and the values that the host gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def told(value: Any) -> Any:
            if isinstance(value, Tensor):
                return (tuple(value.shape), value.dtype)
            return tuple(told(each) for each in value) if isinstance(value, list | tuple) else value

        self.calls.append((func, told(args), told(sorted((kwargs or {}).items()))))
        devices = {x.device.type for x in args if isinstance(x, Tensor) and x.dim()}
        if len(devices) > 1 or (func._schema.name == "aten::_to_copy" and "cpu" in devices):
            self.copies.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", mostly_slow(SEQUENCE, often=NAMES))
@torch.no_grad()
def test_the_host_tells_the_device_the_same_for_every_request_of_a_class(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = pretend_cuda(monkeypatch)
    meta = torch.device("meta")
    model = of_zoo(name, attention="auto").to(meta)
    told = []
    for batch in of_one_class(model, 3):
        batch = batch.to(meta)
        inputs = model.prepare_score(model.encode_history(batch), batch)
        shape = ShapeClass.of(inputs)
        static = StaticInputs(inputs, shape)
        model.score_prepared(static.inputs)  # the first run copies constants
        kernels.launches.clear()
        with HostWaits() as waits, Calls() as calls:
            static.fill(inputs)
            assert waits.found == []
            calls.calls.clear()
            model.score_prepared(static.inputs)
        assert waits.found == calls.copies == []
        told.append((shape, calls.calls, list(kernels.launches)))
    assert told[0][2]
    assert told[0] == told[1] == told[2]


def scored(score: Any, model: SequenceRanker, lengths: Lengths) -> None:
    """Asserts that the scorer gives the model's logits."""
    batch = batch_of(model, lengths)
    with torch.no_grad():
        state = model.encode_history(batch)
        assert_close(score(state, batch), model.score(state, batch))


def test_a_graph_is_captured_when_its_class_has_come_often_enough() -> None:
    model, graphs = of_zoo("genrank"), Graphs()
    score = GraphScorer(model, graphs, limits=GraphLimits(after=3))
    for captures in (0, 0, 1, 1):
        scored(score, model, [10])
        assert graphs.captures == captures
    scored(score, model, [11])  # of the same class
    assert (graphs.captures, graphs.replays) == (1, 3)


def test_classes_are_counted_anew_when_too_many_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "REMEMBERED", 3)
    model, graphs = of_zoo("genrank"), Graphs()
    score = GraphScorer(model, graphs, limits=GraphLimits(after=2))
    for lengths, captures in (([10], 0), ([20], 0), ([40], 0), ([40, 40], 0), ([10], 0), ([10], 1)):
        scored(score, model, lengths)
        assert graphs.captures == captures


def test_the_graph_that_was_used_longest_ago_goes_first() -> None:
    model, graphs = of_zoo("genrank"), Graphs()
    score = GraphScorer(model, graphs, limits=GraphLimits(most=2, after=1))
    for lengths, captures in (([10], 1), ([20], 2), ([10], 2), ([40], 3), ([10], 3), ([20], 4)):
        scored(score, model, lengths)
        assert graphs.captures == captures
        assert score.num_graphs <= 2


def test_the_inputs_of_all_graphs_together_stay_within_their_bytes() -> None:
    model, graphs = of_zoo("genrank"), Graphs()
    batch = batch_of(model, [20])
    with torch.no_grad():
        shape = ShapeClass.of(model.prepare_score(model.encode_history(batch), batch))
    inputs = StaticInputs(model.prepare_score(model.encode_history(batch), batch), shape).inputs
    assert shape.num_bytes == sum(tensor.nbytes for tensor in tensors(inputs))
    score = GraphScorer(model, graphs, limits=GraphLimits(bytes=shape.num_bytes, after=1))
    for lengths, captures in (([10], 1), ([20], 2), ([10], 3), ([40, 40], 3), ([10], 3)):
        scored(score, model, lengths)
        assert graphs.captures == captures  # two at once are too many, the largest one is never captured
        assert score.num_graphs == 1


def test_after_a_failed_capture_no_graph_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    model, tried = of_zoo("genrank"), []

    def capture(function: Callable[[], Logits]) -> Replay:
        tried.append(function)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    score = GraphScorer(model, capture, limits=ALWAYS)
    with caplog.at_level(logging.WARNING):
        for lengths in ([10], [20], [10]):
            scored(score, model, lengths)
    assert len(tried) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without CUDA graphs" in line
    assert "operation not permitted when stream is capturing" in line


@pytest.mark.parametrize("good", [0, 1])
def test_a_graph_that_gives_other_numbers_than_the_model_is_not_used(
    good: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, or from the second request on: what was captured still has something of the first one in it."""
    model = of_zoo("genrank")

    def capture(function: Callable[[], Logits]) -> Replay:
        answers = iter([function()] * good)
        return lambda: next(answers, {task: 0 * logits + 5 for task, logits in function().items()})

    score = GraphScorer(model, capture, limits=ALWAYS)
    with caplog.at_level(logging.WARNING):
        for lengths in ([10], [11], [12]):
            scored(score, model, lengths)
    assert ["off by" in record.getMessage() for record in caplog.records] == [True]
    assert score.num_graphs == 0


def test_weights_that_change_in_place_count_at_the_next_replay() -> None:
    model, graphs = of_zoo("genrank"), Graphs()
    score = GraphScorer(model, graphs, limits=ALWAYS)
    scored(score, model, [10])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    scored(score, model, [11])
    assert graphs.captures == 1


def test_an_answer_outlives_the_next_request() -> None:
    model = of_zoo("genrank")
    score = GraphScorer(model, Graphs(), limits=ALWAYS)
    first, second = batch_of(model, [10]), batch_of(model, [12])
    found = score(model.encode_history(first), first)
    kept = {task: logits.clone() for task, logits in found.items()}
    score(model.encode_history(second), second)
    assert_close(found, kept, 0.0)


def test_half_precision_holds_after_the_casts_of_the_capture_are_gone() -> None:
    model, graphs = of_zoo("genrank"), Graphs()
    batch = batch_of(model, [10, 20])
    score = GraphScorer(model, graphs, limits=ALWAYS)
    for _ in range(3):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            state = model.encode_history(batch)
            assert state.keys_values[0].k_THD.dtype == torch.bfloat16
            assert_close(score(state, batch), model.score(state, batch), 2e-2)
        assert torch.is_autocast_cache_enabled()
    with torch.no_grad():  # in fp32 these are other classes
        state = model.encode_history(batch)
        assert_close(score(state, batch), model.score(state, batch))
    assert (graphs.captures, graphs.replays) == (2, 4)


def test_no_cast_of_a_weight_is_taken_from_before_a_capture() -> None:
    model = of_zoo("genrank")
    batch, inside = batch_of(model, [10, 20]), []

    def capture(function: Callable[[], Logits]) -> Replay:
        inside.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return function

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        GraphScorer(model, capture, limits=ALWAYS)(model.encode_history(batch), batch)
    assert inside == [(True, False)]


def test_threads_take_turns() -> None:
    model = of_zoo("genrank")
    meeting = threading.Barrier(4)
    batches = [batch_of(model, [10 + number]) for number in range(4)]
    expected = [model.score(model.encode_history(batch), batch) for batch in batches]

    @contextmanager
    def slowly() -> Iterator[None]:
        time.sleep(0.002)
        yield

    score = GraphScorer(model, Graphs(slowly), limits=ALWAYS)  # Graphs asserts that it runs once at a time

    def run(number: int) -> None:
        meeting.wait()
        for _ in range(20):
            found = score(model.encode_history(batches[number]), batches[number])
            assert_close(found, {task: logits.detach() for task, logits in expected[number].items()})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    assert score.problem == ""


@pytest.mark.parametrize("name", ["genrank", "din"])
def test_there_are_no_graphs_off_cuda_nor_for_rankers_that_pad(name: str) -> None:
    model = ranker(name, SPEC, max_history=MAX_HISTORY)
    devices = ["cpu", "meta"] if name == "genrank" else ["cpu", "meta", "cuda"]
    for device in devices:
        assert scorer(model, torch.device(device)) == model.score
    assert not of_zoo("genrank", attention="plain").capturable


@pytest.mark.parametrize("recipe", [genrank_small, genrank_paper, hstu])
@torch.no_grad()
def test_the_greater_part_of_scoring_is_in_the_graph(
    recipe: Callable[[], RunConfig], monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    pretend_cuda(monkeypatch)
    meta = torch.device("meta")
    model = build_ranker(recipe().model, SPEC, max_history=MAX_HISTORY).eval().to(meta)
    assert isinstance(model, SequenceRanker)
    batch = batch_of(model, [10, 20]).to(meta)
    state = model.encode_history(batch)
    with HostWaits() as before:
        inputs = model.prepare_score(state, batch)
    static = StaticInputs(inputs, ShapeClass.of(inputs))
    with HostWaits() as copies:
        static.fill(inputs)
    with HostWaits() as inside:
        model.score_prepared(static.inputs)
    counts = (before.num_kernels, copies.num_kernels, inside.num_kernels)
    record_property("before, copied, in the graph", counts)
    assert before.num_kernels + copies.num_kernels < inside.num_kernels


class PretendedCuda:
    """The calls that CudaCapture makes, in order. `capturing`: captures that are underway."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.capturing = 0
        self.streams = threading.local()

    @property
    def current(self) -> "PretendedStream":
        return getattr(self.streams, "current", PretendedStream(self, "default"))

    @contextmanager
    def stream(self, stream: "PretendedStream") -> Iterator[None]:
        before = self.current
        self.streams.current = stream
        yield
        self.streams.current = before

    @contextmanager
    def graph(self, graph: Any, *, pool: str, stream: "PretendedStream", capture_error_mode: str) -> Iterator[None]:
        """As PyTorch's: where what is captured fails, its stream stays the current one."""
        self.said.append(("capture", pool, stream.name, capture_error_mode))
        self.streams.current, before = stream, self.current
        self.capturing += 1
        assert self.capturing == 1
        time.sleep(0.005)
        try:
            yield
        finally:
            self.capturing -= 1
        self.streams.current = before

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.said

        class Graph:
            def replay(self) -> None:
                told.append("replay")

        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(torch.cuda, "Stream", lambda: PretendedStream(self, "side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self.streams, "current", stream))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        for name in ("stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))


@dataclass
class PretendedStream:
    cuda: PretendedCuda
    name: str

    def wait_stream(self, other: "PretendedStream") -> None:
        self.cuda.said.append(f"{self.name} waits for {other.name}")


def test_a_capture_follows_what_cuda_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-ups on the side stream, ordered behind and before the current one; all graphs in one pool, one stream."""
    cuda, logits = PretendedCuda(), {"click": torch.zeros(2)}
    cuda.install(monkeypatch)
    capture = CudaCapture(torch.device("cuda:0"))

    def function() -> Logits:
        cuda.said.append(f"run on {cuda.current.name}")
        return logits

    captured = ["side waits for default", *["run on side"] * WARM_UPS, "default waits for side"]
    captured += [("capture", "pool", "side", "thread_local"), "run on side"]
    replays = [capture(function), capture(function)]
    assert cuda.said == captured * 2
    assert cuda.current.name == "default"
    cuda.said.clear()
    assert replays[0]() is logits
    assert cuda.said == ["replay"]


def test_a_failed_capture_gives_the_current_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = PretendedCuda()
    cuda.install(monkeypatch)

    def function() -> Logits:
        if cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return {}

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaCapture(torch.device("cuda:0"))(function)
    assert cuda.current.name == "default"


def test_a_process_captures_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that serves and the one that is warmed up to follow it have scorers and threads of their own."""
    cuda = PretendedCuda()  # asserts it
    cuda.install(monkeypatch)
    captures = [CudaCapture(torch.device("cuda:0")) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda capture: [capture(dict) for _ in range(3)], captures):
            assert len(found) == 3
