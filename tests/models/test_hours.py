"""Hour and weekday of the request as inputs: those that the users' clocks show, summer time or not."""

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch

from amounts import mostly_slow
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.evaluation.metrics import auc
from genrank.models.ranker import Ranker, build_ranker
from genrank.schema import DataSpec, FeatureSpec
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters
from worlds import SPEC, tables, timelines
from zoo import config

NUM_USERS, LENGTH, EPOCHS = 400, 8, 6
ZONE = ZoneInfo("America/New_York")
DAY = 86400
BEGIN, YEAR = 1_672_531_200, 365 * DAY  # 2023
ID = FeatureSpec(name="item_id", owner="item", kind="categorical", size=31)


@pytest.fixture(scope="module")
def year() -> SequenceBuilder:
    """Over a year users click in the even hours of their clocks, and never on Sundays."""
    random = np.random.default_rng(0)
    items, users = tables(NUM_USERS)
    t = timelines(lengths=[LENGTH] * NUM_USERS)
    first = random.integers(0, YEAR, (NUM_USERS, 1))  # how much one has done says nothing of the season
    time = BEGIN + (first + np.sort(random.integers(0, 14 * DAY, (NUM_USERS, LENGTH)), axis=1)).ravel()
    clocks = [datetime.fromtimestamp(moment, ZONE) for moment in time.tolist()]
    click = np.array([clock.hour % 2 == 0 and clock.isoweekday() < 7 for clock in clocks], np.int8)
    request = np.tile(np.arange(LENGTH, dtype=np.int32), NUM_USERS)
    t = replace(t, time=time, request=request, tasks=t.tasks | {"click": click})
    spec = replace(SPEC, features=(ID,), zone="America/New_York")
    return SequenceBuilder(SequenceConfig(max_history=16), spec, timelines=t, items=items, users=users)


@pytest.mark.parametrize("name", mostly_slow(["genrank", "hstu", "mlp"], often=["genrank"]))
def test_a_rule_of_the_clock_is_learned_in_the_users_zone(name: str, year: SequenceBuilder) -> None:
    assert reached(name, year, year.spec, hour_feature=True, weekday_feature=True) > 0.99
    assert reached(name, year, year.spec, hour_feature=True) < 0.97  # Sundays look like other days


def test_in_another_zone_the_even_hours_of_summer_are_the_odd_ones_of_winter(year: SequenceBuilder) -> None:
    # Of the ranker that pools: attention finds out from a user's past clicks which of the two it is.
    assert reached("mlp", year, replace(year.spec, zone="UTC"), hour_feature=True, weekday_feature=True) < 0.9


def reached(name: str, b: SequenceBuilder, spec: DataSpec, **features: bool) -> float:
    """AUC on the training part, of which nothing but the clock can be learned by heart in so few steps."""
    torch.manual_seed(0)
    model = build_ranker(config(name, dropout=0.0, **features), spec, max_history=16)
    dense, sparse = split_parameters(model)
    optimizers = [dense_optimizer(dense, lr=5e-3, weight_decay=0.0), RowWiseAdagrad(sparse, lr=0.1)]
    loader = Loader(b, b.samples(), LoaderConfig(batch_tokens=512))
    for _ in range(EPOCHS):
        learn(model, loader, optimizers)
    return judge(model, loader)


def learn(model: Ranker, loader: Loader, optimizers: list[torch.optim.Optimizer]) -> None:
    model.train()
    for batch in loader:
        for optimizer in optimizers:
            optimizer.zero_grad()
        model.loss(model(batch), batch)["click"].mean().backward()
        for optimizer in optimizers:
            optimizer.step()


@torch.no_grad()
def judge(model: Ranker, loader: Loader) -> float:
    model.eval()
    answers = [(model(batch)["click"].squeeze(1), batch.candidates.labels["click"]) for batch in loader]
    scores, labels = (torch.cat(part).double().numpy() for part in zip(*answers, strict=True))
    return auc(scores, labels)
