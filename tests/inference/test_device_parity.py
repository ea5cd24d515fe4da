"""What is served on a device is what the model gives offline on CPU in fp32: logits of a stream of requests and events.

On CPU the same test runs with what stands for CUDA's capture, so that a GPU finds the test itself in order.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captured import Graphs
from genrank.data.loader import Loader, LoaderConfig
from genrank.inference import cuda_graphs, ranking_engine
from genrank.inference.cuda_graphs import CudaCapture, GraphLimits, GraphScorer
from genrank.inference.ranking_engine import RankingEngine
from genrank.inference.sqlite_store import SQLiteStore
from genrank.models.ranker import Ranker
from genrank.nn.devices import on_device
from served_feed import ServedFeed

Logits = dict[str, Tensor]
NAMES = ("genrank", "alibi-both", "user-prefix", "hstu", "interleaved", "hstu-sim", "din", "mlp")
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of logits, absolute and relative
NEEDS_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)


@dataclass(frozen=True)
class Computing:
    """How an engine computes."""

    device: str
    dtype: str
    graphs: bool

    def __str__(self) -> str:
        return f"{self.device}-{self.dtype}-{'graphs' if self.graphs else 'eager'}"


def ways() -> list[Any]:
    return [
        pytest.param(Computing(device, dtype, graphs), id=str(Computing(device, dtype, graphs)), marks=marks)
        for device, marks in (("cpu", ()), ("cuda", NEEDS_GPU))
        for dtype in ("fp32", "bf16")
        for graphs in (False, True)
    ]


def cases(name: str) -> list[Any]:
    """Every way; without graphs most are the slow tests': test_ranking_engine.py has the same of fp32."""
    found = []
    for each in ways():
        (way,) = each.values
        slow = way.device == "cpu" and not way.graphs and name != "genrank"
        marks = (*each.marks, pytest.mark.slow) if slow else each.marks
        found.append(pytest.param(name, way, id=f"{name}-{way}", marks=marks))
    return found


@pytest.fixture(scope="module")
def served(data: Path) -> ServedFeed:
    return ServedFeed(data)


@pytest.fixture
def captures_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU, too, engines score by captured graphs where these are wanted."""
    real = cuda_graphs.scorer

    def scorer(model: Any, device: torch.device, *, graphs: bool = True) -> Any:
        if device.type == "cpu" and graphs and model.capturable:
            return GraphScorer(model, Graphs(), limits=GraphLimits(after=3))
        return real(model, device, graphs=graphs)

    monkeypatch.setattr(ranking_engine, "scorer", scorer)


@torch.no_grad()
def offline(served: ServedFeed, model: Ranker) -> dict[int, dict[str, np.ndarray]]:
    """Logits by exposure, on CPU in fp32."""
    builder = served.builder(model)
    loader = Loader(builder, served.data.part(builder, "test"), LoaderConfig(shuffle=False))
    found: dict[int, dict[str, np.ndarray]] = {}
    for batch in loader:
        logits = {task: value.numpy() for task, value in model(batch).items()}
        for place, row in enumerate(batch.candidates.exposure.tolist()):
            found[row] = {task: value[place] for task, value in logits.items()}
    return found


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ranker], list[Logits]]:
    """Makes a model tell the logits that it is asked to turn into scores."""

    def listen(model: Ranker) -> list[Logits]:
        told: list[Logits] = []
        predict = model.predict

        def predicting(logits: Logits, batch: Any) -> Logits:
            told.append({task: value.float().cpu() for task, value in logits.items()})
            return predict(logits, batch)

        monkeypatch.setattr(model, "predict", predicting)
        return told

    return listen


def serving(served: ServedFeed, model: Ranker, store: SQLiteStore | None, way: Computing) -> RankingEngine:
    on = copy.deepcopy(model).to(way.device)
    return served.engine(on, store, device=way.device, dtype=way.dtype, graphs=way.graphs)


@pytest.mark.usefixtures("captures_everywhere")
@pytest.mark.parametrize(("name", "way"), [case for name in NAMES for case in cases(name)])
def test_served_logits_are_the_offline_ones(
    name: str, way: Computing, served: ServedFeed, said: Callable[[Ranker], list[Logits]], tmp_path: Path
) -> None:
    model, store = served.ranker(name), SQLiteStore(tmp_path / "events.sqlite")
    for parameter in model.parameters():  # of a trained model's size: of numbers above one, bf16 rounds hundredths off
        parameter.data.mul_(0.5) if parameter.ndim > 1 else None
    expected = offline(served, model)
    engine = serving(served, model, store, way)
    told, compared, new, past = said(engine.model), 0, 0, 0
    for rows, request in served.requests(model):
        (found,) = engine.score([request])
        new, past = new + found.num_encoded, past + found.num_history
        for task, value in told[-1].items():
            right = np.stack([expected[row][task] for row in rows.tolist()])
            np.testing.assert_allclose(
                value.numpy(), right, atol=TOLERANCE[way.dtype], rtol=TOLERANCE[way.dtype], err_msg=task
            )
            compared += right.size
        store.append(served.events(request.user, rows))
    assert compared > 300
    assert (new < past) == (name not in ("din", "mlp"))
    if way.graphs and model.capturable:
        assert isinstance(engine._score, GraphScorer)
        assert engine._score.problem == ""
        assert engine._score.num_graphs > 0


@pytest.mark.usefixtures("captures_everywhere")
@pytest.mark.parametrize("way", ways())
def test_requests_that_are_served_together_are_those_that_are_served_alone(
    way: Computing, served: ServedFeed, said: Callable[[Ranker], list[Logits]]
) -> None:
    model = served.ranker("genrank")
    for parameter in model.parameters():
        parameter.data.mul_(0.5) if parameter.ndim > 1 else None
    requests = list({request.user: request for _, request in served.requests(model)}.values())
    engine = serving(served, model, None, way)
    told = said(engine.model)
    alone = [engine.score([request])[0] for request in requests]
    for _ in range(4):
        together = engine.score(requests)
    assert len(told) == len(requests) + 4
    for one, other in zip(alone, together, strict=True):
        assert other.num_encoded == 0
        for task, score in one.scores.items():
            np.testing.assert_allclose(
                other.scores[task], score, atol=TOLERANCE[way.dtype] / 4, rtol=TOLERANCE[way.dtype]
            )


@pytest.fixture
def on_cuda(served: ServedFeed) -> Iterator[tuple[RankingEngine, list[Any]]]:
    """An engine on CUDA and requests of several users, which it has met."""
    model = served.ranker("genrank")
    engine = serving(served, model, None, Computing("cuda", "bf16", True))
    requests = [request for _, request in served.requests(model)][:16]
    engine.score(requests)
    torch.cuda.synchronize()
    yield engine, requests
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_itself_finds_no_wait_before_the_answers(
    on_cuda: tuple[RankingEngine, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, requests = on_cuda
    for _ in range(6):  # captured, and the graph's first replays compared
        engine.score(requests)
    read = ranking_engine.read

    def reading(columns: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        return read(columns)

    monkeypatch.setattr(ranking_engine, "read", reading)
    torch.cuda.set_sync_debug_mode("error")
    assert engine.score(requests)[0].num_encoded == 0
    torch.cuda.set_sync_debug_mode("error")
    assert engine.score([dataclasses.replace(requests[0], user="nobody")])[0].num_history == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_cache_counts_all_that_cuda_has_given_away(on_cuda: tuple[RankingEngine, list[Any]]) -> None:
    """And what lies on the host beside it, which is much for histories as short as these."""
    engine, _ = on_cuda
    counted, held = engine.cache.counts().num_bytes, torch.cuda.memory_allocated()
    engine.cache.remove_where(lambda _: True)
    assert 0.2 < (held - torch.cuda.memory_allocated()) / counted <= 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capture_that_fails_leaves_cuda_as_it_was() -> None:
    device = torch.device("cuda:0")
    with on_device(device):
        stream, capture = torch.cuda.current_stream(), CudaCapture(device)
        numbers = torch.ones(4, device=device)
        with pytest.raises(RuntimeError):
            capture(lambda: {"click": numbers * numbers.sum().item()})
        assert torch.cuda.current_stream() == stream
        assert (numbers + 1).tolist() == [2.0] * 4
        replay = CudaCapture(device)(lambda: {"click": numbers * 2})
        numbers.fill_(3)
        assert replay()["click"].tolist() == [6.0] * 4
