"""Folders that are complete or absent: written beside their final name, flushed, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrank.errors import OutputError


def refuse_occupied(out: Path) -> None:
    """OutputError where `out` is a file or a folder with something in it."""
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out}: the output folder is not empty; choose another name or remove it first")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; choose the name of a new folder")


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary sibling of `final` to write into; it takes the name when the block ends, and vanishes if it fails.

    OSErrors (a full disk, no permission) become a one-line OutputError. `final` may exist if it is empty.
    """
    part = final.parent / f".{final.name}.part-{os.getpid()}"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        for path in sorted(part.rglob("*")):
            sync(path)
        sync(part)
        if final.is_dir():
            final.rmdir()
        part.rename(final)
        sync(final.parent)
    except OSError as problem:
        raise OutputError(f"{final}: can't be written ({problem.strerror or problem}); {_remedy(problem)}") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one move."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(problem: OSError) -> str:
    import errno

    if problem.errno == errno.ENOSPC:
        return "make room, or choose a folder on another disk"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that you may write to"
    return "choose another output folder"
