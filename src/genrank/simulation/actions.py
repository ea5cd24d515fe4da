"""The actions of users on their exposures: click, dwell, like, follow, and the probability of each.

A like or a follow needs a click. The dwell time depends on the same engagement as the like, so a long dwell makes a
like more probable; a follow is more probable after a like. `p_like` and `p_follow` are the probabilities of the whole
chain, including the click, with the engagement integrated out.

Legend: n active users, S slots.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.population import Population
from genrank.simulation.simulated_items import SimulatedItems
from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

_CLICK, _LIKE, _FOLLOW = -3.0, -2.8, -4.8  # base log-odds, which set the rates
_AGEING = 0.08  # log-odds of a click lost per doubling of an item's age in days
_DEVICE = np.array([0.0, 0.1, -0.15], np.float32)  # log-odds of a click by device
_FOLLOWED = 0.5  # log-odds of a click gained if the user follows the author
_LIKE_MATCH, _LIKE_ENGAGED = 1.3, 0.8
_FOLLOW_MATCH, _FOLLOW_LIKED = 1.0, 1.5
_STAY, _STAY_MATCH, _STAY_ENGAGED = 0.6, 0.5, 0.9  # log-seconds: per log-second of length, match, engagement
_MAX_STAY = 600.0  # seconds, at which the client stops counting
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # exact to about 1e-6 for the engagement's integral
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class ActionContext:
    """The inputs of a round's actions."""

    items: Array  # (n, S) int64
    seen: Array  # (n, S) bool
    match: Array  # (n, S) float32, see interests.Match
    satiation: Array  # (n, S) exposures of the same topic shortly before
    followed: Array  # (n, S) bool, whether the user follows the author
    time: Array  # (n) int64 seconds
    device: Array  # (n) int64


@dataclass(frozen=True)
class Outcome:
    """The actions of a round, (n, S) each; exposures that were not seen have no action."""

    click: Array  # bool
    like: Array  # bool
    follow: Array  # bool
    dwell: Array  # float32 seconds, 0 without a click
    capped: Array  # bool, the dwell was longer than the client counts
    p_click: Array  # float32
    p_like: Array  # float32
    p_follow: Array  # float32


def act(
    context: ActionContext,
    *,
    population: Population,
    catalogue: SimulatedItems,
    config: WorldConfig,
    rng: np.random.Generator,
) -> Outcome:
    """Draws the outcome of a round for the first n users of the population."""
    shape = context.items.shape
    num = shape[0]
    p_click = _sigmoid(_click_logit(context, population=population, catalogue=catalogue, config=config))
    engagement = rng.standard_normal(shape, dtype=np.float32)
    like_logit = np.float32(_LIKE) + np.float32(_LIKE_MATCH) * context.match + population.like_habit[:num, None]
    follow_logit = np.float32(_FOLLOW) + np.float32(_FOLLOW_MATCH) * context.match + catalogue.quality[context.items]
    p_follow_unliked = np.where(context.followed, np.float32(0), _sigmoid(follow_logit))
    p_follow_liked = np.where(context.followed, np.float32(0), _sigmoid(follow_logit + np.float32(_FOLLOW_LIKED)))
    click = context.seen & (rng.random(shape, dtype=np.float32) < p_click)
    p_like_engaged = _sigmoid(like_logit + np.float32(_LIKE_ENGAGED) * engagement)
    like = click & (rng.random(shape, dtype=np.float32) < p_like_engaged)
    p_follow_now = np.where(like, p_follow_liked, p_follow_unliked)
    follow = click & (rng.random(shape, dtype=np.float32) < p_follow_now)
    stay = _stay(context, engagement=engagement, population=population, catalogue=catalogue)
    p_like_clicked = _integrated(like_logit)
    p_follow_clicked = p_like_clicked * p_follow_liked + (1 - p_like_clicked) * p_follow_unliked
    return Outcome(
        click=click,
        like=like,
        follow=follow,
        dwell=np.where(click, np.minimum(stay, np.float32(_MAX_STAY)), np.float32(0)),
        capped=click & (stay > _MAX_STAY),
        p_click=p_click,
        p_like=p_click * p_like_clicked,
        p_follow=p_click * p_follow_clicked,
    )


def same_topic_before(topics: Array, recent: Array) -> Array:
    """How many exposures of the same topic came before, in this request and the `recent` ones.

    `topics`: (n, S), -1 for none. `recent`: (n, r), -1 for none. Returns (n, S) float32.
    """
    count = np.zeros(topics.shape, np.float32)
    for slot in range(1, topics.shape[1]):
        count[:, slot] = (topics[:, :slot] == topics[:, slot, None]).sum(axis=1)
    for topic in recent.T:
        count += topics == topic[:, None]
    return count


def _click_logit(
    context: ActionContext, *, population: Population, catalogue: SimulatedItems, config: WorldConfig
) -> Array:
    num, slots = context.items.shape
    age_days = np.maximum(context.time[:, None] - catalogue.published[context.items], 0).astype(np.float32) / 86400
    users = np.arange(num)[:, None]
    logit = catalogue.quality[context.items] + population.click_habit[:num, None]
    logit += np.float32(_CLICK)
    logit += np.float32(config.interest_boost) * context.match
    logit += np.float32(config.taste_gain) * population.taste_NT[users, catalogue.topic[context.items]]
    logit -= np.float32(config.satiation) * context.satiation
    logit -= np.float32(config.position_bias) * np.log1p(np.arange(slots, dtype=np.float32))
    logit -= np.float32(_AGEING) * np.log2(1 + age_days)
    logit += _DEVICE[context.device][:, None]
    logit += np.float32(_FOLLOWED) * context.followed
    return logit


def _stay(context: ActionContext, *, engagement: Array, population: Population, catalogue: SimulatedItems) -> Array:
    """Seconds of dwell after a click: log-normal around a fraction of the item's length."""
    logarithm = np.float32(_STAY) * np.log(catalogue.length[context.items])
    logarithm += np.float32(_STAY_MATCH) * context.match + np.float32(_STAY_ENGAGED) * engagement
    return np.exp(logarithm + population.dwell_habit[: context.items.shape[0], None])


def _integrated(like_logit: Array) -> Array:
    """The mean of the like's probability over the engagement, a standard normal."""
    mean = np.zeros_like(like_logit)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        mean += np.float32(weight) * _sigmoid(like_logit + np.float32(_LIKE_ENGAGED * node))
    return mean


def _sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit))
