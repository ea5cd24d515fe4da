"""What the C library does with freed memory: it stays with a process that trains, and leaves one that serves."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # of glibc's malloc.h
MAX_INT = 2**31 - 1
STEP = 64 * 2**20  # bytes by which the heap grows; ours
ARENAS = 2  # ours


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed. False where it can't be told, as outside glibc.

    By default glibc maps every block of 32 MiB and more anew, zeroed page by page, and gives it back when it is freed.
    A process then holds on to its peak.
    """
    libc = glibc()
    if libc is None:
        return False
    wanted = {MMAP_THRESHOLD: MAX_INT, TRIM_THRESHOLD: MAX_INT, TOP_PAD: STEP}
    return all(libc.mallopt(name, value) for name, value in wanted.items())


def share_freed_memory() -> bool:
    """Tell the C library that threads share what is freed. False where it can't be told. Call it before they begin.

    By default glibc gives each of up to 8 threads a core an arena of its own, which keeps what its thread has freed.
    """
    libc = glibc()
    return libc is not None and bool(libc.mallopt(ARENA_MAX, ARENAS))


def release_freed_memory() -> None:
    """Give free pages back to the system now, as after a model has gone. It takes milliseconds."""
    libc = glibc()
    if libc is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """The C library, None where it is another one."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
