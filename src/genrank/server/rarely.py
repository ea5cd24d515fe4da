"""Problems that last are logged once, then rarely: the log of a service that checks every second stays readable."""

import time
from collections.abc import Callable

FIRST, LONGEST = 60.0, 3600.0  # seconds until a problem is logged again: doubled each time, up to an hour
MOST = 16  # problems that are distinguished


class Rarely:
    """Logs a problem at once, then after one minute, two more minutes, four, …; `over` forgets all problems."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._said: dict[
            str, tuple[float, float]
        ] = {}  # problem: when it may be logged again, and the pause until then

    def say(self, log: Callable[[str], object], trouble: str) -> bool:
        """Log the line unless it was logged a short while ago; returns whether it was logged."""
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
        """The problem has ended: the next one is logged at once."""
        self._said.clear()
