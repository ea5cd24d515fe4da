"""The loader of a log that is larger than memory: epochs over pools of users, each epoch with other pools.

The pools of an epoch and the batches of a pool are pure functions of the samples' sizes, the settings and the epoch:
the number of batches is known before a pool is read, and the loader's state is a few numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import PackedBatch
from genrank.data.batch_plan import SampleSizes, merged, plan_batches
from genrank.data.loader import Loader, built_ahead
from genrank.data.pools import Buckets, StoredPart, read_ahead
from genrank.data.sequence import Ints, Samples, take
from genrank.data.timelines import offsets_of
from genrank.errors import ConfigError

VERSION = 1  # of the state


class PooledLoader:
    """Batches of a part whose timelines don't fit into memory; to its user like Loader.

    Numbers of exposures in a batch are rows of the timelines of its pool. share: of the users, whose samples are learnt
    from. ConfigError for settings that need the whole log in memory.
    """

    def __init__(self, part: StoredPart, *, share: float = 1.0, pin: bool = False):
        self.part, self.config, self.pin = part, part.loading, pin
        self._check()
        self.epoch, self.pool, self.next_batch = 0, 0, 0
        sizes, num_users = part.sizes()
        self.first_user = offsets_of(np.array(num_users))
        rank = np.random.default_rng(0).permutation(sum(num_users))
        self.is_chosen = rank < share * len(rank)
        self.bucket_sizes = [each.take(self._chosen((bucket,), each.user)) for bucket, each in enumerate(sizes)]
        self._length: tuple[int, int] | None = None

    def _check(self) -> None:
        total = sum(self.part.data.rows)
        several = len(self.part.data.pools(self.config.max_exposures)) > 1
        for setting, found in (
            ("loader.shuffle=false", not self.config.shuffle),
            ("sequence.labels_once=true", self.part.sequence.labels_once),
        ):
            if several and found:
                raise ConfigError(
                    f"{setting} needs the whole log in memory, which has {total:,} exposures; set it back, or "
                    f"loader.max_exposures={total}"
                )

    @property
    def sizes(self) -> SampleSizes:
        """Of all samples."""
        return merged(self.bucket_sizes)

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
            planned = [self._plan(n, merged([self.bucket_sizes[b] for b in pool])) for n, pool in pools]
            self._length = (self.epoch, sum(map(len, planned)))
        return self._length[1]

    def pools(self) -> list[Buckets]:
        """The buckets of each pool of the current epoch."""
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(len(self.bucket_sizes))
        return self.part.data.pools(self.config.max_exposures, order.tolist())

    def _plan(self, pool: int, sizes: SampleSizes) -> list[Ints]:
        """The batches of a pool. Where there is one, they are those of Loader."""
        seed = [self.config.seed, self.epoch]
        return plan_batches(sizes, self.config, seed if len(self.pools()) == 1 else [*seed, pool + 1])

    def __iter__(self) -> Iterator[PackedBatch]:
        pools = self.pools()[self.pool :]
        found = read_ahead(self.part.read, pools)
        for buckets in pools:
            builder, samples = next(found)
            loader = Loader(builder, self._shared(buckets, samples), self.config, pin=self.pin)
            plan = self._plan(self.pool, loader.sizes)
            for batch in built_ahead(loader.planned, plan[self.next_batch :]):
                self.next_batch += 1
                yield batch
            del builder, samples, loader, plan  # before another pool is waited for
            self.pool, self.next_batch = self.pool + 1, 0
        self.epoch, self.pool, self.next_batch = self.epoch + 1, 0, 0

    def _shared(self, buckets: Buckets, samples: Samples) -> Samples:
        return take(samples, np.flatnonzero(self._chosen(buckets, samples.user)))

    def _chosen(self, buckets: Buckets, user: NDArray[Any]) -> NDArray[np.bool_]:
        """(S) whether the samples' users are learnt from."""
        users = np.concatenate([np.arange(*self.first_user[bucket : bucket + 2]) for bucket in buckets])
        chosen: NDArray[np.bool_] = self.is_chosen[users[user]]
        return chosen
