"""Folders that are complete or absent: written beside their final name, flushed, renamed.

A process that is killed leaves `.NAME.part…` or `.NAME.old` behind; the next one that writes there clears them.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genrank.errors import InputError, OutputError
from genrank.locks import locked


def refuse_occupied(out: Path) -> None:
    """OutputError where `out` is a file, a link to nothing, or a folder with something in it."""
    try:
        occupied = out.is_dir() and any(out.iterdir())
        exists = out.exists() or out.is_symlink()
    except OSError as problem:
        raise unwritable(out, problem) from None
    if occupied:
        raise OutputError(f"{out}: the output folder is not empty; choose another name or remove it first")
    if exists and not out.is_dir():
        raise OutputError(f"{out}: is a file, or a link to nothing; choose the name of a new folder")


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary sibling of `final` to write into; it takes the name when the block ends, and vanishes if it fails.

    OSErrors (a full disk, no permission) become a one-line OutputError. `final` may exist if it is empty, and may be a
    link to such a folder; a mount point, which can't be replaced, is refused before the block begins, and so is a
    folder that another process writes.
    """
    written = Path(os.path.realpath(final))
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        with locked(written.with_name(f".{written.name}.lock"), what=str(final)):
            clear_leftovers(written.parent, of=written.name)
            _refuse_fixed(written)
            with _part(written) as part:
                yield part
                _flush(part)
                part.rename(written)  # in one step, over an empty folder too
                sync(written.parent)
    except OSError as problem:
        raise unwritable(final, problem) from problem


@contextmanager
def replacement(final: Path) -> Iterator[Path]:
    """As `new_folder`, for who holds the lock around it: what has the name `final` goes when the block has ended."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(final.parent, of=final.name)
        with _part(final) as part:
            yield part
            _flush(part)
            _take_name(part, final)
    except OSError as problem:
        raise unwritable(final, problem) from problem


class NewVersion:
    """A version that is being written: `part` is its folder until `finish` gives it its name."""

    def __init__(self, folder: Path, part: Path):
        self.folder, self.part, self.final = folder, part, folder

    def finish(self, version: str, *, is_whole: Callable[[Path], bool]) -> None:
        """Give it its name and point `latest` at it; one that is there already stays if it `is_whole`."""
        self.final = self.folder / version
        _flush(self.part)
        if not is_whole(self.final):
            _take_name(self.part, self.final)
        replace_text(self.folder / "latest", version)


@contextmanager
def new_version(folder: Path) -> Iterator[NewVersion]:
    """A version below `folder`, whose name is known when it is written. OutputError as of `new_folder`."""
    try:
        with writing(folder), _part(folder / "version") as part:
            yield NewVersion(folder, part)
    except OSError as problem:
        raise unwritable(folder, problem) from problem


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only process that writes into `folder`, made if need be, and clear what dead ones have left there.

    OutputError where it can't be written, or if another process is writing there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise unwritable(folder, problem) from None
    with locked(folder / ".lock", what=str(folder)):
        clear_leftovers(folder)
        yield


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one move. OutputError where it can't be."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes, *, check: Callable[[Path], None] | None = None) -> None:
    """As `replace_text`. check: of the written file before it takes its name; what it raises leaves `path` as it is."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(content)
        sync(part)
        if check is not None:
            check(part)
        part.replace(path)
        sync(path.parent)
    except BaseException as problem:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise unwritable(path, problem) from None
        raise


def read_pointer(path: Path, *, error: type[InputError], remedy: str) -> str:
    """The name in a file such as `latest`: of something beside it, and nowhere else. `error` where it is no such."""
    try:
        name = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as problem:
        raise error(f"{path}: can't be read ({problem}); {remedy}") from None
    if not name or name.startswith(".") or Path(name).name != name or len(name) > 200 or not name.isprintable():
        raise error(f"{path}: expected the name of a folder beside it, found {name[:200]!r}; {remedy}")
    return name


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _part(final: Path) -> Iterator[Path]:
    part = final.with_name(f".{final.name}.part")
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _take_name(part: Path, final: Path) -> None:
    """Give `part` the name `final`; what has it is moved aside, and back by `clear_leftovers` if this is cut short."""
    old = final.with_name(f".{final.name}.old")
    if final.is_symlink() or not final.is_dir():
        final.unlink(missing_ok=True)
    elif any(final.iterdir()):
        final.rename(old)
    part.rename(final)  # in one step, over an empty folder too
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(part: Path) -> None:
    for path in sorted(part.rglob("*")):
        sync(path)
    sync(part)


def clear_leftovers(folder: Path, of: str = "") -> None:
    """Remove what dead processes have left half done in a folder, of the name `of` if given; OutputError.

    What they were about to replace gets its name back. Only for who holds the folder's lock.
    """
    try:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name, _, ending = path.name.rpartition(".")
            staged = path.name == ".staged"  # of earlier versions
            if not (name.startswith(".") or staged) or (of and name != f".{of}"):
                continue
            if ending == "old" and not (final := folder / name[1:]).exists():
                path.rename(final)
            elif re.fullmatch(r"old|staged|part(-\d+)?", ending):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as problem:
        raise unwritable(folder, problem) from None


def _refuse_fixed(final: Path) -> None:
    """OutputError where an existing folder can't be replaced: found out now, and not when the work is done."""
    if not final.is_dir():
        return
    mode = final.stat().st_mode & 0o7777
    try:
        if final == Path.cwd():
            raise OSError(errno.EBUSY, "it is the working folder")
        final.rmdir()
    except OSError as problem:
        reason = "a mount point or in use" if problem.errno == errno.EBUSY else problem.strerror
        raise OutputError(
            f"{final}: can't be replaced ({reason}); name a new folder in it, as in {final / 'out'}"
        ) from None
    final.mkdir()
    final.chmod(mode)


def unwritable(path: Path, problem: OSError) -> OutputError:
    """The error in one line for a path that can't be written, with what to do."""
    return OutputError(f"{path}: can't be written ({problem.strerror or problem}); {_remedy(problem)}")


def _remedy(problem: OSError) -> str:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room, or choose a folder on another disk"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that you may write to"
    return "choose another output folder"
