"""The users of the simulated feed: their features, their long-term taste, and the times of their sessions.

Users are in shards that are independent of one another. Within a shard they are sorted by their number of requests, the
most active first: the users with a k-th request are a prefix, so that every round of the simulation works on slices.

Legend: N users of the shard, T topics, R requests of the shard.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.simulated_items import DAY, START
from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

AGE_GROUPS = ("13-17", "18-24", "25-34", "35-44", "45-54", "55+")
COUNTRIES = ("AR", "BR", "DE", "ID", "IN", "MX", "NG", "US")
DEVICES = ("phone", "tablet", "desktop")
TABLE = 64  # draws from a user's distribution over topics, made once and then looked up
_TASTE_SPREAD = 1.5  # of the log-weights over topics: five of twenty topics have three quarters of the weight
_ACTIVITY_SPREAD = 0.8  # of the log-activity: the most active 1 % of users are six times as active as the mean
# Hour-of-day: share, mean, spread in hours of the morning, noon and evening peaks.
_PEAKS = ((0.2, 8.0, 1.2), (0.25, 12.7, 1.5), (0.55, 20.7, 2.0))
_WEEKEND = 1.3


@dataclass(frozen=True, kw_only=True)
class Population:
    """The users of a shard. Effects are in log-odds unless said otherwise."""

    number: Array  # (N) int64, number in the whole world
    age_group: Array  # (N) int64
    country: Array  # (N) int64
    main_device: Array  # (N) int64
    click_habit: Array  # (N) float32
    like_habit: Array  # (N) float32
    dwell_habit: Array  # (N) float32, log-seconds
    taste_NT: Array  # float32, standardised log-weights over topics
    taste_table: Array  # (N, TABLE) int64, topics drawn from the taste
    policy_table: Array  # (N, TABLE) int64, topics drawn from the logging policy's estimate of the taste

    @classmethod
    def build(cls, numbers: Array, *, config: WorldConfig, rng: np.random.Generator) -> "Population":
        """The users of the given numbers."""
        num, topics = numbers.size, config.num_topics
        age_group = rng.integers(len(AGE_GROUPS), size=num)
        country = rng.integers(len(COUNTRIES), size=num)
        # The same for every shard, so that an age group or country means the same in all of them.
        shared = np.random.default_rng([config.seed, 2])
        by_age = 0.5 * shared.standard_normal((len(AGE_GROUPS), topics))
        by_country = 0.1 * shared.standard_normal(len(COUNTRIES))
        taste = _standardise(rng.standard_normal((num, topics)) + by_age[age_group])
        believed = _standardise(taste + 0.6 * rng.standard_normal((num, topics)))
        explored = 0.8 * _weights(believed) + 0.2 / topics
        return cls(
            number=numbers,
            age_group=age_group,
            country=country,
            main_device=rng.choice(len(DEVICES), num, p=(0.7, 0.1, 0.2)),
            click_habit=(by_country[country] + 0.25 * rng.standard_normal(num)).astype(np.float32),
            like_habit=(0.5 * rng.standard_normal(num)).astype(np.float32),
            dwell_habit=(0.3 * rng.standard_normal(num)).astype(np.float32),
            taste_NT=taste.astype(np.float32),
            taste_table=_table(_weights(taste), rng),
            policy_table=_table(explored, rng),
        )


@dataclass(frozen=True, kw_only=True)
class SessionTimes:
    """The requests of a shard's users. A user's requests are contiguous; round k has each user's k-th."""

    offset: Array  # (N + 1) int64, the first request of each user
    opens: Array  # (R) int64 seconds, when the request's session begins
    first: Array  # (R) bool, the session's first request
    last: Array  # (R) bool, the session's last request

    @classmethod
    def build(cls, num_users: int, *, config: WorldConfig, rng: np.random.Generator) -> "SessionTimes":
        """Sessions of `num_users` users, the most active first."""
        activity = np.exp(_ACTIVITY_SPREAD * rng.standard_normal(num_users) - _ACTIVITY_SPREAD**2 / 2)
        weekday = np.where(np.arange(config.num_days) % 7 >= 5, _WEEKEND, 1.0)
        weekday *= config.num_days / weekday.sum()
        rate = config.requests_per_day / config.requests_per_session
        sessions = rng.poisson(np.outer(activity, rate * weekday))
        absent = np.flatnonzero(sessions.sum(axis=1) == 0)  # every user has at least one session
        sessions[absent, rng.integers(config.num_days, size=absent.size)] = 1
        user, day = np.repeat(np.indices(sessions.shape).reshape(2, -1), sessions.ravel(), axis=1)
        opens = START + day * DAY + _time_of_day(rng, user, num_users)
        length = rng.geometric(1 / config.requests_per_session, size=user.size)
        busiest = np.argsort(-np.bincount(user, weights=length, minlength=num_users), kind="stable")
        place = np.empty(num_users, np.int64)
        place[busiest] = np.arange(num_users)
        order = np.lexsort((opens, place[user]))
        user, opens, length = place[user][order], opens[order], length[order]
        num_requests = np.bincount(user, weights=length, minlength=num_users).astype(np.int64)
        ends = np.cumsum(length)
        first, last = np.zeros(ends[-1], bool), np.zeros(ends[-1], bool)
        first[ends - length] = True
        last[ends - 1] = True
        return cls(
            offset=np.concatenate([[0], np.cumsum(num_requests)]),
            opens=np.repeat(opens, length),
            first=first,
            last=last,
        )

    @property
    def num_requests(self) -> Array:
        """(N) int64, falling."""
        return np.diff(self.offset)


def _time_of_day(rng: np.random.Generator, user: Array, num_users: int) -> Array:
    share, mean, spread = np.array(_PEAKS).T
    peak = rng.choice(len(_PEAKS), user.size, p=share)
    shift = rng.normal(0, 1.0, num_users)[user]  # early and late risers
    hours = (mean[peak] + spread[peak] * rng.standard_normal(user.size) + shift) % 24
    seconds: Array = np.minimum((hours * 3600).astype(np.int64), DAY - 1)
    return seconds


def _standardise(values: Array) -> Array:
    values = values - values.mean(axis=1, keepdims=True)
    values /= values.std(axis=1, keepdims=True) + 1e-6
    return values


def _weights(taste: Array) -> Array:
    weights: Array = np.exp(_TASTE_SPREAD * taste)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _table(weights: Array, rng: np.random.Generator) -> Array:
    """(N, TABLE) int64 topics, each drawn with its weight of (N, T)."""
    num, topics = weights.shape
    # One search over all users: user n's cumulated weights lie between n and n + 1.
    edges = (np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True) + np.arange(num)[:, None]).ravel()
    draws = rng.random((num, TABLE)) + np.arange(num)[:, None]
    found = np.searchsorted(edges, draws, side="right") - topics * np.arange(num)[:, None]
    drawn: Array = np.minimum(found, topics - 1)
    return drawn
