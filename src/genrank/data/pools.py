"""A prepared folder read a pool of buckets at a time, so that memory doesn't grow with the log.

A bucket holds some users with all that they were shown, so a pool of buckets is a smaller log of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from genrank.data.batch_plan import LoaderConfig, SampleSizes
from genrank.data.learned_days import LearnedDays, train_counts, with_learned_days
from genrank.data.loader import Loader
from genrank.data.manifest import Manifest
from genrank.data.past_search import SearchConfig
from genrank.data.prepared import Part, PreparedData, samples_of
from genrank.data.sequence import Samples, SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import bucket_rows, load_buckets
from genrank.data.timelines import Timelines
from genrank.errors import DataError
from genrank.schema import DataSpec, fingerprint

View = Callable[[Timelines], Timelines]
ViewOf = Callable[[DataSpec], View | None]
Buckets = tuple[int, ...]  # numbers of buckets, rising
POOLS_IN_MEMORY = 4  # of training and, meanwhile, of validation: one in use, and the next one, which is read
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StoredData:
    """A prepared folder whose timelines stay on disk.

    rows: at most so many exposures are in each bucket. at_once: see Timelines. view: what of timelines is looked at.
    """

    folder: Path
    manifest: Manifest
    items: FeatureTable
    users: FeatureTable
    rows: tuple[int, ...]
    view: View | None
    at_once: bool

    @classmethod
    def open(
        cls, folder: Path, *, days: LearnedDays | None = None, at_once: bool = False, view: ViewOf | None = None
    ) -> "StoredData":
        """The folder without its timelines, with the parts that `days` choose.

        Raises DataError for missing or damaged files, and ConfigError for days outside the log.
        """
        manifest = Manifest.open(folder)
        if days:
            manifest = with_learned_days(manifest, folder, days)
        seen = None if view is None else view(manifest.spec)
        return cls.read(folder, manifest, at_once=at_once, view=seen, recount=bool(days))

    @classmethod
    def read(
        cls, folder: Path, manifest: Manifest, *, at_once: bool = False, view: View | None = None, recount: bool = False
    ) -> "StoredData":
        """A verified folder without its timelines, with the parts and vocabulary sizes of `manifest`.

        recount: exposures per item and per user are counted until the end of training.
        """
        data = cls(
            folder=folder,
            manifest=manifest,
            items=FeatureTable.load(folder, "item", manifest.spec),
            users=FeatureTable.load(folder, "user", manifest.spec),
            rows=tuple(bucket_rows(folder)),
            at_once=at_once,
            view=view,
        )
        return data.counted_anew() if recount else data

    def counted_anew(self) -> "StoredData":
        """With exposures per item and per user counted until the end of training: one bucket after another is read."""
        until, spec = self.manifest.split.valid_start, DataSpec(features=(), tasks=())
        items, users = np.zeros(len(self.items), np.int64), np.zeros(len(self.users), np.int64)
        for bucket in range(len(self.rows)):
            t = load_buckets(self.folder, (bucket,), spec)
            items += train_counts(t.item, t, until, len(items))
            users += train_counts(t.users[t.user_of_row()], t, until, len(users))
        return replace(self, items=replace(self.items, train_count=items), users=replace(self.users, train_count=users))

    @property
    def fingerprint(self) -> str:
        """Of the folder's files."""
        return fingerprint(self.manifest.files)

    def labels_only(self) -> "StoredData":
        """Without features, feedback and statistics of exposures, for counting."""
        spec = replace(self.manifest.spec, features=(), feedback=(), statistics=())
        return replace(self, manifest=replace(self.manifest, spec=spec))

    def load(self, buckets: Buckets) -> Timelines:
        """The timelines of those buckets' users."""
        timelines = load_buckets(self.folder, buckets, self.manifest.spec)
        timelines = timelines.at_once() if self.at_once else timelines
        return self.view(timelines) if self.view else timelines

    def with_timelines(self, timelines: Timelines) -> PreparedData:
        """The folder in memory, with these timelines."""
        return PreparedData(
            folder=self.folder, manifest=self.manifest, timelines=timelines, items=self.items, users=self.users
        )

    def whole(self) -> PreparedData:
        """The folder in memory."""
        return self.with_timelines(self.load(tuple(range(len(self.rows)))))

    def pools(self, max_exposures: int, order: Sequence[int] | None = None) -> list[Buckets]:
        """Buckets, one behind another or in the given order, in pools of a part of `max_exposures`, or one of all.

        A bucket that is larger is a pool of its own.
        """
        if sum(self.rows) <= max_exposures:
            return [tuple(range(len(self.rows)))]
        pools: list[list[int]] = []
        room = 0
        for bucket in range(len(self.rows)) if order is None else order:
            if not pools or self.rows[bucket] > room:
                pools.append([])
                room = max_exposures // POOLS_IN_MEMORY
            pools[-1].append(bucket)
            room -= self.rows[bucket]
        return [tuple(sorted(pool)) for pool in pools]

    def too_large(self, max_exposures: int) -> str:
        """A warning of buckets that are larger than a pool may be, with the remedy; empty if there are none."""
        largest, room = max(self.rows, default=0), max_exposures // POOLS_IN_MEMORY
        if sum(self.rows) <= max_exposures or largest <= room:
            return ""
        wanted = -(-len(self.rows) * largest // max(room, 1))
        return (
            f"the largest bucket of users has {largest:,} exposures, so up to {POOLS_IN_MEMORY * largest:,} are in "
            f"memory instead of loader.max_exposures={max_exposures:,}; prepare again with --buckets {wanted}"
        )


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part of stored data. Iterating yields a loader for each pool, in order of buckets, `loading` says how.

    A pool without samples of the part has a loader without batches. DataError where all are empty.
    """

    data: StoredData
    part: Part
    sequence: SequenceConfig
    loading: LoaderConfig
    search: SearchConfig | None = None

    def __iter__(self) -> Iterator[Loader]:
        num_samples = 0
        for builder, samples in read_ahead(self.read, self.data.pools(self.loading.max_exposures)):
            num_samples += len(samples)
            yield Loader(builder, samples, self.loading)
        self.require(num_samples)

    def read(self, buckets: Buckets) -> tuple[SequenceBuilder, Samples]:
        """The samples of those buckets."""
        data = self.data
        builder = SequenceBuilder(
            self.sequence,
            data.manifest.spec,
            timelines=data.load(buckets),
            items=data.items,
            users=data.users,
            search=self.search,
        )
        return builder, samples_of(builder, data.manifest.split, self.part)

    def sizes(self) -> tuple[list[SampleSizes], list[int]]:
        """Of each bucket: its samples' sizes, and how many users it has. Reads one bucket after another."""
        bare = replace(self, search=None, data=self.data.labels_only())
        found = [bare._size_of(bucket) for bucket in range(len(self.data.rows))]
        self.require(sum(len(sizes) for sizes, _ in found))
        return [sizes for sizes, _ in found], [num_users for _, num_users in found]

    def _size_of(self, bucket: int) -> tuple[SampleSizes, int]:
        builder, samples = self.read((bucket,))
        return SampleSizes.of(samples), len(builder.timelines.users)

    def require(self, num_samples: int) -> None:
        """DataError where there are none."""
        if not num_samples:
            raise DataError(
                f"{self.data.folder}: the part {self.part!r} holds no exposures; prepare with another [split]"
            )


def read_ahead(read: Callable[[Buckets], _T], pools: Iterable[Buckets]) -> Iterator[_T]:
    """What is read of each pool; the next one is read in the background while one is in use."""
    rest = iter(pools)
    with ThreadPoolExecutor(1) as background:
        coming = [background.submit(read, pool) for pool in [next(rest)]]
        while coming:
            found = coming.pop().result()
            coming += [background.submit(read, pool) for pool in [next(rest, None)] if pool is not None]
            yield found
            del found
