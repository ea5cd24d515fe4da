"""The slot in the feed as an input: what it does to clicks is learned apart from what the items do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from amounts import mostly_slow
from genrank.batch import PackedBatch, map_arrays
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.models.ranker import Ranker, build_ranker
from genrank.nn import position
from genrank.nn.position import PositionBias, slot_index
from genrank.schema import FeatureSpec
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters
from worlds import SPEC, builder, tables, timelines
from zoo import config, ranker

NUM_USERS, LENGTH, NUM_SLOTS = 1500, 12, 4
EPOCHS = 5
ITEM_SPEC = replace(SPEC, features=(FeatureSpec(name="item_id", owner="item", kind="categorical", size=31),))
APPEAL = np.linspace(-1.5, 1.5, 30)  # log-odds of a click, by item
BY_SLOT = np.array([2.0, 0.5, -1.0, -2.5])  # and what the slot adds


@pytest.fixture(scope="module")
def biased() -> SequenceBuilder:
    """Requests of four items. The policy that logged them put the less appealing ones on top, most of the time."""
    random = np.random.default_rng(0)
    items, users = tables(NUM_USERS)
    t = timelines(lengths=[LENGTH] * NUM_USERS)
    number = np.arange(t.num_exposures)
    item = np.concatenate([random.choice(30, NUM_SLOTS, replace=False) for _ in range(len(number) // NUM_SLOTS)])
    liked_by_policy = -APPEAL[item] + random.normal(size=len(item))
    position = np.argsort(np.argsort(-liked_by_policy.reshape(-1, NUM_SLOTS)), axis=1).ravel()
    click = (random.random(len(item)) < 1 / (1 + np.exp(-APPEAL[item] - BY_SLOT[position]))).astype(np.int8)
    t = replace(
        t,
        time=1_000_000 + 600 * (number % LENGTH // NUM_SLOTS),
        request=(number % LENGTH // NUM_SLOTS).astype(np.int32),
        item=(item + 1).astype(np.int32),
        position=position.astype(np.int32),
        tasks={"click": click, "dwell": np.full(len(item), np.nan, np.float32)},
    )
    return SequenceBuilder(SequenceConfig(max_history=32), ITEM_SPEC, timelines=t, items=items, users=users)


@pytest.mark.parametrize("name", mostly_slow(["genrank", "hstu", "mlp"], often=["genrank"]))
def test_the_order_served_is_that_of_appeal_not_of_slots(name: str, biased: SequenceBuilder) -> None:
    told = agreement(trained(name, biased, position_feature=True), biased)
    untold = agreement(trained(name, biased, position_feature=False), biased)
    assert untold < 0  # what was put on top looks good
    assert told > 0.95


@pytest.mark.parametrize("name", ["slot-and-clock", "hstu-slot-and-clock", "mlp-slot-and-clock", "din-slot-and-clock"])
def test_a_candidates_slot_is_seen_in_training_only(name: str) -> None:
    model = ranker(name, SPEC, max_history=10)
    batch = map_arrays((b := builder(timelines(lengths=[20, 7]), max_history=10)).batch(b.samples()), torch.from_numpy)
    elsewhere = replace(batch, candidates=replace(batch.candidates, slot=batch.candidates.slot + 5))
    assert torch.equal(model(batch)["click"], model(elsewhere)["click"])
    model.train()
    seen, moved = (_seeded(model, each) for each in (batch, elsewhere))
    assert not torch.allclose(seen, moved, atol=1e-3)


def test_past_slots_are_seen_when_ranking_too() -> None:
    batch = map_arrays((b := builder(timelines(lengths=[20, 7]), max_history=10)).batch(b.samples()), torch.from_numpy)
    elsewhere = replace(batch, history=replace(batch.history, slot=batch.history.slot + 5))
    for name in ("slot-and-clock", "hstu-slot-and-clock", "din-slot-and-clock"):
        model = ranker(name, SPEC, max_history=10)
        assert not torch.allclose(model(batch)["click"], model(elsewhere)["click"], atol=1e-4), name


def test_an_exposure_whose_slot_is_dropped_teaches_what_unknown_adds_and_nothing_else(monkeypatch) -> None:
    monkeypatch.setattr(position, "UNKNOWN_SHARE", 1.0)
    bias = PositionBias({"click": 1, "dwell": 3}).train()
    logits = {"click": torch.zeros(5, 1, requires_grad=True), "dwell": torch.zeros(5, 3, requires_grad=True)}
    added = bias(logits, torch.arange(5))
    sum(each.sum() for each in added.values()).backward()
    assert all(each.grad.abs().sum() == 0 for each in logits.values())
    assert bias.table.weight.grad.coalesce().indices()[0].tolist() == [0]


@pytest.mark.parametrize(("slot", "row"), [(-1, 0), (0, 1), (253, 254), (254, 255), (255, 255), (2**31 - 1, 255)])
def test_slots_have_rows(slot: int, row: int) -> None:
    assert slot_index(torch.tensor([slot])).tolist() == [row]


def _seeded(model: Ranker, batch: PackedBatch) -> torch.Tensor:
    torch.manual_seed(1)
    return model(batch)["click"]


def trained(name: str, b: SequenceBuilder, **changes: Any) -> Ranker:
    torch.manual_seed(0)
    model = build_ranker(config(name, dropout=0.0, id_dropout=0.0, **changes), ITEM_SPEC, max_history=32).train()
    dense, sparse = split_parameters(model)
    optimizers = [dense_optimizer(dense, lr=3e-3, weight_decay=0.0), RowWiseAdagrad(sparse, lr=0.1)]
    loader = Loader(b, b.samples(), LoaderConfig(batch_tokens=1024))
    for _ in range(EPOCHS):
        for batch in loader:
            loss = model.loss(model(batch), batch)["click"].mean()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return model.eval()


@torch.no_grad()
def agreement(model: Ranker, b: SequenceBuilder) -> float:
    """Rank correlation of the items' appeal with the mean score that they are served with."""
    batch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    score = model(batch)["click"].squeeze(1).numpy()
    item = b.timelines.item[batch.candidates.exposure.numpy()] - 1
    mean = np.bincount(item, weights=score) / np.bincount(item)
    return float(np.corrcoef(np.argsort(np.argsort(mean)), np.arange(30))[0, 1])
