"""A process that dies, or a disk that fails, at the n-th change that is made to files below a folder."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genrank import folders

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "test.sync")
REMOVALS = ("os.remove", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killed(BaseException):
    """Stands for kill -9: from then on nothing changes on the disk, whatever tidying the code does."""


class Interruption:
    """Counts changes; at the n-th and, if it is a kill, at all later ones, `problem` is raised instead."""

    def __init__(self, folder: Path, at: int, problem: BaseException):
        self.folder, self.at, self.problem = str(folder), at, problem
        self.count, self.thread = 0, threading.get_ident()

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self.thread or not _changes(event, arguments):
            return
        if event in REMOVALS and not isinstance(self.problem, Killed):
            return  # which a full disk doesn't hinder
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and Path(path).is_absolute() and self.folder not in str(path):
            return
        self.count += 1
        if self.count == self.at or (self.count > self.at and isinstance(self.problem, Killed)):
            raise self.problem

    @property
    def happened(self) -> bool:
        return self.count >= self.at


_armed: list[Interruption] = []


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & WRITING)
    return event in CHANGES


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for interruption in _armed:
        interruption.see(event, arguments)


sys.addaudithook(_hook)


@contextmanager
def interrupted(folder: Path, at: int, problem: BaseException) -> Iterator[Interruption]:
    """Everything that changes below `folder` is counted until the block ends, or is interrupted."""
    made, sync = Interruption(folder, at, problem), folders.sync

    def flush(path: Path) -> None:
        sys.audit("test.sync", str(path))
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "sync", flush)
        _armed.append(made)
        try:
            yield made
        finally:
            _armed.remove(made)
