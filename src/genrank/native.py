"""C++ beside the Python that calls it: compiled on first use for this processor, kept in the user's cache folder.

Libraries are called through ctypes. Without a compiler, callers use their plain implementation instead.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp")


class BuildError(Exception):
    """A library can't be compiled or loaded here; the message says why."""


def or_none(build: Callable[[], ctypes.CDLL], *, instead: str) -> ctypes.CDLL | None:
    """The library of `build`, or None if it fails; the log then says why, and what runs `instead`."""
    try:
        return build()
    except BuildError as problem:
        log.warning("C++ kernels: %s; %s instead", problem, instead)
        return None


def build_library(sources: Sequence[Path]) -> ctypes.CDLL:
    """The library of sources in one folder, compiled if the cache folder doesn't have it. BuildError if that fails."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))), None)
    if compiler is None:
        raise BuildError("no C++ compiler found (install g++)")
    try:
        path = _cached(compiler, sources)
        if not path.exists():
            _compile(compiler, sources, path)
        return ctypes.CDLL(str(path))
    except OSError as problem:
        raise BuildError(f"can't be built or loaded ({problem})") from None


def _cached(compiler: str, sources: Sequence[Path]) -> Path:
    """The path of the library for these sources, this compiler and this processor."""
    key = hashlib.sha256(" ".join((compiler, *FLAGS, _processor())).encode())
    for source in sorted([*sources, *sources[0].parent.glob("*.h")]):
        key.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrank"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        usable = os.access(cache, os.W_OK)
    except OSError:
        usable = False
    return (cache if usable else Path(tempfile.mkdtemp(prefix="genrank-"))) / f"native-{key.hexdigest()[:16]}.so"


def _processor() -> str:
    """Model and instruction sets, because machines with different processors may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return " ".join(os.uname())
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(compiler: str, sources: Sequence[Path], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        command = [compiler, *FLAGS, *map(str, sources), "-o", str(fresh)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no message"])[0]
            raise BuildError(f"{Path(compiler).name} failed: {reason}")
        os.replace(fresh, path)  # whole or not at all: another process may build it too
