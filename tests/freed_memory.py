"""Whether memory that one step frees serves the next."""

import resource
from concurrent.futures import ProcessPoolExecutor

import torch

from forked_commands import FORKS
from genrank.training.allocator import keep_freed_memory


def new_pages(*, kept: bool) -> int:
    """Pages that ten steps take anew. In a process of its own, so that what other tests have freed doesn't serve."""
    with ProcessPoolExecutor(1, mp_context=FORKS) as pool:
        return pool.submit(_new_pages, kept).result()


def _new_pages(kept: bool) -> int:
    assert not kept or keep_freed_memory()
    for _ in range(8):  # the heap settles within a few steps, how many depends on where it begins
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def work() -> None:
    """Takes blocks of 64 MiB, which are above glibc's own threshold."""
    torch.ones(2**24).mul_(2).sum()
