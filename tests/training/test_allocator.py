import resource
import subprocess
import sys

import pytest

from freed_memory import new_pages
from genrank.training.allocator import glibc, keep_freed_memory, release_freed_memory, share_freed_memory


@pytest.mark.skipif(glibc() is None, reason="needs glibc")
def test_freed_memory_serves_the_next_step() -> None:
    kept, given_back = new_pages(kept=True), new_pages(kept=False)
    assert kept < 0.2 * given_back
    assert given_back > 5 * 2**26 / resource.getpagesize() / 512  # the control does ask anew, huge pages or not


ARENAS = """
import ctypes, threading
from genrank.training.allocator import glibc, share_freed_memory
{call}
started = threading.Barrier(9)
def work():
    block = bytearray(10_000)
    started.wait()
    started.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
started.wait()
libc = glibc()
libc.fopen.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, page)
libc.fflush(page)
started.wait()
"""


@pytest.mark.skipif(glibc() is None, reason="needs glibc")
def test_threads_of_a_service_share_what_is_freed() -> None:
    def arenas(call: str) -> int:
        found = subprocess.run([sys.executable, "-c", ARENAS.format(call=call)], capture_output=True, check=True)
        return found.stdout.count(b"<heap nr=")

    assert arenas("assert share_freed_memory()") <= 2 < arenas("")


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_with_another_c_library_nothing_is_set_and_nothing_fails(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # without mallopt
    assert glibc() is None
    assert not keep_freed_memory()
    assert not share_freed_memory()
    release_freed_memory()
