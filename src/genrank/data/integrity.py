"""Folders verified by the SHA-256 of their files: every listed file exists and is unchanged, and there are no others.

The size, times and inode of each verified file are kept in memory and in the folder's `.verified`, so that a file is
read once and not by every command, and of a folder that has grown only the new files are read. Names that begin with a
dot and aren't listed are ignored.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.documents import parse_json
from genrank.errors import InputError

STAMP = ".verified"
SETTLED = 2.0  # seconds after a file's last change from which another change is sure to alter its times
Stats = dict[str, list[int]]  # size, time of change, of its content and of its inode in ns, inode
Verified = dict[str, list[Any]]  # path → SHA-256, and what Stats has of the file

_found_whole: dict[Path, Verified] = {}


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path, *, but: str = "") -> dict[str, str]:
    """Relative path → SHA-256 of every file below `folder` except the one named `but`, in order of path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != but)
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}


@dataclass(frozen=True, kw_only=True)
class FolderHashes:
    """The required files of a folder: path → SHA-256, and the file `about` with this list, which its reader verifies.

    Raises `error` with `remedy` if the folder differs.
    """

    files: Mapping[str, str]
    about: str
    error: type[InputError]
    remedy: str

    def check(self, folder: Path) -> None:
        """Compare the folder with the list. The error names the first missing, damaged or added file, or link."""
        stats = self._compare_names(folder)
        settled, place = time.time() - SETTLED, folder.resolve()
        in_memory, stored = _found_whole.get(place, {}), _stored(folder)
        verified: Verified = {}
        for name, expected in self.files.items():
            entry = [expected, *stats[name]]
            if entry not in (in_memory.get(name), stored.get(name)):
                if hash_file(folder / name) != expected:
                    raise self.error(f"{folder / name}: damaged, its SHA-256 has changed; {self.remedy}")
                if not _settled(stats[name], settled):
                    continue
            verified[name] = entry
        _found_whole[place] = verified
        if any(stored.get(name) != entry for name, entry in verified.items()):
            _store(folder, verified)

    def _compare_names(self, folder: Path) -> Stats:
        try:
            found = _files(folder)
        except OSError as problem:
            raise self.error(f"{folder}: can't be read ({problem.strerror}); {self.remedy}") from None
        for name in self.files:
            if name not in found:
                raise self.error(f"{folder / name}: missing, or outside of the folder; {self.remedy}")
        for name, entry in found.items():
            if name not in self.files and name != self.about:
                if not any(part.startswith(".") for part in name.split("/")):
                    raise self.error(f"{folder / name}: not among the files of this folder; move it elsewhere")
            elif not entry:
                raise self.error(
                    f"{folder / name}: a link or the like, not a file; put the file there, or {self.remedy}"
                )
        return {name: found[name] for name in sorted(self.files)}


def _files(folder: Path) -> Stats:
    """Everything below the folder by path; empty for an entry that is neither file nor folder."""
    found: Stats = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in [*names, *(each for each in folders if Path(parent, each).is_symlink())]:
            path = Path(parent, name)
            about = path.lstat()
            entry = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
            found[path.relative_to(folder).as_posix()] = entry if stat.S_ISREG(about.st_mode) else []
    return found


def _raise(problem: OSError) -> None:
    raise problem


def remember_hashes(folder: Path, files: Mapping[str, str], *, since: float) -> None:
    """Notes in `folder` that these files, path → SHA-256, are as they were hashed by this process.

    since: the time (seconds) before the first of them was hashed; files that changed shortly before it are hashed again
    by the next reader.
    """
    stats = _files(folder)
    entries: dict[str, list[Any]] = {name: [hashed, *stats[name]] for name, hashed in files.items()}
    _store(folder, {name: entry for name, entry in entries.items() if _settled(entry[1:], since - SETTLED)})


def _settled(entry: list[int], since: float) -> bool:
    """Whether the file changed for the last time before `since` (seconds), so that a later change would be seen."""
    return all(changed < since * 1e9 for changed in entry[1:3])


def _stored(folder: Path) -> Verified:
    try:
        found = parse_json((folder / STAMP).read_bytes())
        return found["verified"] if isinstance(found["verified"], dict) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _store(folder: Path, verified: Verified) -> None:
    part = folder / f"{STAMP}.part-{os.getpid()}"
    try:
        part.write_text(json.dumps({"verified": verified}), encoding="utf-8")
        part.replace(folder / STAMP)
    except OSError:  # for a folder that can't be written to, kept in memory only
        with suppress(OSError):
            part.unlink(missing_ok=True)
