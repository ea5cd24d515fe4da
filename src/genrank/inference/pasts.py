"""What `prepare` knew of users: in memory, or read from the prepared folder user by user.

All give the same timelines, so that a request is answered the same, whichever is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genrank.data.manifest import Manifest
from genrank.data.timeline_files import load_timelines
from genrank.data.timelines import Timelines
from genrank.data.user_timelines import UserTimelines
from genrank.inference.cache import ByteBudgetCache
from genrank.inference.collected import CollectedTimelines, collected
from genrank.inference.sizes import entry_bytes
from genrank.schema import DataSpec

Ints = NDArray[np.int64]


class Past(Protocol):
    """What `prepare` knew of users' exposures."""

    def of(self, row: int) -> Timelines:
        """The timeline of a user's row, with statistics of 0; without exposures where there is none."""


@dataclass(frozen=True, kw_only=True)
class PastLimits:
    """max_exposures: of a prepared folder that is read into memory; a larger one stays on disk.

    max_bytes: of the timelines that were read from disk last, which are kept in memory.
    """

    max_exposures: int = 20_000_000
    max_bytes: int = 512 * 2**20


def open_past(
    folder: Path, spec: DataSpec, *, until: int | None = None, limits: PastLimits | None = None
) -> "PastInMemory | PastOnDisk":
    """The past for many requests. until: see PastInMemory. DataError for a folder that can't be read."""
    limits = limits or PastLimits()
    if Manifest.load(folder).counts.exposures <= limits.max_exposures:
        return PastInMemory(folder, spec, until=until)
    return PastOnDisk(folder, spec, until=until, max_bytes=limits.max_bytes)


class PastInMemory:
    """All timelines of the prepared folder, of requests before `until` (seconds) if given."""

    def __init__(self, folder: Path, spec: DataSpec, *, until: int | None = None):
        self.spec, self.until = spec, until
        self.timelines = load_timelines(folder, replace(spec, statistics=()))
        self.index = {int(row): index for index, row in enumerate(self.timelines.users)}

    def of(self, row: int) -> Timelines:
        """See Past."""
        if row not in self.index:
            return Timelines.empty(self.spec, row)
        return _seen(self.timelines.of_user(self.index[row]), self.spec, self.until)


class PastOnDisk:
    """Read user by user, with the last ones kept in memory. Safe to use from several threads."""

    def __init__(self, folder: Path, spec: DataSpec, *, until: int | None = None, max_bytes: int = 0):
        self.spec, self.until, self.timelines = spec, until, UserTimelines(folder, spec)
        self._kept: ByteBudgetCache[int, Timelines] = ByteBudgetCache(max_bytes, size=entry_bytes)
        self._collected: CollectedTimelines | None = None

    def of(self, row: int) -> Timelines:
        """See Past. DataError if the folder has been replaced or damaged since."""
        if row == 0:  # of users who are in no table
            return Timelines.empty(self.spec, row)
        found = self._kept.get(row)
        if found is None:
            read = None if self._collected is None else self._collected.of(row)
            found = _seen(self.timelines.of(row) if read is None else read, self.spec, self.until)
            self._kept.put(row, found)
        return found

    @contextmanager
    def collected(self, rows: Ints, *, scratch: Path | None = None) -> Iterator[None]:
        """Within the block these users are read from a temporary file, for which every bucket was read once at most.

        scratch: a folder for the file, which has the users' timelines uncompressed; None: the system's. OutputError
        where there is no room.
        """
        with collected(self.timelines, rows, scratch=scratch) as found:
            self._collected = found
            try:
                yield
            finally:
                self._collected = None


@dataclass(frozen=True)
class NoPast:
    """Nothing was known before."""

    spec: DataSpec

    def of(self, row: int) -> Timelines:
        """See Past."""
        return Timelines.empty(self.spec, row)


def _seen(timeline: Timelines, spec: DataSpec, until: int | None) -> Timelines:
    """The exposures of requests before `until`. Statistics of the past are never looked at, so none are kept."""
    if until is not None:
        assert timeline.request_time is not None  # it comes from a file
        timeline = timeline.take(np.flatnonzero(timeline.request_time < until))
    return replace(timeline, statistics=np.zeros((timeline.num_exposures, len(spec.statistics)), np.float16))
