"""Index 0 of every feature, "unknown or missing", is learned where the data has hardly any of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amounts import mostly_slow
from genrank.batch import Jagged, PackedBatch, map_arrays
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.nn.embeddings import Table
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters
from worlds import SPEC, tables, timelines
from zoo import ranker

FEATURES = ("item_id", "topic", "tags", "age", "device")  # ids, categorical, multi-valued, buckets, of the context
DEVICE_RATES = np.array([0.0, 0.9, 0.6, 0.15])  # of clicks; row 0 does not occur


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    """Timelines and tables in which everything is known, and clicks depend on the device."""
    random = np.random.default_rng(0)
    t = timelines(lengths=[12] * 150, seed=1)
    device = random.integers(1, 4, t.num_exposures)
    t = replace(
        t,
        item=np.maximum(t.item, 1),
        features={"device": device.astype(np.int32)},
        tasks=t.tasks | {"click": (random.random(len(device)) < DEVICE_RATES[device]).astype(np.int8)},
    )
    items, users = (known(table) for table in tables(150))
    b = SequenceBuilder(SequenceConfig(max_history=16), SPEC, timelines=t, items=items, users=users)
    return map_arrays(b.batch(b.samples()), torch.from_numpy)


def known(table: FeatureTable) -> FeatureTable:
    """Every value that is unknown becomes the first one."""
    features = {name: _known(column) for name, column in table.features.items()}
    return replace(table, features=features)


def _known(column: Any) -> Any:
    if isinstance(column, Jagged):
        rows = len(column.offsets) - 1
        return Jagged(np.ones(rows, np.int32), np.arange(rows + 1))
    return np.maximum(column, 1) if column.dtype == np.int32 else column


@pytest.mark.parametrize("name", mostly_slow(["genrank", "hstu", "mlp", "din"], often=["genrank", "mlp"]))
def test_rankers_learn_the_unknown_row_of_every_feature(name: str, batch: PackedBatch) -> None:
    def moved(**shares: float) -> dict[str, float]:
        model = ranker(name, SPEC, max_history=16, **shares)
        learn(model, lambda: click_loss(model, batch), steps=3)
        return unknown_rows(model)

    assert all(moved(id_dropout=0.2, feature_dropout=0.2)[name] > 0 for name in FEATURES)
    assert all(moved(id_dropout=0.0, feature_dropout=0.0)[name] == 0 for name in FEATURES)


def test_retrievers_learn_the_unknown_row_of_every_feature(batch: PackedBatch) -> None:
    torch.manual_seed(0)
    model = Retriever(RetrieverConfig(width=16, num_heads=2, num_blocks=1, feature_dropout=0.2), SPEC, max_history=16)

    def loss() -> Tensor:
        return model.queries(model.encode(batch), batch)[:, 0].mean()

    learn(model, loss, steps=3)
    assert all(unknown_rows(model)[name] > 0 for name in ("item_id", "topic", "tags", "age"))


@pytest.mark.parametrize("name", mostly_slow(["genrank", "mlp"], often=["mlp"]))
def test_a_candidate_of_unknown_device_is_scored_as_devices_are_on_average(name: str, batch: PackedBatch) -> None:
    model = ranker(name, SPEC, max_history=16, feature_dropout=0.05)
    learn(model, lambda: click_loss(model, batch), steps=150)
    model.eval()
    rate = float(batch.candidates.labels["click"].mean())
    assert abs(mean_click(model, batch, device=0) - rate) < 0.1
    assert mean_click(model, batch, device=1) > 0.75
    assert mean_click(model, batch, device=3) < 0.3


def test_a_row_without_values_is_the_unknown_row() -> None:
    table = Table(4, 3)
    nn.init.normal_(table.weight)
    means = table.mean(Jagged(torch.tensor([1, 3]), torch.tensor([0, 0, 2, 2])))
    torch.testing.assert_close(means, torch.stack([table.weight[0], table.weight[[1, 3]].mean(0), table.weight[0]]))


def click_loss(model: nn.Module, batch: PackedBatch) -> Tensor:
    return model.loss(model(batch), batch)["click"].mean()


def learn(model: nn.Module, loss: Any, *, steps: int) -> None:
    torch.manual_seed(0)
    model.train()
    dense, sparse = split_parameters(model)
    optimizers = [dense_optimizer(dense, lr=3e-3, weight_decay=0.0), RowWiseAdagrad(sparse, lr=0.05)]
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()


def unknown_rows(model: nn.Module) -> dict[str, float]:
    """Feature → size of its unknown row."""
    return {
        name.rsplit("of_", 1)[1]: float(module.weight[0].detach().abs().sum())
        for name, module in model.named_modules()
        if isinstance(module, Table) and "tables.of_" in name
    }


@torch.no_grad()
def mean_click(model: nn.Module, batch: PackedBatch, *, device: int) -> float:
    features = {"device": torch.full_like(batch.candidates.features["device"], device)}
    asked = replace(batch, candidates=replace(batch.candidates, features=features))
    probability: Tensor = model.predict(model(asked), asked)["click"]
    return float(probability.mean())
