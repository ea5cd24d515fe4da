"""Troubles that last are said once, then rarely: the log of a service that looks every second stays readable."""

import time
from collections.abc import Callable

FIRST, LONGEST = 60.0, 3600.0  # seconds between saying a thing again: doubled each time, up to an hour
MOST = 16  # troubles that are distinguished


class Rarely:
    """Says a trouble at once, then after a minute, after two more, four, …; `over` forgets them all."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._said: dict[str, tuple[float, float]] = {}  # trouble: when it may be said again, and the time until then

    def say(self, log: Callable[[str], object], trouble: str) -> bool:
        """Log the line unless it has been said a short while ago; whether it was logged."""
        now = self._now()
        again, pause = self._said.get(trouble, (now, FIRST))
        if now < again:
            return False
        if len(self._said) >= MOST and trouble not in self._said:
            self._said.pop(next(iter(self._said)))
        self._said[trouble] = (now + pause, min(pause * 2, LONGEST))
        log(trouble)
        return True

    def over(self) -> None:
        """The trouble has ended: the next one is said at once."""
        self._said.clear()
