"""Timelines of some users of a prepared folder, collected bucket by bucket into one file for access in any order."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import map_arrays
from genrank.data.timelines import Timelines
from genrank.data.user_timelines import UserTimelines
from genrank.errors import OutputError

Ints = NDArray[np.int64]
FEW = 32  # users of a bucket that take no longer to read one by one than the whole bucket does; ours


class CollectedTimelines:
    """In a file that is mapped into memory; see `collected`."""

    def __init__(self, timelines: UserTimelines, rows: Ints, file: IO[bytes]):
        """rows: of users.parquet, in any order; not collected where there are few in their bucket. DataError,
        OSError."""
        self.num_buckets, self._file, self._of_bucket = timelines.num_buckets, file, dict[int, Timelines]()
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

    def _stored(self, column: NDArray[Any]) -> NDArray[Any]:
        """The array, in the file."""
        if not column.size:
            return column
        begin = self._file.tell()
        self._file.write(np.ascontiguousarray(column).data)
        self._file.flush()
        return np.memmap(self._file, column.dtype, mode="r", offset=begin, shape=column.shape)


@contextmanager
def collected(timelines: UserTimelines, rows: Ints, *, scratch: Path | None = None) -> Iterator[CollectedTimelines]:
    """The users' timelines in a temporary file without a name, which goes when the block ends.

    scratch: a folder for the file; None: the system's. DataError, and OutputError where there is no room.
    """
    folder = scratch or Path(tempfile.gettempdir())
    file: IO[bytes] | None = None
    try:
        try:
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed below, also where it can't be flushed
            found = CollectedTimelines(timelines, rows, file)
        except OSError as problem:
            raise OutputError(
                f"{folder}: no temporary file of histories can be written ({problem.strerror}); make room there"
            ) from None
        yield found
    finally:
        if file is not None:
            with suppress(OSError):
                file.close()
