"""The loader: composes batches from samples, in order, per rank; it can be stopped and resumed exactly.

The plan of an epoch is a pure function of (samples, config, epoch), so its state is two numbers.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import PackedBatch, map_arrays
from genrank.data.batch_plan import LoaderConfig as LoaderConfig
from genrank.data.batch_plan import SampleSizes, plan_batches
from genrank.data.sequence import Ints, Samples, SequenceBuilder, take
from genrank.data.tables import FeatureTable


class TrainingLoader(Protocol):
    """What training needs of a loader, be its log in memory or read in pools. Iterating yields the rest of an epoch."""

    @property
    def sizes(self) -> SampleSizes:
        """Of all samples."""

    @property
    def items(self) -> FeatureTable:
        """All items."""

    @property
    def builder(self) -> SequenceBuilder:
        """Of the timelines of which the latest batch's exposures are rows."""

    def item_counts(self) -> NDArray[np.int64]:
        """(I) how often each item is a candidate in an epoch."""

    def __iter__(self) -> Iterator[PackedBatch]: ...

    def __len__(self) -> int: ...

    def state(self) -> dict[str, Any]:
        """The position of the loader, for `restore`."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""


class Loader:
    """Batches of torch tensors for one rank. Iterating yields the rest of the current epoch, then moves to the next.

    pin: batches lie in pinned memory, from which a GPU copies while it computes.
    """

    def __init__(
        self,
        builder: SequenceBuilder,
        samples: Samples,
        config: LoaderConfig,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        pin: bool = False,
    ):
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not one of {num_ranks}")
        self.builder, self.samples, self.config = builder, samples, config
        self.rank, self.num_ranks, self.pin = rank, num_ranks, pin
        self.epoch, self.next_batch = 0, 0
        self._plan: tuple[int, list[Ints]] | None = None

    def state(self) -> dict[str, Any]:
        """Where the loader stands; `restore` continues there."""
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken. ValueError where that was in a pool of a larger log."""
        if "pool" in state:
            raise ValueError("it is of a log that was read in pools; set loader.max_exposures back")
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]

    @property
    def sizes(self) -> SampleSizes:
        """Of all samples."""
        return SampleSizes.of(self.samples)

    @property
    def items(self) -> FeatureTable:
        """See TrainingLoader."""
        return self.builder.items

    def item_counts(self) -> NDArray[np.int64]:
        """See TrainingLoader."""
        counts: NDArray[np.int64] = np.bincount(
            self.builder.timelines.item[self.samples.candidates], minlength=len(self.items)
        )
        return counts

    def __len__(self) -> int:
        """Batches of the current epoch."""
        return len(self.plan())

    def plan(self) -> list[Ints]:
        """The sample indices of every batch of the current epoch, over all ranks."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, plan_batches(self.sizes, self.config, [self.config.seed, self.epoch]))
        return self._plan[1]

    def __iter__(self) -> Iterator[PackedBatch]:
        for batch in built_ahead(self.planned, self.plan()[self.next_batch :]):
            self.next_batch += 1
            yield batch
        self.epoch, self.next_batch = self.epoch + 1, 0

    def planned(self, batch: Ints) -> PackedBatch:
        """This rank's batch of the samples of those indices."""
        return self.build(take(self.samples, self._shard(batch)))

    def build(self, samples: Samples) -> PackedBatch:
        """The torch batch of the given samples."""
        batch: PackedBatch = map_arrays(self.builder.batch(samples), torch.from_numpy)
        if self.pin:
            batch = in_one_block(batch, pin=True)
        return batch

    def _shard(self, batch: Ints) -> Ints:
        """This rank's samples of a batch: dealt largest first, in alternating rank order, so costs are nearly equal."""
        if self.num_ranks == 1:
            return batch
        cost = _work(self.samples)[batch]
        place = np.arange(len(batch)) % (2 * self.num_ranks)
        rank = np.minimum(place, 2 * self.num_ranks - 1 - place)
        mine: Ints = batch[np.argsort(-cost, kind="stable")][rank == self.rank]
        return mine


def built_ahead(build: Callable[[Ints], PackedBatch], plan: Sequence[Ints]) -> Iterator[PackedBatch]:
    """The batches of a plan, each built in the background while the one before it is in use."""
    with ThreadPoolExecutor(1) as background:
        coming = [background.submit(build, batch) for batch in plan[:1]]
        for following in range(1, len(plan) + 1):
            batch = coming.pop().result()
            coming += [background.submit(build, each) for each in plan[following : following + 1]]
            yield batch


ALIGNED = 16  # bytes: every tensor of a block begins at a multiple


def in_one_block(batch: PackedBatch, *, pin: bool) -> PackedBatch:
    """The batch of torch tensors with all of them in one piece of memory: pinned once, and moved by one copy."""
    sizes: list[int] = []

    def measured(tensor: Tensor) -> Tensor:
        sizes.append(-(-tensor.nbytes // ALIGNED) * ALIGNED)
        return tensor

    map_arrays(batch, measured)
    begins = itertools.accumulate(sizes, initial=0)
    block = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pin)

    def placed(tensor: Tensor) -> Tensor:
        begin = next(begins)
        return block[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)

    whole: PackedBatch = map_arrays(batch, placed)
    return replace(whole, block=block)


TOKENS_PER_PAIR = 1 / 850  # a pair of tokens in attention against a token in the layers: 4 W to 26 W^2 at W = 128; ours


def _work(samples: Samples) -> NDArray[np.float64]:
    """(S) the cost of a sample, in tokens: its number of tokens, and the pairs of tokens in attention."""
    pairs = samples.num_history * (samples.num_history / 2 + samples.num_candidates)
    work: NDArray[np.float64] = samples.num_history + samples.num_candidates + TOKENS_PER_PAIR * pairs
    return work
