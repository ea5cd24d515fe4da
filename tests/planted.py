"""Worlds of which one part of GRank is known to be needed, and a retriever that learns them."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from genrank.data.loader import Loader, LoaderConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig, take
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, offsets_of
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.runs.retrieval_objective import RetrievalObjective
from genrank.runs.retrieval_ranks import locate
from genrank.schema import DataSpec, FeatureSpec
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters

NUM_KEYS = 8  # items 1 to 8; item 8 + k is what somebody takes in the end who once took item k
LEARNING_RATE, SPARSE_LEARNING_RATE = 2e-3, 0.15  # as in the recipe grank-small


class World(NamedTuple):
    """Items by user and event, all users of one length, and which events are targets."""

    item_UL: NDArray[np.int64]
    target_UL: NDArray[np.bool_]
    num_items: int


def keys_and_answers(num_users: int, length: int, *, key_at: NDArray[np.int64], num_noise: int) -> World:
    """One key per user, its answer last, and noise between them. Key, answer and two events of noise are targets."""
    random, users = np.random.default_rng(0), np.arange(num_users)
    first_noise = 2 * NUM_KEYS + 1
    item_UL = random.integers(first_noise, first_noise + num_noise, (num_users, length))
    key = random.integers(1, NUM_KEYS + 1, num_users)
    item_UL[users, key_at] = key
    item_UL[:, -1] = NUM_KEYS + key
    target_UL = np.zeros((num_users, length), np.bool_)
    target_UL[users, key_at] = True
    target_UL[:, -3:] = True
    return World(item_UL, target_UL, 2 * NUM_KEYS + num_noise)


def found_first(world: World, config: RetrieverConfig, *, window: int, epochs: int, seed: int = 0) -> dict[str, float]:
    """Of users held out, for how many the last event comes first, by stage, after so many epochs."""
    builder = _builder(world, config, window)
    samples = builder.samples()
    held_out = samples.user % 4 == 0
    train = Loader(builder, take(samples, np.flatnonzero(~held_out)), LoaderConfig(batch_tokens=256, seed=seed))
    test = Loader(builder, take(samples, np.flatnonzero(held_out)), LoaderConfig(shuffle=False))
    torch.manual_seed(seed)
    model = Retriever(config, spec_of(world), max_history=window)
    objective = RetrievalObjective(model, train, torch.device("cpu"))
    dense, sparse = split_parameters(model)
    optimizers = [
        dense_optimizer(dense, lr=LEARNING_RATE, weight_decay=0.0),
        RowWiseAdagrad(sparse, lr=SPARSE_LEARNING_RATE),
    ]
    for _ in range(epochs):
        model.train()
        for batch in train:
            losses = objective.forward(batch)
            loss = torch.stack([objective.weights[n] * x.sum() / max(len(x), 1) for n, x in losses.items()]).sum()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(dense, 1.0)
            for optimizer in optimizers:
                optimizer.step()
    found = locate(model, [test])
    is_answer = (found.item > NUM_KEYS) & (found.item <= 2 * NUM_KEYS)
    return {stage: float((rank[is_answer] < 1).mean()) for stage, rank in found.ranks.items()}


def spec_of(world: World) -> DataSpec:
    feature = FeatureSpec(name="item_id", owner="item", kind="categorical", size=world.num_items + 1)
    return DataSpec(features=(feature,), tasks=(), feedback=(), statistics=())


def _builder(world: World, config: RetrieverConfig, window: int) -> SequenceBuilder:
    num_users, length = world.item_UL.shape
    minute = np.tile(np.arange(length), num_users)
    item = world.item_UL.reshape(-1).astype(np.int32)
    timelines = Timelines(
        users=np.arange(1, num_users + 1, dtype=np.int32),
        offsets=offsets_of(np.full(num_users, length)),
        time=1_000_000 + 60 * minute,
        request=minute.astype(np.int32),
        position=np.zeros(len(item), np.int32),
        item=item,
        target=world.target_UL.reshape(-1),
        tasks={},
        censored={},
        feedback={},
        features={},
        statistics=np.zeros((len(item), 0), np.float16),
        oracle={},
    )
    return SequenceBuilder(
        SequenceConfig(max_history=window, grouping="user"),
        spec_of(world),
        timelines=timelines,
        items=_table(world.num_items, {"item_id": np.arange(world.num_items + 1, dtype=np.int32)}, item),
        users=_table(num_users, {}, np.arange(num_users + 1)),
        search=config.search,
    )


def _table(num: int, features: dict[str, NDArray[np.int32]], shown: NDArray[np.integer]) -> FeatureTable:
    return FeatureTable(
        ids=pa.array(["", *(f"{row:05d}" for row in range(1, num + 1))]),
        features=features,
        first_time=np.zeros(num + 1, np.int64),
        train_count=np.bincount(shown, minlength=num + 1),
    )
