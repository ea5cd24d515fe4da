"""Starts the service: uvicorn around the application, until SIGTERM or Ctrl-C."""

import gc
import logging
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from genrank.errors import InputError, MissingExtraError
from genrank.service.core import RankingService
from genrank.service.log_lines import log_as_json
from genrank.service.retrieval import RetrievalStage
from genrank.service.watch import Watcher

# Seconds after which a thread gives way to another. PyTorch does after every operation, and with Python's 5 ms a
# ranking would lose as much each time to a web thread that is kept busy by refusing others.
SWITCH = 0.0002
KEEP_ALIVE = 75  # seconds that an idle connection is kept; longer than balancers keep theirs
BACKLOG = 2048  # connections that wait to be accepted
GRACE = 10  # seconds that requests in flight have when the service goes down

log = logging.getLogger("genrank.service")


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the service listens. token: what callers must bear; port 0 takes any that is free."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""
    max_body: int = 4 * 2**20

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; it must be at most 65535, or 0 for any that is free")
        if self.max_body < 1:
            raise ValueError(f"max_body is {self.max_body}; it must be at least 1")


def require_serve() -> None:
    """MissingExtraError where the web framework isn't there."""
    try:
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as problem:
        raise MissingExtraError(f"genrank serve needs {problem.name}; pip install 'genrank[serve]'") from None


def run(
    service: RankingService,
    listening: Listening,
    taken: socket.socket,
    *,
    models: Path | None = None,
    stage: RetrievalStage | None = None,
) -> None:
    """Serve on an address that `bind` has taken, until asked to stop. models: a folder to follow (see watch.py)."""
    require_serve()
    import uvicorn

    from genrank.service.app import build_app

    taken.listen(BACKLOG)  # from here on callers are kept waiting rather than refused
    host, port = taken.getsockname()[:2]
    log_as_json()
    sys.setswitchinterval(SWITCH)
    settle_objects()
    config = uvicorn.Config(
        build_app(service, stage, token=listening.token, max_body=listening.max_body),
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    log.info("serving %s on http://%s:%d (docs at /docs)", service.version, host, port)
    # uvicorn stops on these and raises them again afterwards, for whoever handled them before: here, for nobody.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    watcher = None if models is None else Watcher(service, models, swapped=settle_objects)
    uvicorn.Server(config).run(sockets=[taken])
    if watcher is not None:
        watcher.stop()


def settle_objects() -> None:
    """Take what is there now out of Python's collections, which would stop every ranking for as long as they last."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def bind(listening: Listening) -> socket.socket:
    """The address, taken. InputError where that can't be."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY on such sockets only; without it answers wait 40 ms.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((listening.host, listening.port))
    except OSError as problem:
        taken.close()
        raise InputError(
            f"can't listen on {listening.host}:{listening.port} ({problem.strerror}); choose another --port or --host"
        ) from None
    return taken
