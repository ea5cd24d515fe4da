"""Folders verified by the SHA-256 of their files: every listed file exists and is unchanged, and there are no others.

For a verified folder, the size, times and inode of each file are kept in memory and in its `.verified`, so that it is
read once and not by every command. Names that begin with a dot and aren't listed are ignored.
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
from genrank.schema import fingerprint

STAMP = ".verified"
SETTLED = 2.0  # seconds after a file's last change from which another change is sure to alter its times
Stats = dict[str, list[int]]  # size, time of change, of its content and of its inode in ns, inode

_found_whole: dict[Path, dict[str, Any]] = {}


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
        root, settled = fingerprint(dict(self.files)), time.time() - SETTLED
        stamp = {"root": root, "stats": stats}
        place = folder.resolve()
        if stamp in (_found_whole.get(place), _stamp(folder)):
            return
        for name, expected in self.files.items():
            if hash_file(folder / name) != expected:
                raise self.error(f"{folder / name}: damaged, its SHA-256 has changed; {self.remedy}")
        if all(changed < settled * 1e9 for entry in stats.values() for changed in entry[1:3]):
            _found_whole[place] = stamp
            _remember(folder, stamp)

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


def _stamp(folder: Path) -> Any:
    try:
        return parse_json((folder / STAMP).read_bytes())
    except (OSError, ValueError):
        return None


def _remember(folder: Path, stamp: dict[str, Any]) -> None:
    part = folder / f"{STAMP}.part-{os.getpid()}"
    try:
        part.write_text(json.dumps(stamp), encoding="utf-8")
        part.replace(folder / STAMP)
    except OSError:  # for a folder that can't be written to, kept in memory only
        with suppress(OSError):
            part.unlink(missing_ok=True)
