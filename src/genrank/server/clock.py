"""The service's clock. If the machine's clock is set back, rankings miss the newest events; the service reports it."""

import logging
import threading
import time
from collections.abc import Callable

from genrank.errors import RequestError, shown
from genrank.inference.store import Event

log = logging.getLogger("genrank.server")
AHEAD = 86_400  # seconds that an event may be ahead of the clock, as in a log that is prepared (preparation/survey.py)
TOLERANCE = 2.0  # seconds: synchronized clocks are set back by less


class Clock:
    """Safe to use from several threads. earliest: a time that has been, seconds since the epoch."""

    def __init__(self, earliest: float = 0.0, *, now: Callable[[], float] = time.time):
        self._latest, self._now = earliest, now
        self._behind = False
        self._lock = threading.Lock()

    def of(self, given: int | None) -> tuple[int, float]:
        """The time of a request, and by how many seconds the clock is behind; 0 if the request has a time."""
        return (given, 0.0) if given is not None else (self.now(), self.behind)

    def now(self) -> int:
        """Seconds since the epoch by the machine's clock."""
        now, behind = self._look()
        if behind and not self._behind:
            log.error(
                "the clock is %.0f s behind the latest time seen; rankings without a given time miss the events since; "
                "set the clock, or start the service again if the earlier time was wrong",
                behind,
            )
        self._behind = bool(behind)
        return int(now)

    @property
    def behind(self) -> float:
        """Seconds by which the clock is behind the latest time seen; 0 within the tolerance."""
        return self._look()[1]

    def check(self, event: Event) -> None:
        """RequestError for an event that is more than AHEAD seconds in the future."""
        with self._lock:
            latest = int(self._latest)
        now = max(self.now(), latest)
        for name, when in (("time", event.time), ("known_at", event.known_at)):
            if when > now + AHEAD:
                raise RequestError(
                    f"{name} of item {shown(event.item)} is {when}, {(when - now) / AHEAD:.0f} days after now ({now}); "
                    "give seconds since the epoch (milliseconds are divided by 1000), or set the clock"
                )

    def _look(self) -> tuple[float, float]:
        with self._lock:
            now = self._now()
            behind = self._latest - now
            self._latest = max(self._latest, now)
        return now, behind if behind > TOLERANCE else 0.0
