"""Freed memory that stays with the process, so that large tensors don't ask the system for new pages at every step."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
MAX_INT = 2**31 - 1
STEP = 64 * 2**20  # bytes by which the heap grows; ours


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


def glibc() -> ctypes.CDLL | None:
    """The C library, None where it is another one."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
