"""The C++ kernels: compiled on first use for this very processor, kept in the user's cache, called through ctypes.

Where there is no compiler the PyTorch paths run instead: `load` gives None, logs why, and `genrank doctor` says so.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCES = ("attention.cpp", "adagrad.cpp", "dropout.cpp", "search.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp")


class BuildError(Exception):
    """The kernels can't be compiled or loaded here; the message says why."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where it can't be built."""
    try:
        return build()
    except BuildError as problem:
        log.warning("C++ kernels: %s; the slower PyTorch paths run instead", problem)
        return None


def is_watched() -> bool:
    """Whether operators must go through PyTorch's dispatcher: something compiles, traces or profiles what is called.

    Else a kernel is called directly. An operator in Python costs 0.1 ms there and back, of which narrow models have
    dozens in a step.
    """
    return bool(
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._autograd._profiler_enabled()
    )


def build() -> ctypes.CDLL:
    """The library, compiled unless the cache has it. BuildError where that fails."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))), None)
    if compiler is None:
        raise BuildError("no C++ compiler found (install g++)")
    try:
        path = _cached(compiler)
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except OSError as problem:
        raise BuildError(f"can't be built or loaded ({problem})") from None


def _cached(compiler: str) -> Path:
    """Where the library of these sources, this compiler and this processor is kept."""
    key = hashlib.sha256(" ".join((compiler, *FLAGS, _processor())).encode())
    for source in sorted(Path(__file__).parent.glob("*.[ch]*")):
        key.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrank"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        usable = os.access(cache, os.W_OK)
    except OSError:
        usable = False
    return (cache if usable else Path(tempfile.mkdtemp(prefix="genrank-"))) / f"native-{key.hexdigest()[:16]}.so"


def _processor() -> str:
    """Model and instruction sets: a shared home folder may serve machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return " ".join(os.uname())
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(compiler: str, path: Path) -> None:
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        command = [compiler, *FLAGS, *(str(folder / source) for source in SOURCES), "-o", str(fresh)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no message"])[0]
            raise BuildError(f"{Path(compiler).name} failed: {reason}")
        os.replace(fresh, path)  # whole or not at all: another process may build it too
