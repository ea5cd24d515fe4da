"""Changes of a folder in place: all of a change or nothing of it, whenever a process is killed.

A change is written into `.change` in the folder, flushed, and renamed to `.commit`: from there on it counts. Its files
are then moved to their names, the one that describes the folder last, and files that it drops are removed. Whoever
opens the folder next completes a `.commit` that was cut short; what lies in a `.change` never counted.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from genrank import folders
from genrank.errors import OutputError
from genrank.locks import locked

CHANGE, SCRATCH, COMMIT, LOCK, REMOVED = ".change", ".scratch", ".commit", ".lock", ".removed.json"
PATIENCE = 10.0  # seconds that a reader waits for the process that completes a change


@dataclass
class FolderChange:
    """A change that is being written: `new` is laid out like the folder, `removed` are paths relative to it.

    `scratch`: a folder for what is in the way of memory meanwhile.
    """

    new: Path
    scratch: Path
    removed: list[str] = field(default_factory=list)


@contextmanager
def changing(folder: Path, *, about: str) -> Iterator[FolderChange]:
    """Be the only process that changes `folder`, and make the change when the block ends; if it fails, none.

    `about`: the file that describes the folder. OutputError where another process is changing it, or where it can't be
    written.
    """
    try:
        with locked(folder / LOCK, what=str(folder)):
            _complete(folder, about)
            change = FolderChange(new=folder / CHANGE, scratch=folder / SCRATCH)
            for part in (change.new, change.scratch):
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir()
            try:
                yield change
                (change.new / REMOVED).write_text(json.dumps(change.removed), encoding="utf-8")
                for path in sorted(change.new.rglob("*")):
                    folders.sync(path)
                folders.sync(change.new)
                change.new.rename(folder / COMMIT)
            finally:
                for part in (change.new, change.scratch):
                    shutil.rmtree(part, ignore_errors=True)
            folders.sync(folder)
            _complete(folder, about)
    except OSError as problem:
        raise folders.unwritable(folder, problem) from problem


def complete_change(folder: Path, *, about: str) -> None:
    """Complete a change that was cut short, or wait for the process that is completing it: what readers begin with.

    OutputError where it can't be written, or the other process takes too long.
    """
    deadline = time.monotonic() + PATIENCE
    while os.path.lexists(folder / COMMIT):
        try:
            with locked(folder / LOCK, what=str(folder)):
                _complete(folder, about)
        except OSError as problem:
            raise folders.unwritable(folder, problem) from problem
        except OutputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _complete(folder: Path, about: str) -> None:
    """Move what lies in `.commit` to its place; nothing where there is none. Only for who holds the lock."""
    commit = folder / COMMIT
    if not commit.is_dir():
        return
    paths = sorted(path for path in commit.rglob("*") if path.is_file() and path.name not in (about, REMOVED))
    for path in [*paths, commit / about]:
        if path.exists():  # or it was moved before this was cut short
            place = folder / path.relative_to(commit)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            folders.sync(place.parent)
    if (commit / REMOVED).exists():  # the last to go
        for name in json.loads((commit / REMOVED).read_text(encoding="utf-8")):
            (folder / name).unlink(missing_ok=True)
            _remove_empty((folder / name).parent, folder)
        (commit / REMOVED).unlink()
    shutil.rmtree(commit)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    folders.sync(folder)


def _remove_empty(path: Path, top: Path) -> None:
    """Remove folders that have become empty, up to `top`."""
    while path != top and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
        path = path.parent
