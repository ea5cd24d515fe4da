"""The speed-up by packing a user's requests over one history, and the share of attention that would be padding.

On the simulated feed, over users with `MIN_REQUESTS` and more. A round trains on all requests of some users twice:
packed, and one request per sample. The exposures are the same, and so is the loss, which is compared too.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrank.batch import PackedBatch
from genrank.bench.bench_options import BenchOptions
from genrank.bench.feeds import simulated
from genrank.bench.machine import bench_device, settle
from genrank.bench.measure import interleave
from genrank.bench.steps import Steps, num_exposures
from genrank.bench.worlds import batches_of
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.data.sequence import Samples, SequenceConfig, take
from genrank.models.ranker import build_ranker
from genrank.nn.backends import PADDING_BACKENDS, choose_backend

MIN_REQUESTS = 20
NUM_GROUPS = 3  # of users; rounds take them in turn
GROUPINGS = {"packed": "user", "request": "request"}


def packed_against_unpacked(options: BenchOptions, *, seconds: float) -> dict[str, Any]:
    """`packed_over_request`, `padding` and the figures they are computed from."""
    with tempfile.TemporaryDirectory() as folder:
        data = simulated(Path(folder), replace(options.sizes.world, seed=options.seed))
    chosen = busy_users(data)
    users = np.random.default_rng(options.seed).permutation(chosen)[: NUM_GROUPS * options.sizes.group]
    groups = np.array_split(users, min(NUM_GROUPS, len(users)))
    sides = {name: Passes(data, grouping, groups, options) for name, grouping in GROUPINGS.items()}
    rounds = interleave(sides, seconds=seconds, settle=settle, max_rounds=60)
    losses = {name: side.loss(0) for name, side in sides.items()}
    exposures = sides["packed"].exposures()
    return {
        "packed_over_request": rounds.ratio("request", "packed"),
        "loss_difference": abs(losses["packed"] - losses["request"]) / losses["request"],
        "users_with_20_requests": len(chosen),
        "rounds_packing": len(rounds),
        "cells_packing": {
            name: {
                "exposures_per_second": rounds.rate(name, exposures),
                "tokens_per_exposure": side.tokens() / exposures,
                "pass_ms": rounds.seconds(name).times(1e3),
            }
            for name, side in sides.items()
        },
    } | feed_padding(data, options)


def busy_users(data: PreparedData) -> np.ndarray:
    """Indices of the users with at least MIN_REQUESTS requests."""
    last = data.timelines.offsets[1:] - 1
    chosen: np.ndarray = np.flatnonzero(data.timelines.request[last] + 1 >= MIN_REQUESTS)
    assert len(chosen), "the simulated feed is too small"
    return chosen


class Passes:
    """A model in training. Every call trains on all requests of the next group of users."""

    def __init__(self, data: PreparedData, grouping: str, groups: Sequence[np.ndarray], options: BenchOptions):
        sizes = options.sizes
        builder = data.builder(SequenceConfig(max_history=sizes.max_history, grouping=grouping))
        samples = builder.samples()
        config = LoaderConfig(batch_tokens=sizes.batch_tokens)
        loaders = [Loader(builder, of_users(samples, group), config) for group in groups]
        self.groups: list[list[PackedBatch]] = [batches_of(loader) for loader in loaders]
        self.steps = Steps(sizes.model, loaders[0], self.groups[0], seed=options.seed)
        self.done, self.max_history = 0, sizes.max_history

    def __call__(self) -> None:
        """One pass."""
        for batch in self.groups[self.done % len(self.groups)]:
            self.steps.train(batch)
        self.done += 1

    def exposures(self) -> float:
        """Mean exposures of a pass."""
        return sum(num_exposures(group) for group in self.groups) / len(self.groups)

    def tokens(self) -> float:
        """Mean tokens of a pass."""
        config = self.steps.model.config
        return sum(config.num_tokens(batch) for group in self.groups for batch in group) / len(self.groups)

    @torch.no_grad()
    def loss(self, group: int) -> float:
        """The summed loss of an untrained model over a group's exposures: equal for every packing, up to rounding."""
        torch.manual_seed(0)
        spec, device = self.steps.model.spec, self.steps.device
        model = build_ranker(self.steps.model.config, spec, max_history=self.max_history)
        model.to(device).eval()
        total = 0.0
        for batch in self.groups[group]:
            moved = batch.to(device)
            total += sum(float(loss.double().sum()) for loss in model.loss(model(moved), moved).values())
        return total


def of_users(samples: Samples, users: np.ndarray) -> Samples:
    """The samples of these users."""
    return take(samples, np.flatnonzero(np.isin(samples.user, users)))


def feed_padding(data: PreparedData, options: BenchOptions) -> dict[str, float]:
    """Padding in the batches of an epoch of training on the whole feed."""
    sizes = options.sizes
    builder = data.builder(SequenceConfig(max_history=sizes.max_history, grouping="user"))
    config = LoaderConfig(batch_tokens=sizes.batch_tokens, seed=options.seed)
    loader = Loader(builder, data.part(builder, "train"), config)
    samples, plan = loader.samples, loader.plan()
    history, candidates = (padding([n[b] for b in plan]) for n in (samples.num_history, samples.num_candidates))
    model = sizes.model
    channels = model.width // model.num_heads
    backend = choose_backend(model.attention, bench_device(), fusible=model.fusible, channels=channels)
    return {
        "padding": history if backend in PADDING_BACKENDS else 0.0,
        "padding_if_padded": history,
        "padding_candidates_if_padded": candidates,
    }


def padding(lengths: Sequence[np.ndarray]) -> float:
    """The share of padding if every batch is padded to its longest sequence. lengths: of sequences, per batch."""
    tokens = sum(int(batch.sum()) for batch in lengths)
    places = sum(len(batch) * int(batch.max()) for batch in lengths)
    return 1 - tokens / places if places else 0.0
