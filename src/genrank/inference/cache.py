"""A cache with a byte budget, for encoded histories: the least recently used are evicted first. It knows no tensors."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class CacheCounts:
    """Counts since the start, and the present size."""

    hits: int
    misses: int
    evictions: int
    refused: int  # larger than the whole budget
    entries: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """Hits over look-ups, 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)


class ByteBudgetCache(Generic[Key, Value]):
    """A mapping whose entries take at most `max_bytes`. Safe to use from several threads."""

    def __init__(self, max_bytes: int, *, size: Callable[[Key, Value], int]):
        """size: bytes of an entry with its key. ValueError for a negative budget; 0: nothing is kept."""
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must be 0 or more")
        self.max_bytes, self._size = max_bytes, size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = self._refused = 0

    def get(self, key: Key) -> Value | None:
        """The value, which becomes the most recently used one; None if there is none."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value) -> None:
        """Store the value, replacing an older one; evict others until all fit. A value over the budget is ignored."""
        size = self._size(key, value)
        with self._lock:
            self._remove(key)
            if size > self.max_bytes:
                self._refused += 1
                return
            self._entries[key] = (value, size)
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
                self._evictions += 1

    def remove_where(self, unwanted: Callable[[Key], bool]) -> int:
        """Remove the keys for which `unwanted` is true; returns how many."""
        with self._lock:
            keys = [key for key in self._entries if unwanted(key)]
            for key in keys:
                self._remove(key)
            return len(keys)

    def counts(self) -> CacheCounts:
        """A snapshot."""
        with self._lock:
            return CacheCounts(
                self._hits, self._misses, self._evictions, self._refused, len(self._entries), self._bytes
            )

    def _remove(self, key: Key) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
