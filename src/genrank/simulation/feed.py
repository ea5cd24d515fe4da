"""The simulation of one shard of users over the whole period: round k is the k-th request of every user who has one.

Legend: n active users, S slots of a request, R requests of the shard, X exposures.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.actions import ActionContext, Outcome, act, same_topic_before
from genrank.simulation.interests import Interests
from genrank.simulation.lateness import NEVER, SECONDS_PER_SLOT, Delays, Pending, delays
from genrank.simulation.policy import Policy
from genrank.simulation.population import DEVICES, Population, SessionTimes
from genrank.simulation.simulated_items import DAY, HOUR, START, SimulatedItems
from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

_SATIATED_BY = 2  # requests before the present one that count
_MAIN_DEVICE = 0.85  # share of requests that come from the user's main device
_CUT_OFF = 0.2  # share of sessions whose last dwell is cut off: the app was closed
_LONGEST_PAUSE = 40  # seconds between a request's end and the next one of its session
_PREFETCHED_AFTER = 1  # seconds from a page's appearance to the request of the next page, if it is prefetched
_REPORT_EVERY = 16  # rounds


class Shard:
    """A shard of users with their state."""

    def __init__(
        self, numbers: Array, *, catalogue: SimulatedItems, config: WorldConfig, rng: np.random.Generator
    ) -> None:
        self._rng, self._config, self._catalogue = rng, config, catalogue
        # Users are sorted by activity, so numbers are assigned at random: a number says nothing about its user.
        self._population = Population.build(rng.permutation(numbers), config=config, rng=rng)
        self._calendar = SessionTimes.build(numbers.size, config=config, rng=rng)
        self._interests = Interests(self._population, catalogue=catalogue, config=config)
        self._policy = Policy(self._population, catalogue=catalogue, config=config)
        self._followed = np.zeros((numbers.size, config.num_authors), bool)
        self._free = np.full(numbers.size, START, np.int64)  # when a user has finished the previous request
        self._shown = self._free.copy()  # when the previous page appeared
        self._likes, self._follows = Pending(), Pending()

    @property
    def population(self) -> Population:
        """The shard's users."""
        return self._population

    def run(self, report: Callable[[float], None]) -> dict[str, Array]:
        """All exposures as columns of equal length, in order of (timestamp, user, position).

        `request` numbers the shard's requests from 0, `user` is the number in the world, `item` that in the catalogue.
        report: called with the share that is done.
        """
        self._interests.begin(self._rng)
        num_requests = self._calendar.num_requests
        done, blocks = 0, []
        for k in range(num_requests[0]):
            num = int(np.searchsorted(-num_requests, -k, side="left"))
            blocks.append(self._round(k, num))
            done += num
            if k % _REPORT_EVERY == 0:
                report(done / self._calendar.opens.size)
        return _flatten(blocks, self._population, self._catalogue)

    def _round(self, k: int, num: int) -> dict[str, Array]:
        rng, rows = self._rng, self._calendar.offset[:num] + k
        first, last = self._calendar.first[rows], self._calendar.last[rows]
        time = np.where(first, np.maximum(self._calendar.opens[rows], self._free[:num]), self._free[:num])
        in_time = time < START + self._config.num_days * DAY
        requested = self._request_times(time, first)
        hour = np.minimum((requested - START) // HOUR, 24 * self._config.num_days - 1)
        self._interests.drift(np.flatnonzero(first), rng)
        self._act_late(time)
        page = self._policy.answer(hour, rng)
        seen = page.seen & in_time[:, None]
        author = self._catalogue.author[page.items]
        match = self._interests.match(page.items, seen)
        device = self._device(num)
        context = ActionContext(
            items=page.items,
            seen=seen,
            match=match.value,
            satiation=self._satiation(page.items, seen),
            followed=self._followed[np.arange(num)[:, None], author],
            time=time,
            device=device,
        )
        outcome = act(context, population=self._population, catalogue=self._catalogue, config=self._config, rng=rng)
        dwell, censored = self._cut_off(outcome, last)
        taken = self._delays(seen, outcome, dwell)
        like, follow = outcome.like, outcome.follow
        if taken is not None:
            like, follow = like & ~taken.late_like, follow & ~taken.late_follow
            self._likes.add(taken.late_like, what=page.items, time=time[:, None] + taken.like)
            self._follows.add(taken.late_follow, what=author, time=time[:, None] + taken.follow)
        self._interests.learn(page.items, match=match, click=outcome.click, like=like, rng=rng)
        user, slot = np.nonzero(follow)
        self._followed[user, author[user, slot]] = True
        stays = np.ceil(dwell.sum(axis=1)) if taken is None else np.ceil(dwell).sum(axis=1)
        pause = rng.integers(1, _LONGEST_PAUSE + 1, size=num) + SECONDS_PER_SLOT * seen.sum(axis=1)
        self._free[:num], self._shown[:num] = time + pause + stays.astype(np.int64), time
        return {
            **_after(taken, time - requested),
            "item": page.items.astype(np.int32),
            "seen": seen,
            "click": outcome.click,
            "like": outcome.like,
            "follow": outcome.follow,
            "dwell_ms": (1000 * dwell).astype(np.int32),
            "dwell_censored": censored,
            "p_click": outcome.p_click,
            "p_like": outcome.p_like,
            "p_follow": outcome.p_follow,
            "timestamp": requested,
            "device": device.astype(np.int8),
            "is_random": page.is_random,
        }

    def _request_times(self, time: Array, first: Array) -> Array:
        """When the pages that appear at `time` were requested: at that time, or while the previous page was shown."""
        if not self._config.prefetched_share:
            return time
        prefetched = ~first & (self._rng.random(time.size) < self._config.prefetched_share)
        return np.where(prefetched, self._shown[: time.size] + _PREFETCHED_AFTER, time)

    def _delays(self, seen: Array, outcome: Outcome, dwell: Array) -> Delays | None:
        if not self._config.has_late_actions:
            return None
        return delays(
            seen=seen,
            click=outcome.click,
            like=outcome.like,
            follow=outcome.follow,
            dwell=dwell,
            late_share=self._config.late_share,
            rng=self._rng,
        )

    def _act_late(self, now: Array) -> None:
        """Late likes and follows that have come by now change the state as prompt ones do at once."""
        user, item = self._likes.due(now)
        while user.size:  # one of every user at a time
            _, one = np.unique(user, return_index=True)
            self._interests.liked_later(user[one], item[one], self._rng)
            user, item = np.delete(user, one), np.delete(item, one)
        user, author = self._follows.due(now)
        self._followed[user, author] = True

    def _device(self, num: int) -> Array:
        anything = self._rng.integers(len(DEVICES), size=num)
        return np.where(self._rng.random(num) < _MAIN_DEVICE, self._population.main_device[:num], anything)

    def _satiation(self, items: Array, seen: Array) -> Array:
        recent = self._policy.recent(items.shape[0], requests=_SATIATED_BY)
        topics = np.where(seen, self._catalogue.topic[items], -1).astype(np.int16)
        return same_topic_before(topics, np.where(recent < 0, -2, self._catalogue.topic[recent]).astype(np.int16))

    def _cut_off(self, outcome: Outcome, last: Array) -> tuple[Array, Array]:
        """Dwell and whether it is censored; the last dwell of some sessions is cut short."""
        slots = outcome.click.shape[1]
        final = slots - 1 - outcome.click[:, ::-1].argmax(axis=1)
        cut = last & outcome.click.any(axis=1) & (self._rng.random(last.size) < _CUT_OFF)
        users = np.flatnonzero(cut)
        dwell, censored = outcome.dwell.copy(), outcome.capped.copy()
        dwell[users, final[users]] *= self._rng.random(users.size, dtype=np.float32)
        censored[users, final[users]] = True
        return dwell, censored


def _after(taken: Delays | None, waited: Array) -> dict[str, Array]:
    """Columns of seconds from the request to the actions; `waited` (n): from the request to the page's appearance."""
    if taken is None:
        return {}
    columns = {"click": taken.click, "like": taken.like, "follow": taken.follow, "known": taken.known}
    return {
        f"{name}_after": np.where(after == NEVER, NEVER, after + waited[:, None]) for name, after in columns.items()
    }


def _flatten(blocks: list[dict[str, Array]], population: Population, catalogue: SimulatedItems) -> dict[str, Array]:
    """Rounds (n, S) as columns (X), with columns that are computed from them."""
    per_round = [block["timestamp"].size for block in blocks]
    user = np.concatenate([population.number[:num] for num in per_round])
    time = np.concatenate([block["timestamp"] for block in blocks])
    order = np.lexsort((user, time))
    stacked = {name: np.concatenate([block[name] for block in blocks])[order] for name in blocks[0]}
    seen = stacked.pop("seen")
    shown, lengths = seen.any(axis=1), seen.sum(axis=1)
    columns = {
        name: values[seen] if values.ndim == 2 else np.repeat(values, lengths) for name, values in stacked.items()
    }
    columns["user"] = np.repeat(user[order], lengths)
    columns["request"] = np.repeat(np.cumsum(shown) - 1, lengths)
    columns["position"] = np.nonzero(seen)[1].astype(np.int16)
    age = columns["timestamp"] - catalogue.published[columns["item"]]
    columns["age_hours"] = (age / HOUR).astype(np.float32)
    return columns
