"""When users act: at once, or long after the exposure; a late action has no effect before it comes.

Legend: n active users, S slots of a request, L likes or follows that are still to come.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SECONDS_PER_SLOT = 2
_MEDIAN = 30 * 60  # seconds until a late like or follow comes; nine of ten within 5 minutes and 3 hours
_SPREAD = 1.1  # of the logarithm
NEVER = -1


@dataclass(frozen=True)
class Delays:
    """Seconds from a page's appearance to its actions, (n, S) int64 each; NEVER without an action."""

    click: Array
    like: Array
    follow: Array
    known: Array  # to the last of them, or to the moment when the user went on to the next exposure
    late_like: Array  # (n, S) bool
    late_follow: Array  # (n, S) bool


def delays(
    *, seen: Array, click: Array, like: Array, follow: Array, dwell: Array, late_share: float, rng: np.random.Generator
) -> Delays:
    """Draws when the actions of a round come. Prompt likes and follows come when the dwell ends, (n, S) each."""
    stay = np.ceil(dwell).astype(np.int64)
    arrived = SECONDS_PER_SLOT * np.cumsum(seen, axis=1) + np.cumsum(stay, axis=1) - stay
    left = arrived + stay
    late = rng.random((2, *click.shape)) < late_share
    wait = np.exp(np.log(_MEDIAN) + _SPREAD * rng.standard_normal(late.shape)).astype(np.int64)
    liked, followed = left + late * wait
    late_like, late_follow = late & np.stack([like, follow])
    return Delays(
        click=np.where(click, arrived, NEVER),
        like=np.where(like, liked, NEVER),
        follow=np.where(follow, followed, NEVER),
        known=np.maximum(left, np.maximum(np.where(like, liked, 0), np.where(follow, followed, 0))),
        late_like=late_like,
        late_follow=late_follow,
    )


@dataclass
class Pending:
    """Likes or follows that are still to come: user, item or author, and time. (L) int64 each."""

    user: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    what: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    time: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, late: Array, *, what: Array, time: Array) -> None:
        """Add the `late` ones of a round, (n, S) each."""
        user, slot = np.nonzero(late)
        self.user = np.concatenate([self.user, user])
        self.what = np.concatenate([self.what, what[user, slot]])
        self.time = np.concatenate([self.time, time[user, slot]])

    def due(self, now: Array) -> tuple[Array, Array]:
        """(users, what) of those that came before `now`, (n) seconds of the first n users; these are removed."""
        active = self.user < now.size  # other users have no more requests
        user, what, time = self.user[active], self.what[active], self.time[active]
        come = time < now[user]
        self.user, self.what, self.time = user[~come], what[~come], time[~come]
        order = np.argsort(time[come], kind="stable")
        return user[come][order], what[come][order]
