"""A training step and a scoring forward on an accelerator, in which the host never waits for the device.

Where a step is logged or saved its loss is read, and so is what validation finds: that is outside of them.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amounts import mostly_slow
from genrank.batch import PackedBatch, map_arrays
from genrank.data.loader import Loader, LoaderConfig, in_one_block
from genrank.models.ranker import Ranker, build_ranker
from genrank.nn import dropout
from genrank.recipes import genrank_paper, genrank_small
from genrank.retrieval import training_losses
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.retrieval.training_losses import RetrievalLosses
from genrank.runs.retrieval_objective import RetrievalObjective
from genrank.runs.run_config import RunConfig
from genrank.training import trainer
from genrank.training.checkpoint import Checkpoints
from genrank.training.objective import Objective, RankingObjective
from genrank.training.trainer import Trainer, TrainingConfig
from host_waits import HostWaits, pretend_cuda
from worlds import SPEC, builder, timelines
from zoo import NAMES, SEQUENCE, config

META = torch.device("meta")
TRAINED = ("genrank", "alibi-both", "user-prefix", "recompute", "combined-actions", "hstu", "hstu-user-prefix")
TRAINED += ("hstu-block", "interleaved", "interleaved-hstu-encoding", "sim-hard", "sim-soft")
TRAINED += ("hstu-sim", "slot-and-clock", "ple", "ppnet", "wlr", "d2q", "quantile", "mlp", "din", "din-sim-soft")
SCORED = ("genrank", "user-prefix", "hstu", "interleaved", "sim-hard", "sim-soft", "slot-and-clock", "d2q", "din")


MAX_HISTORY = 10


@pytest.fixture
def like_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA device would choose, for tensors of the device `meta`."""
    pretend_cuda(monkeypatch)
    monkeypatch.setattr(trainer, "dense_optimizer", _adamw)  # fused ones take no tensors of that device


def _adamw(params: list[nn.Parameter], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, foreach=True)


class _OneKernel(torch.optim.Optimizer):
    """As many operators as fused AdamW takes: one, of no importance here."""

    def __init__(self, params: list[nn.Parameter], *, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr})

    def step(self, closure: None = None) -> None:
        torch.zeros(1, device=META)


def prepared(model: Ranker) -> Loader:
    """A loader of one batch with cold users, late actions and requests of several exposures."""
    b = builder(timelines(lengths=[37, 0, 5, 1, 18], seed=5), search=model.config.search, max_history=MAX_HISTORY)
    return Loader(b, b.samples(), LoaderConfig(batch_tokens=4096))


def in_training(model: nn.Module, loader: Loader, objective: Objective) -> Trainer:
    return Trainer(
        model,
        loader,
        TrainingConfig(epochs=50, validate_every=40),
        objective=objective,
        checkpoints=Checkpoints(Path("never-written")),
        validate=lambda: {"score": 0.0},
        reporters=[],
    )


def waits_of(step: Callable[[], None]) -> list[str]:
    step()  # the first one copies constants such as bucket edges, once and for all
    with HostWaits() as waits:
        step()
    return waits.found


def tiny(name: str) -> Ranker:
    torch.manual_seed(0)
    changes = {"attention": "auto"} if name in SEQUENCE else {}
    return build_ranker(config(name, **changes), SPEC, max_history=MAX_HISTORY)


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("name", mostly_slow(NAMES, often=TRAINED))
def test_a_training_step_of_a_ranker_never_waits(name: str) -> None:
    model = tiny(name).to(META)
    loader = prepared(model)
    training = in_training(model, loader, RankingObjective(model, {}))
    batch = loader.build(loader.samples)

    def step() -> None:
        training.train_step(batch.to(META))
        training._after_step(len(batch.candidates.item))

    assert waits_of(step) == []


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("name", mostly_slow(NAMES, often=SCORED))
def test_scoring_never_waits(name: str) -> None:
    model = tiny(name).to(META).eval()
    loader = prepared(model)
    batch = loader.build(loader.samples)

    @torch.no_grad()
    def score() -> None:
        moved = batch.to(META)
        model.predict(model(moved), moved)
        state: Any = model.encode_history(moved)
        model.predict(model.score(state, moved), moved)

    assert waits_of(score) == []


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize(("recipe", "most"), [(genrank_small, 680), (genrank_paper, 780)])
def test_a_step_starts_few_kernels(
    recipe: Callable[[], RunConfig],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Each costs the host microseconds. In fp32; autocast adds a copy of every weight, and of its gradient."""
    monkeypatch.setattr(trainer, "dense_optimizer", _OneKernel)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: None)  # some five, all at once
    monkeypatch.setattr(dropout.F, "dropout", lambda x, p: torch.native_dropout(x, p, True)[0])
    model = build_ranker(recipe().model, SPEC, max_history=MAX_HISTORY).to(META)
    loader = prepared(model)
    training = in_training(model, loader, RankingObjective(model, {}))
    batch = in_one_block(loader.build(loader.samples), pin=False)
    training.train_step(batch.to(META))
    with HostWaits() as waits:
        training.train_step(batch.to(META))
    record_property("operators", waits.num_kernels)
    assert waits.num_kernels <= most


TWO_TOWERS: dict[str, Any] = {"generator": "pooled", "auxiliary": 0.0, "ranker": 0.0}
RETRIEVERS: dict[str, dict[str, Any]] = {
    "two towers": TWO_TOWERS,
    "two towers, sampled": {**TWO_TOWERS, "full_softmax": 0},
    "transformer": {"auxiliary": 0.0, "ranker": 0.0},
    "auxiliary": {"ranker": 0.0},
    "auxiliary, sampled": {"ranker": 0.0, "full_softmax": 0},
}


def retrieving(changes: dict[str, Any]) -> tuple[Trainer, PackedBatch]:
    sizes = {"width": 16, "num_heads": 2, "num_blocks": 2, "feedforward": 32, "embedding_dim": 8, "places": 3}
    sizes |= {"num_hard": 4, "num_negatives": 9, "num_auxiliary": 6}
    wanted = RetrieverConfig(**(sizes | changes))
    b = builder(timelines(lengths=[31, 0, 6, 17], seed=3), max_history=MAX_HISTORY, search=wanted.search)
    loader = Loader(b, b.samples(), LoaderConfig(batch_tokens=4096))
    model = Retriever(wanted, SPEC, max_history=MAX_HISTORY)
    objective = RetrievalObjective(model, loader, torch.device("cpu"))  # counts the catalogue, once
    _move(objective.model_losses)
    return in_training(model.to(META), loader, objective), loader.build(loader.samples)


def _move(losses: RetrievalLosses) -> None:
    """To the device `meta`, from which nothing could be counted."""
    here, hard = losses.catalogue, losses.hard
    there = ItemVectors(here.table, here.target_count.to(META), here.trained_J.to(META), META)
    there.__dict__["trained_columns"] = map_arrays(here.trained_columns, lambda tensor: tensor.to(META))
    losses.catalogue, losses.place_of_row = there, losses.place_of_row.to(META)
    if hard is not None:
        hard.catalogue, hard.row_S, hard.vector_SW = there, hard.row_S.to(META), hard.vector_SW.to(META)


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_training_step_of_a_retriever_never_waits(name: str) -> None:
    training, batch = retrieving(RETRIEVERS[name])
    assert waits_of(lambda: training.train_step(batch.to(META))) == []


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("full_softmax", [0, 1000])
def test_the_ranker_of_a_retriever_waits_once_for_what_its_search_has_found(
    full_softmax: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its negatives are found on the device, and their features lie on the host."""
    reads = []

    def read(found: Tensor) -> Tensor:
        reads.append(found)
        return torch.arange(found.numel()).view(found.shape) % 29 + 1

    monkeypatch.setattr(training_losses, "read", read)
    training, batch = retrieving({"full_softmax": full_softmax})
    assert waits_of(lambda: training.train_step(batch.to(META))) == []
    assert len(reads) == 2  # in two steps


VALUES = torch.zeros(4, device=META)
INDEX = torch.zeros(4, dtype=torch.int64, device=META)
WAITING: dict[str, Callable[[], Any]] = {
    "_local_scalar_dense": lambda: VALUES.sum().item(),
    "index by a mask": lambda: VALUES[VALUES > 0],
    "index_put_ by a mask": lambda: VALUES.index_put_((VALUES > 0,), VALUES),
    "index_put_ of a number": lambda: VALUES.clone().index_put_((INDEX,), torch.zeros(())),
    "repeat_interleave without output_size": lambda: torch.repeat_interleave(VALUES, INDEX),
    "nonzero": VALUES.nonzero,
    "bincount": lambda: torch.bincount(INDEX),
    "_unique2": lambda: torch.unique(INDEX),
    "_to_copy from cpu to meta": lambda: torch.zeros(3).to(META),
    "_to_copy from meta to cpu": VALUES.cpu,
    "index of tensors on both sides": lambda: VALUES[torch.zeros(2, dtype=torch.int64)],
    "add of tensors on both sides": lambda: VALUES + torch.zeros(4),
    "copy_ from cpu to meta": lambda: VALUES.clone().copy_(torch.zeros(4)),
}


@pytest.mark.parametrize("reason", WAITING)
def test_what_waits_is_found(reason: str) -> None:
    with HostWaits() as waits, suppress(RuntimeError, NotImplementedError):  # without values there is no answer
        WAITING[reason]()
    assert [found.split(" at ")[0] for found in waits.found] == [reason]


def test_what_does_not_wait_is_not_found() -> None:
    with HostWaits() as waits:
        torch.zeros(3).to(META, non_blocking=True)
        torch.repeat_interleave(VALUES, INDEX, output_size=7)
        VALUES[INDEX].masked_fill(VALUES > 0, 0.0)
        torch.zeros(3).sum().item()  # on the host
    assert waits.found == []
    assert waits.operators["repeat_interleave"] == 1


def test_a_batch_in_one_block_is_the_same_batch_and_moves_by_one_copy() -> None:
    loader = prepared(tiny("sim-hard"))
    plain = loader.build(loader.samples)
    block = in_one_block(plain, pin=False)
    assert arrays(block.to("cpu")) == arrays(plain)
    assert block.candidates.lengths is plain.candidates.lengths
    with HostWaits() as waits:
        moved = block.to(META)
    assert waits.operators["_to_copy"] == 1
    assert shapes(moved) == shapes(plain)
    other = replace(block, users={"age": torch.zeros(3, dtype=torch.int64)})
    assert other.to("cpu").users["age"].tolist() == [0, 0, 0]


def arrays(batch: PackedBatch) -> list[bytes]:
    found: list[bytes] = []
    map_arrays(batch, lambda tensor: found.append(tensor.numpy().tobytes()))
    return found


def shapes(batch: PackedBatch) -> list[Any]:
    found: list[Any] = []
    map_arrays(batch, lambda tensor: found.append((tensor.shape, tensor.dtype)))
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["genrank", "hstu", "sim-soft", "ple", "din"])
def test_cuda_itself_finds_no_wait_in_a_step(name: str) -> None:
    model = tiny(name).to("cuda")
    loader = prepared(model)
    loader.pin = True
    training = in_training(model, loader, RankingObjective(model, {}))
    batch: PackedBatch = loader.build(loader.samples)
    training.train_step(batch.to("cuda"))  # compiles kernels, copies constants
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.train_step(batch.to("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
