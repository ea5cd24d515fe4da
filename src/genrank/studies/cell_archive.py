"""The cells of a finished study in one file, cells.jsonl.gz, beside the folder `cells` of loose files, one per cell.

The first line has the format and the files' names; every further line is the JSON of one file, in the same order.
Names and keys are sorted and no time is stored, so that equal cells give equal bytes. Loose files are read first: they
are newer, because a study writes loose files only.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from genrank.documents import parse_json
from genrank.errors import DataError, OutputError
from genrank.folders import clear_leftovers, replace_bytes
from genrank.locks import locked
from genrank.schema import fingerprint

FORMAT = 1
CELLS = "cells"  # the folder of loose files
COMPUTE = "remove it: the study computes it again"
RESTORE = "restore it from a copy or from version control, or remove it: the study then computes its cells again"


@dataclass(frozen=True, kw_only=True)
class PackedCells:
    """The result of packing. num_cells: cells in the archive; num_added: those of them that were loose files before."""

    archive: Path
    num_cells: int
    num_added: int


def archive_of(folder: Path) -> Path:
    """The archive of a folder of loose cell files, whether it exists or not."""
    return folder.with_name(f"{folder.name}.jsonl.gz")


def cell_texts(folder: Path, identity: str) -> Iterator[tuple[str, bytes]]:
    """Every stored cell of that identity, loose files first: its file, for messages, and its JSON. Raises DataError."""
    ending = f"-{identity}.json"
    for path in sorted(folder.glob(f"*{ending}")):
        if (text := _bytes(path)) is not None:
            yield str(path), text
    for name, text in read_archive(folder).items():
        if name.endswith(ending):
            yield f"{archive_of(folder)}, {name}", text


def read_archive(folder: Path) -> Mapping[str, bytes]:
    """The packed cells of a folder: name of the file -> its JSON; none where there is no archive.

    Raises DataError where the archive is damaged or of a later format.
    """
    path = archive_of(folder)
    try:
        return _read_once(path, _stamp(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as problem:
        raise DataError(f"{path}: can't be read ({problem.strerror}); correct its permissions") from None


def pack_studies(folder: Path) -> list[PackedCells]:
    """Pack the cells of the studies in `folder` and one folder below; cells that are packed already stay as they are.

    Raises DataError where there are no cells, and as `pack` does.
    """
    places = [place / CELLS for place in (folder, *sorted(folder.glob("*")))]
    if not any(place.is_dir() or archive_of(place).exists() for place in places):
        raise DataError(f"{folder}: no study's cells, here or one folder below; run genrank study first")
    return [packed for place in places if (packed := pack(place)) is not None]


def pack(folder: Path) -> PackedCells | None:
    """Move the loose cell files into the folder's archive, beside the cells that it has; None if there are no files.

    A loose cell replaces a packed one of the same identity. The new archive is read back before it replaces the old
    one, and the files are deleted last: after an interruption at any point all cells exist, and packing can be
    repeated. A file that a study writes meanwhile is kept, and so is the folder, because a study may write into it.

    Raises DataError where a cell or the archive is damaged, OutputError where the archive can't be written or another
    process is packing.
    """
    archive = archive_of(folder)
    if not any(folder.glob("*.json")):
        return None
    with locked(archive.with_name(f".{archive.name}.lock"), what=str(archive)):
        clear_leftovers(archive.parent, of=archive.name)
        stamps = {path: _stamp(path) for path in sorted(folder.glob("*.json"))}
        loose = {path.name: _checked(_bytes(path) or b"", path, COMPUTE) for path in stamps}
        newer = {_identity(name) for name in loose}
        packed = {name: text for name, text in read_archive(folder).items() if _identity(name) not in newer}
        for name, text in packed.items():
            _checked(text, f"{archive}, {name}", RESTORE)
        cells = dict(sorted((packed | loose).items()))
        replace_bytes(archive, _compressed(cells), check=partial(_check_holds, cells=cells))
        for path, stamp in stamps.items():
            _remove(path, stamp)
    return PackedCells(archive=archive, num_cells=len(cells), num_added=len(loose))


def _bytes(path: Path) -> bytes | None:
    """The content of a loose file; None if it has just been packed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise DataError(f"{path}: can't be read ({problem.strerror}); correct its permissions or remove it") from None


def _remove(path: Path, stamp: tuple[int, ...]) -> None:
    """Remove a file that is packed, unless it was written again meanwhile."""
    try:
        if _stamp(path) == stamp:
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise OutputError(f"{path}: packed, and can't be removed ({problem.strerror}); remove it yourself") from None


def _compressed(cells: Mapping[str, bytes]) -> bytes:
    header = json.dumps({"format": FORMAT, "cells": list(cells)}, separators=(",", ":")).encode()
    return gzip.compress(b"".join(line + b"\n" for line in (header, *cells.values())), mtime=0)


def _checked(text: bytes, where: Path | str, remedy: str) -> bytes:
    """The cell's line in an archive. DataError if the content doesn't match its digest."""
    try:
        content = parse_json(text)
        digest = content.pop("digest")
        reason = "" if digest == fingerprint(content) else "not as it was computed"
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        reason = str(problem) if isinstance(problem, ValueError) else "not a cell"
    if reason:
        raise DataError(f"{where}: damaged ({reason}); {remedy}")
    return json.dumps({**content, "digest": digest}, sort_keys=True, separators=(",", ":")).encode()


def _check_holds(path: Path, cells: Mapping[str, bytes]) -> None:
    if _read(path) != cells:
        raise DataError(f"{path}: not what was written; the disk may be failing, choose another")


@lru_cache(maxsize=4)
def _read_once(path: Path, _stamp: tuple[int, ...]) -> Mapping[str, bytes]:
    """Cached by the file's stamp, so that a file that was replaced is read again."""
    return _read(path)


def _read(path: Path) -> dict[str, bytes]:
    try:
        header, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
        about, lines = parse_json(header), body.splitlines()
    except (OSError, EOFError, zlib.error, ValueError) as problem:
        reason = (problem.strerror if isinstance(problem, OSError) else "") or problem
        raise DataError(f"{path}: damaged ({reason}); {RESTORE}") from None
    about = about if isinstance(about, dict) else {}
    names = about.get("cells")
    if about.get("format", FORMAT) != FORMAT:
        raise DataError(f"{path}: of format {about['format']!r}, expected {FORMAT}; read it with a later genrank")
    if not isinstance(names, list) or len(names) != len(lines):
        raise DataError(f"{path}: damaged (its first line doesn't list its {len(lines)} cells); {RESTORE}")
    return dict(zip(map(str, names), lines, strict=True))


def _stamp(path: Path) -> tuple[int, ...]:
    """A value that changes when the file is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _identity(name: str) -> str:
    """The identity of a cell, from the name of its file."""
    return name.removesuffix(".json").rpartition("-")[2]
