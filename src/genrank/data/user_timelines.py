"""Timelines of single users, read from the files of a prepared folder when they are needed."""

from dataclasses import replace
from pathlib import Path

from genrank.data.manifest import FILE_NAME, Manifest
from genrank.data.timeline_files import load_parts, num_buckets, parts_in_order
from genrank.data.timelines import Timelines
from genrank.data.vocabulary_files import IndexReader
from genrank.errors import DataError
from genrank.schema import DataSpec


class UserTimelines:
    """The folder as it was when this was made: days that were added since are not seen, expired ones are left out.

    A bucket's parts are never rewritten. Of each, the row group is read that holds the user. Window statistics are left
    out. Safe to use from several threads.
    """

    def __init__(self, folder: Path, spec: DataSpec):
        """DataError for a folder that can't be read."""
        self.folder, self.spec = folder, replace(spec, statistics=())
        self.num_buckets, self._reader = num_buckets(folder), IndexReader(folder)
        self._version, files = self._current_version(), Manifest.load(folder).files
        self._parts = {name: files[name] for name in files if name.startswith("timelines/")}

    def of(self, user: int) -> Timelines:
        """The timeline of a row of users.parquet; without exposures if it has none. DataError."""
        found = self._load(user % self.num_buckets, user)
        return found if len(found.users) else Timelines.empty(self.spec, user)

    def of_bucket(self, number: int) -> Timelines:
        """The timelines of all users of a bucket. DataError."""
        return self._load(number, None)

    def _load(self, bucket: int, user: int | None) -> Timelines:
        self._follow()
        try:
            return load_parts(self.folder, self._paths(bucket), self.spec, self._reader, user=user)
        except DataError:
            if not self._follow():  # else it was changed meanwhile
                raise
            return load_parts(self.folder, self._paths(bucket), self.spec, self._reader, user=user)

    def _paths(self, bucket: int) -> list[Path]:
        folder = f"bucket={bucket:04d}"
        return parts_in_order(self.folder / name for name in self._parts if name.split("/")[-2] == folder)

    def _follow(self) -> bool:
        """Whether the folder has changed since the last call. DataError if another one has taken its place."""
        version = self._current_version()
        if version == self._version:
            return False
        files = Manifest.load(self.folder).files
        left = {name: content for name, content in self._parts.items() if name in files}
        if not left or any(files[name] != content for name, content in left.items()):
            raise DataError(f"{self.folder}: replaced by other data since it was opened; start again")
        self._parts, self._version = left, version
        return True

    def _current_version(self) -> tuple[int, ...]:
        """Another one whenever the folder has changed."""
        try:
            found = (self.folder / FILE_NAME).stat()
        except OSError as problem:
            raise DataError(f"{self.folder}: can't be read ({problem.strerror}); run genrank prepare again") from None
        return found.st_ino, found.st_mtime_ns, found.st_size
