"""How many rows a delimited text file has, counted without the engine and fast: by bits, 64 bytes at a time.

A quote opens and closes, so the running parity (XOR) of the quotes before a byte says whether it is inside of a value,
as in simdjson (Langdale & Lemire 2019, section 3.1.1). What is not as plain is for preparation/text_records.py.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Find = Callable[[str], tuple[int, Words]]
BLOCK = 2**19
LONGEST_ROW = 2**23  # bytes; what is longer is more likely an unbalanced quote than a row
ONE = np.uint64(1)
NOTHING = np.zeros(1, np.uint64)
MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file's rows are written. `names`: of its columns, each there once; `header`: they are its first row."""

    separator: str
    quote: str  # "" for none
    names: tuple[str, ...]
    header: bool = True
    quote_given: bool = False  # by the user, not found out

    @property
    def plain(self) -> bool:
        """Whether both the engine and the scan know such separators and quotes."""
        return self.quote.isascii() and self.separator.isascii() and len(self.separator) == 1

    @property
    def plainest(self) -> "Dialect":
        """The dialect of copies that the engine reads."""
        return self if self.plain else replace(self, separator=",", quote='"')


def plain_rows(path: Path, dialect: Dialect) -> int | None:
    """Rows of a UTF-8 file in which every row has all columns, every quote its place and no value a line end.

    None for any other file, be it damaged or only unusual. Raises OSError.
    """
    if not dialect.plain:
        return None
    rows, first, places = 0, b"", _Bytes()
    with path.open("rb") as file:
        for buffer, size in _whole_lines(file):
            if not first:
                first = bytes(buffer[: buffer.index(b"\n") + 1]).removeprefix(MARK)
                if dialect.header and not _is_header(first, dialect):
                    return None
            elif dialect.header and buffer.startswith(first):
                return None  # the header again
            odd = (b"\0", MARK, b"\n" + first) if dialect.header else (b"\0", MARK)
            if any(buffer.find(part, 1, size) >= 0 for part in odd):
                return None
            found = _count(partial(places.find, buffer, size), dialect, returns=first.endswith(b"\r\n"))
            if found is None:
                return None
            rows += found
    return rows - dialect.header if first else None


def _whole_lines(file: BinaryIO) -> Iterator[tuple[bytearray, int]]:
    """A buffer, used again and again, and how many of its bytes are whole lines. A NUL stands for a line too long."""
    buffer = bytearray(2 * BLOCK)
    begin = 0  # of the unused part: before it is the beginning of a line
    while size := file.readinto(memoryview(buffer)[begin:-1]):  # type: ignore[attr-defined]
        size += begin
        end = buffer.rfind(b"\n", begin, size) + 1
        if end:
            yield buffer, end
            buffer[: size - end] = buffer[end:size]
        begin = size - end
        if begin > LONGEST_ROW:
            yield bytearray(b"\0\n"), 2
            return
        if begin > len(buffer) // 2:
            buffer.extend(bytes(len(buffer)))
    if begin:
        buffer[begin : begin + 1] = b"\n"
        yield buffer, begin + 1


def _is_header(line: bytes, dialect: Dialect) -> bool:
    try:
        text = line.decode()
        quoting: dict[str, Any] = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
        row = next(csv.reader([text], delimiter=dialect.separator, strict=True, **quoting), [])
    except (csv.Error, UnicodeDecodeError):
        return False
    return len(row) == len(dialect.names)


class _Bytes:
    """Where a character is among the bytes of a block: how often, and as a bit for each byte.

    The array of comparisons is kept, as fresh memory costs more than the comparison.
    """

    def __init__(self) -> None:
        self._equal = np.empty(0, np.bool_)

    def find(self, buffer: bytearray, size: int, character: str) -> tuple[int, Words]:
        """How many of the first `size` bytes are the character, and 64 bits a word, the first one lowest."""
        if buffer.find(character.encode(), 0, size) < 0:
            return 0, NOTHING
        if len(self._equal) < size:
            self._equal = np.empty(len(buffer), np.bool_)
        equal = np.equal(np.frombuffer(buffer, np.uint8, size), ord(character), out=self._equal[:size])
        packed = np.packbits(equal, bitorder="little")
        padded = np.zeros(-(-len(packed) // 8) * 8, np.uint8)
        padded[: len(packed)] = packed
        return int(np.count_nonzero(equal)), padded.view("<u8")


def _count(find: Find, dialect: Dialect, *, returns: bool) -> int | None:
    """Rows of a block of whole lines, which end with `\\r\\n` if `returns`; None if they aren't plain."""
    num_rows, ends = find("\n")
    begin = _later(ends)
    begin[0] |= ONE  # of lines
    last = ends  # the first byte of every line end
    num_returns, found = find("\r")
    if num_returns:
        last = found
        if not returns or np.any(_later(last) != ends):
            return None
    if np.any(last & begin):
        return None  # an empty line
    num_separators, separators = find(dialect.separator)
    num_quotes, quotes = find(dialect.quote) if dialect.quote else (0, NOTHING)
    if num_quotes:
        quoted = _quoted(quotes, separators, ends, last)
        if quoted is None:
            return None
        num_separators -= quoted
    return num_rows if num_separators == num_rows * (len(dialect.names) - 1) else None


def _quoted(quotes: Words, separators: Words, ends: Words, last: Words) -> int | None:
    """How many separators are inside of quotes; None if a quote is out of place, or a line end is inside of a value."""
    inside = _parity(quotes)  # from an opening quote up to before its closing one
    outer = separators & ~inside
    before, after = _later(outer | ends | quotes), _earlier(outer | last | quotes)
    before[0] |= ONE
    if np.any(inside & (ends | (quotes & ~before))) or np.any(quotes & ~inside & ~after):
        return None
    within = separators & inside
    return int(np.unpackbits(within.view(np.uint8)).sum()) if within.any() else 0


def _later(words: Words) -> Words:
    """The bits one byte later."""
    moved: Words = words << ONE
    moved[1:] |= words[:-1] >> np.uint64(63)
    return moved


def _earlier(words: Words) -> Words:
    """The bits one byte earlier."""
    moved: Words = words >> ONE
    moved[:-1] |= words[1:] << np.uint64(63)
    return moved


def _parity(words: Words) -> Words:
    """Bits that say whether an odd number of `words`' bits is at or before them."""
    words = words.copy()
    for step in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(step)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(63))
    words[1:] ^= np.uint64(0) - odd[:-1]
    return words
