"""A rule with a known answer: a user clicks the items of one of two topics, and only the history tells which."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from amounts import mostly_slow
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig, take
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines
from genrank.evaluation.metrics import auc
from genrank.models import sequence_ranker
from genrank.models.inputs import RankerConfig
from genrank.models.ranker import Ranker, build_ranker
from genrank.schema import FeatureSpec
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters
from worlds import SPEC, tables, timelines
from zoo import NAMES, config

NUM_USERS, LENGTH = 480, 12
OFTEN = ("genrank", "sim-hard", "ple", "d2q", "mlp", "din")
MAX_EPOCHS = 30  # most settings need two, the interleaved ones up to fifteen
SEEDS = (1, 2)  # a second start, since a net of width 16 finds no way out of some first weights; a bug fails both
RULE_SPEC = replace(
    SPEC,
    features=(SPEC.features[0], FeatureSpec(name="topic", owner="item", kind="categorical", size=3)),
)
World = tuple[Timelines, FeatureTable, FeatureTable]


@pytest.fixture(scope="module")
def world() -> World:
    """A coin's throw decides each user's topic; nothing names a user, and a quarter of them is held out."""
    random = np.random.default_rng(0)
    items, users = tables(NUM_USERS)
    topic = np.concatenate([[0], 1 + np.arange(30) % 2]).astype(np.int32)
    items = replace(items, features=items.features | {"topic": topic})
    t = timelines(lengths=[LENGTH] * NUM_USERS, slots=2, max_gap=9)
    item = random.integers(1, 31, t.num_exposures).astype(np.int32)
    favourite = np.repeat(random.integers(1, 3, NUM_USERS), LENGTH)
    click = (topic[item] == favourite).astype(np.int8)
    dwell = np.where(click == 1, random.gamma(2, 3, len(click)), np.nan).astype(np.float32)
    return replace(t, item=item, tasks={"click": click, "dwell": dwell}), items, users


# With items and actions apart, one block must find an action's item and a second one what the actions say of a topic.
@pytest.mark.parametrize("name", mostly_slow([name for name in NAMES if name != "hstu-one-block"], often=OFTEN))
def test_a_planted_rule_is_learned_to_an_auc_above_095(name: str, world: World) -> None:
    wanted = config(name, dropout=0.0, id_dropout=0.0)
    train, test = loaders(wanted, world)
    assert any(reached > 0.95 for seed in SEEDS for reached in epochs(wanted, seed, train, test))


@pytest.mark.parametrize("seed", mostly_slow(SEEDS, often=[2]))
def test_interleaved_tokens_learn_late_since_an_action_must_find_its_item(seed: int, world: World, monkeypatch) -> None:
    """The same tokens with the item added to the action's learn at once: no wiring is wrong, the start is a saddle."""
    wanted = config("hstu", dropout=0.0, id_dropout=0.0)
    train, test = loaders(wanted, world)
    interleaved = list(islice(epochs(wanted, seed, train, test), 4))  # 136 steps
    plain = sequence_ranker.interleaved_context
    monkeypatch.setattr(
        sequence_ranker,
        "interleaved_context",
        lambda item, action, history, *, as_candidates: plain(
            item, item + action, history, as_candidates=as_candidates
        ),
    )
    with_item = list(islice(epochs(wanted, seed, train, test), 4))
    assert max(interleaved) < 0.6
    assert with_item[-1] > 0.95


def loaders(wanted: RankerConfig, world: World) -> tuple[Loader, Loader]:
    """Of three quarters of the users, to learn from, and of the others."""
    t, items, users = world
    builder = SequenceBuilder(
        SequenceConfig(max_history=32), RULE_SPEC, timelines=t, items=items, users=users, search=wanted.search
    )
    samples = builder.samples()
    held_out = samples.user % 4 == 0
    train = Loader(builder, take(samples, np.flatnonzero(~held_out)), LoaderConfig(batch_tokens=256))
    test = Loader(builder, take(samples, np.flatnonzero(held_out)), LoaderConfig(shuffle=False))
    return train, test


def epochs(wanted: RankerConfig, seed: int, train: Loader, test: Loader) -> Iterator[float]:
    """AUC after each epoch of training from the first weights of that seed."""
    torch.manual_seed(seed)
    model = build_ranker(wanted, RULE_SPEC, max_history=32)
    dense, sparse = split_parameters(model)
    optimizers = [dense_optimizer(dense, lr=2e-3, weight_decay=0.0), RowWiseAdagrad(sparse, lr=0.1)]
    for _ in range(MAX_EPOCHS):
        learn(model, train, optimizers)
        yield judge(model, test)


def learn(model: Ranker, loader: Loader, optimizers: list[torch.optim.Optimizer]) -> None:
    """One epoch."""
    model.train()
    for batch in loader:
        losses = model.loss(model(batch), batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses["click"].mean().backward()
        for optimizer in optimizers:
            optimizer.step()


@torch.no_grad()
def judge(model: Ranker, loader: Loader) -> float:
    """AUC of the candidates whose history tells the topic."""
    model.eval()
    scores, labels = [], []
    for batch in loader:
        told = batch.candidates.prefix > 0
        scores.append(model(batch)["click"].squeeze(1)[told])
        labels.append(batch.candidates.labels["click"][told])
    return auc(torch.cat(scores).double().numpy(), torch.cat(labels).numpy())
