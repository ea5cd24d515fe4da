"""Timelines of some users of a prepared folder, collected bucket by bucket into one file for access in any order."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import map_arrays
from genrank.data.timelines import Timelines
from genrank.data.user_timelines import UserTimelines

Ints = NDArray[np.int64]
FEW = 32  # users of a bucket that take no longer to read one by one than the whole bucket does; ours


class CollectedTimelines:
    """In a temporary file, which is mapped into memory and goes when the `with` block ends."""

    def __init__(self, timelines: UserTimelines, rows: Ints, *, scratch: Path | None = None):
        """rows: of users.parquet, in any order; not collected where there are few in their bucket. scratch: a folder
        for the file; None: the system's. DataError, OSError."""
        self.num_buckets = timelines.num_buckets
        self._file: Any = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # closed by __exit__
        self._of_bucket: dict[int, Timelines] = {}
        for bucket in range(self.num_buckets):
            wanted = rows[rows % self.num_buckets == bucket]
            if len(wanted) > FEW:
                found = timelines.of_bucket(bucket)
                self._of_bucket[bucket] = map_arrays(found.of_users(np.isin(found.users, wanted)), self._stored)

    def of(self, row: int) -> Timelines | None:
        """The timeline of a user; None for one who was not collected, or has none."""
        found = self._of_bucket.get(row % self.num_buckets)
        index = 0 if found is None else int(np.searchsorted(found.users, row))
        if found is None or index == len(found.users) or found.users[index] != row:
            return None
        copied: Timelines = map_arrays(found.of_user(index), np.array)  # which outlives the file
        return copied

    def __enter__(self) -> "CollectedTimelines":
        return self

    def __exit__(self, kind: type[BaseException] | None, found: BaseException | None, at: TracebackType | None) -> None:
        self._of_bucket.clear()
        self._file.close()

    def _stored(self, column: NDArray[Any]) -> NDArray[Any]:
        """The array, in the file."""
        if not column.size:
            return column
        begin = self._file.tell()
        self._file.write(np.ascontiguousarray(column).data)
        self._file.flush()
        return np.memmap(self._file, column.dtype, mode="r", offset=begin, shape=column.shape)
