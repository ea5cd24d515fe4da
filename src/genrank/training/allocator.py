"""Settings of the C library for freed memory: a process that trains keeps it, one that serves returns it."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # of glibc's malloc.h
MAX_INT = 2**31 - 1
STEP = 64 * 2**20  # bytes by which the heap grows; ours
ARENAS = 2  # ours


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory. False if it has no such setting, as outside glibc.

    By default glibc maps every block of 32 MiB or more again, zeroed page by page, and returns it when it is freed.
    With this setting a process keeps its peak memory.
    """
    libc = glibc()
    if libc is None:
        return False
    wanted = {MMAP_THRESHOLD: MAX_INT, TRIM_THRESHOLD: MAX_INT, TOP_PAD: STEP}
    return all(libc.mallopt(name, value) for name, value in wanted.items())


def share_freed_memory() -> bool:
    """Make the C library share freed memory among threads; call it before they start. False if it has no such setting.

    By default glibc uses up to 8 arenas per core, and each keeps the memory that its threads have freed.
    """
    libc = glibc()
    return libc is not None and bool(libc.mallopt(ARENA_MAX, ARENAS))


def release_freed_memory() -> None:
    """Return free pages to the system now, as after a model was removed. It takes milliseconds."""
    libc = glibc()
    if libc is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """glibc; None if the C library is another one."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
