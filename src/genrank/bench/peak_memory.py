"""The peak memory of a piece of work, beyond the memory in use before it begins.

It is measured in a fresh process, because memory that this process has allocated and freed before would hide it. There
the allocator returns freed memory at once, each piece runs once to warm up (thread pools, optimizer states), and the
peak of the resident set is reset before the run that counts. On a GPU it is the figure of CUDA's allocator.
"""

import contextlib
import gc
import resource
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from genrank.bench.measure import Work
from genrank.training.allocator import MMAP_THRESHOLD, TRIM_THRESHOLD, glibc

_KEPT = 64 * 1024  # bytes; larger blocks are mapped, and unmapped when freed. Smaller peaks are not measured.


def peak_memory(prepare: Callable[..., Mapping[str, Work]], *arguments: object) -> dict[str, int]:
    """Bytes per piece of work. `prepare(*arguments)` returns the pieces; it is called in the other process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, torch.get_num_threads(), prepare, arguments).result()


def _measure(
    num_threads: int, prepare: Callable[..., Mapping[str, Work]], arguments: tuple[object, ...]
) -> dict[str, int]:
    torch.set_num_threads(num_threads)
    libc = glibc()
    if libc is not None:
        libc.mallopt(MMAP_THRESHOLD, _KEPT)
        libc.mallopt(TRIM_THRESHOLD, _KEPT)
    work = prepare(*arguments)
    gc.freeze()  # what there is before the first piece is not searched for garbage before every piece
    return {name: _growth(run) for name, run in work.items()}


def _growth(run: Work) -> int:
    run()
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return _growth_on_gpu(run)
    libc = glibc()
    if libc is not None:
        libc.malloc_trim(0)
    before = _reset_high_water()
    run()
    return max(_high_water() - before, _KEPT)


def _growth_on_gpu(run: Work) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return max(torch.cuda.max_memory_allocated() - before, _KEPT)


def _reset_high_water() -> int:
    """Reset the peak; returns the bytes from which growth is counted."""
    # If this is not Linux or not permitted, growth is counted from the largest peak so far, including the warm-up.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _high_water()


def _high_water() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
