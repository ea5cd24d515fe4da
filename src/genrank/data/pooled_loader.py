"""The loader of a log that is larger than memory: epochs over pools of users, each epoch with other pools.

The pools of an epoch and the batches of a pool are pure functions of the samples' sizes, the settings and the epoch:
the number of batches is known before a pool is read, and the loader's state is a few numbers.

Without shuffling, an epoch is cut into windows of days: as many UTC days (one at least) as hold at most a pool's
number of candidates. Windows come in order of time. Within a window the pools come in order of buckets, and
within a pool the samples whose first request is in the window come in order of time, then user. So each pool is read
once for each window.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import PackedBatch
from genrank.data.batch_plan import SampleSizes, cut, merged, plan_batches
from genrank.data.loader import Loader, built_ahead
from genrank.data.pools import POOLS_IN_MEMORY, Buckets, StoredPart, read_ahead
from genrank.data.sequence import Ints, Samples, SequenceBuilder, take
from genrank.data.tables import FeatureTable
from genrank.data.timelines import offsets_of

VERSION = 2  # of the state
DAY = 86_400  # seconds


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Samples of an epoch that are in memory at once: of some buckets, with a first request in [begin, end)."""

    buckets: Buckets
    begin: int  # seconds since the epoch
    end: int

    def of(self, sizes: SampleSizes) -> SampleSizes:
        """Those of its time, of sizes in order of time."""
        return sizes.take(slice(*np.searchsorted(sizes.time, [self.begin, self.end])))


class PooledLoader:
    """Batches of a part whose timelines don't fit into memory; to its user like Loader.

    Numbers of exposures in a batch are rows of the timelines of its pool. share: of the users, whose samples are learnt
    from.
    """

    def __init__(self, part: StoredPart, *, share: float = 1.0, pin: bool = False):
        self.part, self.config, self.pin = part, part.loading, pin
        self.epoch, self.pool, self.next_batch = 0, 0, 0
        sizes, num_users = part.sizes()
        self.first_user = offsets_of(np.array(num_users))
        rank = np.random.default_rng(0).permutation(sum(num_users))
        self.is_chosen = rank < share * len(rank)
        self.bucket_sizes = [each.take(self._chosen((bucket,), each.user)) for bucket, each in enumerate(sizes)]
        self.windows = self._windows()
        self._length: tuple[int, int] | None = None
        self._builder: SequenceBuilder | None = None  # of the pool in use

    @property
    def sizes(self) -> SampleSizes:
        """Of all samples."""
        return merged(self.bucket_sizes)

    @property
    def items(self) -> FeatureTable:
        """See TrainingLoader."""
        return self.part.data.items

    @property
    def builder(self) -> SequenceBuilder:
        """See TrainingLoader: that of the pool in use. ValueError before the first batch of an iteration."""
        if self._builder is None:
            raise ValueError("no pool is in use; take a batch first")
        return self._builder

    def item_counts(self) -> NDArray[np.int64]:
        """See TrainingLoader. Reads one bucket after another."""
        bare, counts = (
            replace(self.part, data=self.part.data.labels_only(), search=None),
            np.zeros(len(self.items), np.int64),
        )
        for bucket in range(len(self.bucket_sizes)):
            builder, samples = bare.read((bucket,))
            chosen = take(samples, np.flatnonzero(self._chosen((bucket,), samples.user)))
            counts += np.bincount(builder.timelines.item[chosen.candidates], minlength=len(counts))
        return counts

    def state(self) -> dict[str, Any]:
        """Where the loader stands; `restore` continues there."""
        return {"epoch": self.epoch, "pool": self.pool, "next_batch": self.next_batch, **self._about()}

    def _about(self) -> dict[str, Any]:
        return {"version": VERSION, "folder": self.part.data.fingerprint, "max_exposures": self.config.max_exposures}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken. ValueError where that was with other data or other pools."""
        for name, value in self._about().items():
            if state.get(name) != value:
                raise ValueError(f"the loader's {name} was {state.get(name)!r} and is {value!r}")
        self.epoch, self.pool, self.next_batch = state["epoch"], state["pool"], state["next_batch"]

    def __len__(self) -> int:
        """Batches of the current epoch, exactly."""
        if self._length is None or self._length[0] != self.epoch:
            pools = enumerate(self.pools())
            planned = [
                self._plan(n, merged([pool.of(self.bucket_sizes[b]) for b in pool.buckets])) for n, pool in pools
            ]
            self._length = (self.epoch, sum(map(len, planned)))
        return self._length[1]

    def pools(self) -> list[Pool]:
        """Those of the current epoch, in order."""
        data, most = self.part.data, self.config.max_exposures
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(len(self.bucket_sizes))
        of_buckets = data.pools(most, order.tolist() if self.config.shuffle else None)
        return [Pool(buckets=buckets, begin=begin, end=end) for begin, end in self.windows for buckets in of_buckets]

    def _windows(self) -> list[tuple[int, int]]:
        """Begin and end of each window."""
        most = self.config.max_exposures // POOLS_IN_MEMORY
        if self.config.shuffle or sum(self.part.data.rows) <= self.config.max_exposures:
            return [(-(2**62), 2**62)]
        days = [sizes.time // DAY for sizes in self.bucket_sizes]
        first = min(int(day.min(initial=2**62)) for day in days)
        counts = [
            np.bincount(day - first, weights=sizes.num_candidates)
            for day, sizes in zip(days, self.bucket_sizes, strict=True)
        ]
        total = np.zeros(max(map(len, counts)))
        for count in counts:
            total[: len(count)] += count
        pieces = cut(np.arange(len(total)), total.astype(np.int64), most)
        return [((first + int(days[0])) * DAY, (first + int(days[-1]) + 1) * DAY) for days in pieces]

    def _plan(self, pool: int, sizes: SampleSizes) -> list[Ints]:
        """The batches of a pool. Where there is one, they are those of Loader."""
        seed = [self.config.seed, self.epoch]
        return plan_batches(sizes, self.config, seed if len(self.pools()) == 1 else [*seed, pool + 1])

    def __iter__(self) -> Iterator[PackedBatch]:
        pools = self.pools()[self.pool :]
        found = read_ahead(self.part.read, [pool.buckets for pool in pools])
        for pool in pools:
            builder, samples = next(found)
            self._builder = builder
            loader = Loader(builder, self._shared(pool, samples), self.config, pin=self.pin)
            plan = self._plan(self.pool, loader.sizes)
            for batch in built_ahead(loader.planned, plan[self.next_batch :]):
                self.next_batch += 1
                yield batch
            del builder, samples, loader, plan  # before another pool is waited for
            self._builder = None
            self.pool, self.next_batch = self.pool + 1, 0
        self.epoch, self.pool, self.next_batch = self.epoch + 1, 0, 0

    def _shared(self, pool: Pool, samples: Samples) -> Samples:
        chosen = self._chosen(pool.buckets, samples.user) & (samples.time >= pool.begin) & (samples.time < pool.end)
        return take(samples, np.flatnonzero(chosen))

    def _chosen(self, buckets: Buckets, user: NDArray[Any]) -> NDArray[np.bool_]:
        """(S) whether the samples' users are learnt from."""
        users = np.concatenate([np.arange(*self.first_user[bucket : bucket + 2]) for bucket in buckets])
        chosen: NDArray[np.bool_] = self.is_chosen[users[user]]
        return chosen
