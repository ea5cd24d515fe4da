"""Numbers for names that are added while a service runs: a dozen bytes each, for names of any length."""

import threading
from hashlib import blake2b
from secrets import token_bytes

import numpy as np
from numpy.typing import NDArray

RECENT = 4096  # names in a plain mapping before they are sorted into arrays
RATIO = 8  # every part is at least RATIO times as large as the next

Keys = NDArray[np.uint64]
Numbers = NDArray[np.uint32]


class NameNumbers:
    """Gives every name a number, in the order in which they come. Safe to use from several threads.

    It keeps 64 bits of a hash of each name, with a secret key that no caller knows: the probability that two of a
    million names have the same bits is 3 in 10^8.
    """

    def __init__(self, first: int):
        """first: the number of the first name, at least 1."""
        self._next = first
        self._secret = token_bytes(16)
        self._lock = threading.Lock()
        self._recent: dict[int, int] = {}
        self._parts: tuple[tuple[Keys, Numbers], ...] = ()  # sorted by key; the largest first

    def find(self, name: str) -> int:
        """The name's number, 0 if it has none."""
        with self._lock:
            return self._find(self._key(name))

    def add(self, name: str) -> int:
        """The name's number, a new one if it has none."""
        key = self._key(name)
        with self._lock:
            if number := self._find(key):
                return number
            self._recent[key] = self._next
            self._next += 1
            if len(self._recent) >= RECENT:
                self._settle()
            return self._next - 1

    def _key(self, name: str) -> int:
        text = name.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=8, key=self._secret).digest(), "little")

    def _find(self, key: int) -> int:
        if found := self._recent.get(key):
            return found
        wanted = np.uint64(key)
        for keys, numbers in self._parts:
            place = int(keys.searchsorted(wanted))
            if place < len(keys) and keys[place] == wanted:
                return int(numbers[place])
        return 0

    def _settle(self) -> None:
        """Sort the recent names into a part, and join parts of similar size."""
        parts = [*self._parts, _sorted(np.array([*self._recent], np.uint64), np.array([*self._recent.values()]))]
        while len(parts) > 1 and RATIO * len(parts[-1][0]) > len(parts[-2][0]):
            other, one = parts.pop(), parts.pop()
            parts.append(_sorted(np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])))
        self._parts, self._recent = tuple(parts), {}


def _sorted(keys: Keys, numbers: NDArray[np.integer]) -> tuple[Keys, Numbers]:
    order = np.argsort(keys)
    return keys[order], numbers[order].astype(np.uint32)
