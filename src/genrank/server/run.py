"""Starts the service: uvicorn around the application, until SIGTERM or Ctrl-C."""

import gc
import ipaddress
import logging
import re
import signal
import socket
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from genrank.errors import ConfigError, InputError, MissingExtraError, shown
from genrank.server.log_lines import log_as_json
from genrank.server.ranking_service import RankingService
from genrank.server.retrieval_service import RetrievalService
from genrank.server.service_options import require_whole
from genrank.server.watch import Watcher
from genrank.training.allocator import release_freed_memory

# Seconds after which Python switches threads. PyTorch lets other threads run after every operation; with Python's 5 ms
# a ranking would lose 5 ms each time to a web thread that is busy with refusals.
SWITCH = 0.0002
BACKLOG = 2048  # connections that wait to be accepted
GRACE = 10  # seconds that requests in flight have when the service shuts down

log = logging.getLogger("genrank.server")


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the service listens. token: bearer token that callers must send; port 0: any that is free.

    trust_proxy: addresses and networks, with commas between, whose X-Forwarded-For and -Proto are trusted; * for all.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = field(default="", repr=False)
    max_body: int = 4 * 2**20
    trust_proxy: str = ""

    def __post_init__(self) -> None:
        if not self.host or not re.fullmatch(r"[!-~]+", self.host):
            raise ValueError(f"host is {shown(self.host)}; it must be an address or a name, 0.0.0.0 for all addresses")
        if isinstance(self.port, bool) or not 0 <= self.port < 65536:
            raise ValueError(f"port is {shown(self.port)}; it must be at most 65535, or 0 for any that is free")
        if not re.fullmatch(r"[!-~]*", self.token):
            raise ValueError(
                "the token has a space, a line end or a letter that isn't ASCII, which no header can carry; "
                "make one with: openssl rand -hex 32"
            )
        require_whole("max_body", self.max_body, 1, 2**30)
        for proxy in filter(None, self.trust_proxy.split(",")):
            if proxy != "*":
                _require_network(proxy)


def _require_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"trust_proxy has {shown(text)}; it must be addresses or networks, as in 10.0.0.1,192.168.0.0/16, or *"
        ) from None


def read_token(flag: str, file: Path | None, environment: str) -> str:
    """The token, from the flag, the file or the environment. Raises ConfigError."""
    if file is None:
        return flag or environment
    if flag:
        raise ConfigError("the token is given twice; give either --token-file or --token")
    try:
        with file.open("rb") as content:
            text = content.read(4097)
    except OSError as problem:
        raise ConfigError(f"--token-file {file}: {problem.strerror}; give a file that can be read") from None
    token = text.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")  # a text file's last line has an end
    if not 0 < len(token) <= 4096:
        raise ConfigError(f"--token-file {file}: expected a token of 1 to 4096 letters in one line; write one there")
    return token


def require_serve() -> None:
    """MissingExtraError if the web framework is not installed."""
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
    retrieval: RetrievalService | None = None,
) -> None:
    """Serve on the socket of `bind`, until asked to stop. models: a folder to follow (see watch.py)."""
    require_serve()
    import uvicorn

    from genrank.server.app import build_app
    from genrank.server.connections import Connections, room_for_connections
    from genrank.server.protocol import BoundedHttp

    limits = service.options.connections
    connections = Connections(limits, room_for_connections(limits.most))
    taken.listen(BACKLOG)  # from here on callers wait, rather than being refused
    host, port = taken.getsockname()[:2]
    log_as_json()
    _warn(listening, host)
    sys.setswitchinterval(SWITCH)
    settle_objects()
    config = uvicorn.Config(
        build_app(service, retrieval, token=listening.token, max_body=listening.max_body, connections=connections),
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        http=cast(Any, partial(BoundedHttp, keeper=connections)),  # uvicorn calls it as it would call the class
        timeout_keep_alive=cast(int, limits.idle_seconds),  # uvicorn takes a float as well
        timeout_graceful_shutdown=GRACE,
        proxy_headers=bool(listening.trust_proxy),
        forwarded_allow_ips=listening.trust_proxy,
        ws="none",
    )
    where = f"[{host}]" if ":" in host else host
    log.info("serving %s on http://%s:%d (docs at /docs)", service.version, where, port)
    # uvicorn stops on these and raises them again afterwards for the earlier handlers, which must do nothing.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    watcher = None if models is None else Watcher(service, models, swapped=settle_objects)
    if watcher is not None:
        service.vital.append(watcher.failure)
    uvicorn.Server(config).run(sockets=[taken])
    if watcher is not None:
        watcher.stop()


def _warn(listening: Listening, host: str) -> None:
    if not listening.token and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        log.warning(
            "everybody who can reach %s may rank, read histories and write events, because there is no token; "
            "give --token-file, or --host 127.0.0.1",
            host,
        )


def settle_objects() -> None:
    """Exclude all present objects from Python's garbage collection, which would stop every ranking meanwhile."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    release_freed_memory()


def bind(listening: Listening) -> socket.socket:
    """A socket bound to the address. InputError if it can't be bound."""
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
