"""Which samples make a batch, and in which order: a pure function of the samples' sizes, the settings and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.sequence import Ints, Samples


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How samples become batches.

    batch_tokens: history and candidate tokens of a batch over all ranks; a larger single sample is a batch of its own.
    shuffle: false keeps the order of time; see PooledLoader for that of a larger log.
    bucket_batches: with shuffle, samples of this many batches are sorted by history length, so that padding is small.
    max_exposures: exposures in memory at once. A larger log is read in pools of users of a quarter as many, each
        epoch others, and is shuffled within a pool. Training has two in memory, one in use and the next one, which is
        read meanwhile; while it validates, two more are.
    """

    batch_tokens: int = 16384
    shuffle: bool = True
    bucket_batches: int = 8
    seed: int = 0
    max_exposures: int = 12_000_000

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or self.bucket_batches < 1:
            raise ValueError("batch_tokens and bucket_batches must be at least 1")
        if self.max_exposures < 1:
            raise ValueError(f"max_exposures is {self.max_exposures}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SampleSizes:
    """What planning needs of S samples: 20 bytes each, which may be kept of a log that isn't in memory."""

    user: NDArray[np.int32]  # (S) index into Timelines.users
    time: Ints  # (S) of its first request
    num_history: NDArray[np.int32]  # (S) tokens
    num_candidates: NDArray[np.int32]  # (S) tokens

    def __len__(self) -> int:
        return len(self.time)

    @property
    def num_exposures(self) -> int:
        """Candidates of all samples."""
        return int(self.num_candidates.sum(dtype=np.int64))

    @property
    def num_tokens(self) -> int:
        """History and candidates of all samples."""
        return int(self.num_history.sum(dtype=np.int64)) + self.num_exposures

    @classmethod
    def of(cls, samples: Samples) -> "SampleSizes":
        """Those of samples."""
        return cls(
            user=samples.user.astype(np.int32),
            time=samples.time,
            num_history=samples.num_history.astype(np.int32),
            num_candidates=samples.num_candidates.astype(np.int32),
        )

    def take(self, chosen: NDArray[Any] | slice) -> "SampleSizes":
        """Those of the chosen samples, in that order."""
        return SampleSizes(
            user=self.user[chosen],
            time=self.time[chosen],
            num_history=self.num_history[chosen],
            num_candidates=self.num_candidates[chosen],
        )


def merged(parts: Sequence[SampleSizes]) -> SampleSizes:
    """Those of all parts in order of time, as one builder over the users of all parts would cut them.

    Each part is in order of time and then user, and users of a part come after those of the parts before it.
    """
    whole = SampleSizes(
        user=np.concatenate([part.user for part in parts]),
        time=np.concatenate([part.time for part in parts]),
        num_history=np.concatenate([part.num_history for part in parts]),
        num_candidates=np.concatenate([part.num_candidates for part in parts]),
    )
    return whole.take(np.argsort(whole.time, kind="stable"))


def plan_batches(sizes: SampleSizes, config: LoaderConfig, seed: Sequence[int]) -> list[Ints]:
    """The sample indices of every batch. `seed`: of the order, where samples are shuffled."""
    cost = sizes.num_history.astype(np.int64) + sizes.num_candidates
    if not config.shuffle:
        return cut(np.arange(len(sizes)), cost, config.batch_tokens)
    random = np.random.default_rng(seed)
    order = random.permutation(len(sizes))
    batches: list[Ints] = []
    for bucket in cut(order, cost, config.batch_tokens * config.bucket_batches):
        by_length = bucket[np.argsort(sizes.num_history[bucket], kind="stable")]
        batches += cut(by_length, cost, config.batch_tokens)
    return [batches[i] for i in random.permutation(len(batches))]


def cut(order: Ints, cost: Ints, budget: int) -> list[Ints]:
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
