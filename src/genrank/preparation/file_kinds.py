"""The kind of a file by its first bytes (the encoding of text, or not text), and its content in UTF-8."""

import codecs
import errno
import gzip
import zlib
from contextlib import closing
from pathlib import Path
from typing import IO

from genrank.errors import LogError, OutputError

SAMPLE = 2**16  # bytes at a file's beginning by which its kind is decided
COPIED = 2**20  # bytes at a time
ENCODINGS = "as in latin-1, cp1252, gb18030"
BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip or Excel file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"\x1f\x8b": "gzip without .gz in its name",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"ARROW1": "Arrow",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "PDF",
}


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends with .gz."""
    return gzip.open(path, "rb") if is_gzip(path) else path.open("rb")  # type: ignore[return-value]


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return path.suffix.lower() == ".gz"


def unreadable(path: Path, problem: Exception) -> LogError | OutputError:
    """The error for a file that the system can't read, or for a copy of it that finds no space."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{path}: no space left on the disk for a copy of it; free some space or choose another --out"
        )
    if isinstance(problem, EOFError | zlib.error | gzip.BadGzipFile):
        return LogError(f"{path}: expected gzip, found a file that is cut, damaged or no gzip; write or copy it again")
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else type(problem).__name__
    return LogError(f"{path}: can't be read ({reason}); check its permissions, or write or copy it again")


def beginning(path: Path, given: str | None) -> tuple[str, str]:
    """The file's encoding (`given`, or found out), and its first lines. Raises LogError for what is no text."""
    try:
        with closing(opened(path)) as file:
            head = file.read(SAMPLE)
    except (OSError, EOFError, zlib.error) as problem:
        raise unreadable(path, problem) from None
    for magic, kind in BINARY.items():
        if head.startswith(magic):
            raise LogError(f"{path}: expected text, found {kind}; rename or unpack it, or export it as CSV")
    encoding = codecs.lookup(given).name if given else _encoding(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=False)
    except UnicodeDecodeError as problem:
        line = head[: problem.start].count(b"\n") + 1
        raise LogError(f"{path}, line {line}: not {encoding}; set [csv] encoding, {ENCODINGS}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise LogError(
            f"{path}, line {line}: expected text, found zero bytes; set [csv] encoding, {ENCODINGS}, or write it again"
        )
    if not text.strip("\ufeff\r\n "):
        raise LogError(f"{path}: the file is empty; expected a line of column names and one line per row")
    if text.lstrip("\ufeff\r\n ").startswith(("{", "[{", "[[")):
        raise LogError(f"{path}: expected a line of column names, found JSON; export it as CSV or Parquet")
    return encoding, text.removeprefix("\ufeff")


def _encoding(head: bytes) -> str:
    """By the byte order mark, or for UTF-16 without one by its zero bytes; else UTF-8."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head and head[first::2].count(0) > 0.8 * len(head[first::2]):
            return name
    return "utf-8"


def as_utf8(path: Path, encoding: str, target: Path) -> Path:
    """The file itself if it is plain UTF-8, else a copy of its content at `target`. Raises LogError."""
    if encoding == "utf-8" and not is_gzip(path):
        return path
    lines = 1
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with closing(opened(path)) as file, target.open("wb") as copy:
            block = b"more"
            while block:
                block = file.read(COPIED)
                if encoding == "utf-8":
                    copy.write(block)
                    continue
                text = decoder.decode(block, final=not block)
                lines += text.count("\n")
                copy.write(text.encode())
    except UnicodeDecodeError as problem:
        lines += problem.object[: problem.start].decode(problem.encoding, "replace").count("\n")
        raise LogError(
            f"{path}, line {lines}: not {encoding}; set [csv] encoding, {ENCODINGS}; is the file cut?"
        ) from None
    except (OSError, EOFError, zlib.error) as problem:
        raise unreadable(path, problem) from None
    return target
