"""One process at a time: a lock beside or in a folder, which says who has it."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from genrank.errors import OutputError

TRIES = 300  # 10 ms each
UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who has a lock. since: seconds since the epoch. boot: of the host's kernel, which containers share."""

    pid: int
    host: str
    boot: str
    since: float

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        return cls(pid=os.getpid(), host=socket.gethostname(), boot=_boot(), since=time.time())

    @property
    def age(self) -> str:
        """How long ago it took the lock, in words."""
        seconds = max(time.time() - self.since, 0.0)
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if seconds >= 2 * size:
                return f"{seconds / size:.0f} {unit}"
        return f"{seconds:.0f} seconds"


@contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock `path`, a file in a folder that exists. what: that no other process may touch meanwhile, in words.

    OutputError, which says who has it, where another process does. The kernel frees the lock of a process that dies;
    one of another machine that doesn't share its locks is believed.
    """
    try:
        descriptor = _taken(path, what)
    except OSError as problem:
        raise OutputError(
            f"{path}: can't be locked ({problem.strerror}); make room there, or choose a folder that you may write to"
        ) from None
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                path.unlink()
        finally:
            os.close(descriptor)


def _taken(path: Path, what: str) -> int:
    for _ in range(TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            free = _try(descriptor)
            owner = _read(descriptor)
            if owner is not None and (free is False or not _is_dead(owner, by_pid=free is None)):
                raise OutputError(_refusal(path, what, owner, certain=free is False))
            if free is not False and _is_same(descriptor, path):  # or its owner has just removed it
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(Owner.here())).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.01)  # its owner has just made it, and hasn't written its name yet, or is about to remove it
    raise OutputError(f"{what}: another process holds {path}; wait until it ends")


def _try(descriptor: int) -> bool | None:
    """Whether the lock is this process's now; None on a file system that has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in UNSUPPORTED:
            return None
        if problem.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read(descriptor: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_dead(owner: Owner, *, by_pid: bool) -> bool:
    """Whether the owner of a lock that the kernel would give away is one of this machine's, and so has died."""
    if owner.boot != _boot() and owner.host != socket.gethostname():
        return False
    return not by_pid or not Path(f"/proc/{owner.pid}").exists()


def _refusal(path: Path, what: str, owner: Owner, *, certain: bool) -> str:
    who = f"process {owner.pid} on {owner.host} has been using it for {owner.age}"
    if certain:
        return f"{what}: {who}; wait until it ends, or stop it"
    return f"{what}: {who}, as far as can be seen from here; if it has ended there, remove {path}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
