"""The loader: composes batches from samples, in order, per rank; it can be stopped and resumed exactly.

The plan of an epoch is a pure function of (samples, config, epoch), so its state is two numbers.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import PackedBatch, map_arrays
from genrank.data.sequence import Ints, Samples, SequenceBuilder, take


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Settings of batches.

    batch_tokens: history and candidate tokens of a batch over all ranks; a larger single sample is a batch of its own.
    shuffle: false keeps the order of time.
    bucket_batches: with shuffle, samples of this many batches are sorted by history length, so that padding is small.
    """

    batch_tokens: int = 16384
    shuffle: bool = True
    bucket_batches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or self.bucket_batches < 1:
            raise ValueError("batch_tokens and bucket_batches must be at least 1")


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

    def state(self) -> dict[str, int]:
        """The position of the loader, for `restore`."""
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a result of `state`."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]

    def __len__(self) -> int:
        """Batches of the current epoch."""
        return len(self.plan())

    def plan(self) -> list[Ints]:
        """The sample indices of every batch of the current epoch, over all ranks."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._make_plan())
        return self._plan[1]

    def __iter__(self) -> Iterator[PackedBatch]:
        plan = self.plan()
        with ThreadPoolExecutor(1) as background:  # builds a batch while the one before it is in use
            coming = [background.submit(self._planned, batch) for batch in plan[self.next_batch : self.next_batch + 1]]
            while self.next_batch < len(plan):
                batch = coming.pop().result()
                self.next_batch += 1
                coming += [background.submit(self._planned, b) for b in plan[self.next_batch : self.next_batch + 1]]
                yield batch
        self.epoch, self.next_batch = self.epoch + 1, 0

    def _planned(self, batch: Ints) -> PackedBatch:
        return self.build(take(self.samples, self._shard(batch)))

    def build(self, samples: Samples) -> PackedBatch:
        """The torch batch of the given samples."""
        batch: PackedBatch = map_arrays(self.builder.batch(samples), torch.from_numpy)
        if self.pin:
            batch = in_one_block(batch, pin=True)
        return batch

    def _make_plan(self) -> list[Ints]:
        cost = self.samples.num_history + self.samples.num_candidates
        if not self.config.shuffle:
            return _cut(np.arange(len(self.samples)), cost, self.config.batch_tokens)
        random = np.random.default_rng([self.config.seed, self.epoch])
        order = random.permutation(len(self.samples))
        batches: list[Ints] = []
        for bucket in _cut(order, cost, self.config.batch_tokens * self.config.bucket_batches):
            by_length = bucket[np.argsort(self.samples.num_history[bucket], kind="stable")]
            batches += _cut(by_length, cost, self.config.batch_tokens)
        return [batches[i] for i in random.permutation(len(batches))]

    def _shard(self, batch: Ints) -> Ints:
        """This rank's samples of a batch: dealt largest first, in alternating rank order, so costs are nearly equal."""
        if self.num_ranks == 1:
            return batch
        cost = _work(self.samples)[batch]
        place = np.arange(len(batch)) % (2 * self.num_ranks)
        rank = np.minimum(place, 2 * self.num_ranks - 1 - place)
        mine: Ints = batch[np.argsort(-cost, kind="stable")][rank == self.rank]
        return mine


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


def _cut(order: Ints, cost: Ints, budget: int) -> list[Ints]:
    """Consecutive pieces of `order` whose cost stays within the budget (one sample at least)."""
    pieces: list[Ints] = []
    total = np.cumsum(cost[order])
    begin = 0
    while begin < len(order):
        spent = total[begin - 1] if begin else 0
        end = max(int(np.searchsorted(total, spent + budget, side="right")), begin + 1)
        pieces.append(order[begin:end])
        begin = end
    return pieces
