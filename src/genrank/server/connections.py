"""Which connections are kept: how many there may be, how long one may be slow, and which is closed when room is needed.

Half of the room is for connections without an admitted request so far: if there are too many, they replace one another,
and never connections of callers that are served. Beyond the cap there are a few more places, for health checks only.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from genrank.errors import ConfigError
from genrank.server.service_options import ConnectionLimits

log = logging.getLogger("genrank.server")
DEFAULT = 1024  # most connections, unless set otherwise
SPARE = 16  # places beyond the cap
RESERVE = 32  # descriptors for files: the store, logs, a bundle that is being read
MOST_DESCRIPTORS = 65536
TICK = 1.0  # seconds between checks for slow connections
LOG_PERIOD = 10.0  # seconds between lines that say how many were closed
MAX_HELD = 256 * 2**20  # bytes of bodies whose requests aren't answered yet


class Connection(Protocol):
    """One connection. since: when the present head or body began, or the last answer ended."""

    since: float
    held: int  # bytes of bodies
    admitted: bool

    @property
    def working(self) -> bool:
        """Whether a request is complete and not answered."""

    def overdue(self, now: float) -> str:
        """Why it is too slow; empty if it is not."""

    def leave(self, reason: str) -> None:
        """Close it."""

    def refuse(self, status: int, message: str, reason: str) -> None:
        """Answer and close it."""


class Connections(Collector):
    """All open connections. Used in the event loop's thread only, except `collect`."""

    def __init__(self, limits: ConnectionLimits, most: int):
        """most: how many may be open, apart from those for health checks."""
        self.limits, self.most = limits, most
        self.open: set[Connection] = set()
        self.leaving: set[Connection] = set()
        self.held = 0  # bytes of all bodies
        self._ended: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._quiet_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def crowded(self) -> bool:
        """Whether more than `most` are open."""
        return len(self.open) > self.most

    def add(self, new: Connection) -> None:
        """Add a new connection; another one may be closed for it, or it is refused."""
        self.open.add(new)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        if not self.has_room(new) and len(self.open) > self.most + SPARE:
            new.refuse(503, "more connections than can be served; try again later", "crowded")

    def has_room(self, new: Connection) -> bool:
        """Whether its requests are accepted, if needed by closing another connection; else only health checks are."""
        if not self.crowded or new.admitted:
            return True
        if (other := self._dispensable(new)) is None:
            return False
        other.leave("evicted")
        return not self.crowded

    def ended(self, connection: Connection, reason: str) -> None:
        """The service closes the connection: it no longer takes room, and log and metrics count the reason."""
        self.open.discard(connection)
        self.leaving.add(connection)
        if reason:
            self._ended[reason] += 1
            self._say()

    def gone(self, connection: Connection) -> None:
        """The connection has been closed."""
        self.release(connection)
        self.open.discard(connection)
        self.leaving.discard(connection)

    def hold(self, connection: Connection, size: int) -> None:
        """`size` bytes of a body have come. If bodies take too much memory, the largest incomplete one is closed."""
        connection.held += size
        self.held += size
        if self.held > MAX_HELD:
            unfinished = [each for each in self.open if each.held and not each.working]
            if unfinished:
                max(unfinished, key=lambda each: each.held).leave("body_memory")

    def release(self, connection: Connection) -> None:
        """Its bodies are no longer needed."""
        self.held -= connection.held
        connection.held = 0

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """See Collector."""
        yield GaugeMetricFamily("genrank_connections", "open connections", len(self.open))
        yield GaugeMetricFamily("genrank_connections_most", "connections that may be open", self.most)
        ended = CounterMetricFamily(
            "genrank_connections_ended", "connections that the service has closed, by reason", labels=["reason"]
        )
        for reason, count in list(self._ended.items()):
            ended.add_metric([reason], count)
        yield ended

    def _dispensable(self, new: Connection) -> Connection | None:
        """The connection without progress for longest, of those that may be closed."""
        strangers = [each for each in self.open if not each.admitted]
        callers = [each for each in self.open if each.admitted]
        pools = (strangers, callers) if len(strangers) > self.most // 2 else (callers, strangers)
        for pool in pools:
            may_go = [each for each in pool if each is not new and not each.working]
            if may_go:
                return min(may_go, key=lambda each: each.since)
        return None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK, self._tick) if self.open or self.leaving else None
        now = loop.time()
        for each in [*self.open, *self.leaving]:
            if reason := each.overdue(now):
                each.leave(reason)
        if self._ended != self._told:
            self._say()

    def _say(self) -> None:
        """Log a line now, and later ones at most every LOG_PERIOD seconds."""
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until:
            return
        self._quiet_until = now + LOG_PERIOD
        counts = self._ended - self._told
        self._told = self._ended.copy()
        full = f"the cap of {self.most} connections is reached; " if counts["evicted"] or counts["crowded"] else ""
        said = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        log.warning("%sconnections that the service has closed: %s", full, said)


def room_for_connections(wanted: int) -> int:
    """How many connections may be open under the limit on open files, which is raised as far as possible.

    ConfigError if there is no room for the `wanted` number (0: the default).
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    used = len(os.listdir("/dev/fd"))
    room = limit - 2 * used - RESERVE - SPARE  # twice: a new model is opened beside the old one
    if room < max(wanted, 8):
        raise ConfigError(
            f"the limit on open files, {limit}, has room for {max(room, 0)} connections, {max(wanted, 8)} are needed; "
            f"raise it with: ulimit -n {2 * used + RESERVE + SPARE + max(wanted, DEFAULT)}"
        )
    return min(wanted or DEFAULT, room)
