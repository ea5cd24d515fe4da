"""The current interests of users: a hidden state that shows only in their latest actions.

A user has K interests, each a unit vector in the items' latent space with a strength. Between sessions the vectors
drift, and some interests are replaced by new ones. Within a session clicks make interests stronger and skipped items
make them weaker, and a click on an item far from all interests may become a new one.

Legend: N users, K interests, S slots of a request, D latent dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.population import TABLE, Population
from genrank.simulation.simulated_items import SimulatedItems, around, unit
from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

_STEEPNESS, _MIDDLE = 10.0, 0.45  # of the match as a function of the cosine: same topic 0.99, another topic 0.06
_WEAK, _STRONG = 0.3, 1.3  # bounds of the strength
_FED, _STARVED = 0.15, 0.04  # what a click adds to an interest's strength, and what a skipped match subtracts
_WANDER = 0.05  # noise on an interest's vector from session to session
_PULL = 0.15  # how far a click moves the nearest interest
_PICKED_UP, _PICKED_UP_LIKED = 0.1, 0.4  # probability that a click far from all interests becomes one
_OFF_TASTE = 0.15  # share of new interests that are independent of the long-term taste


@dataclass(frozen=True)
class Match:
    """How well exposures match interests. All (n, S)."""

    value: Array  # float32, 0 to _STRONG: the best interest's strength times its nearness
    nearest: Array  # int64, that interest
    near: Array  # bool, whether any interest is near


class Interests:
    """The interests of a shard's users. Methods take `num`: the first users, those that are active in the round."""

    def __init__(self, population: Population, *, catalogue: SimulatedItems, config: WorldConfig) -> None:
        self._population, self._catalogue, self._config = population, catalogue, config
        shape = (population.number.size, config.num_interests)
        self.vectors_NKD = np.zeros((*shape, catalogue.vectors_ID.shape[1]), np.float32)
        self.strength_NK = np.ones(shape, np.float32)

    def begin(self, rng: np.random.Generator) -> None:
        """Draw the first interests of all users."""
        user, slot = (index.ravel() for index in np.indices(self.strength_NK.shape))
        self._renew(user, slot, rng)

    def match(self, items: Array, seen: Array) -> Match:
        """How well the exposures `items` (n, S) match the first n users' interests; those not `seen` are near none."""
        num = items.shape[0]
        cosine = np.matmul(self._catalogue.vectors_ID[items], self.vectors_NKD[:num].transpose(0, 2, 1))
        nearness = 1 / (1 + np.exp(np.float32(_STEEPNESS) * (np.float32(_MIDDLE) - cosine)))
        weighted = nearness * self.strength_NK[:num, None]
        nearest = weighted.argmax(axis=2)
        value = np.take_along_axis(weighted, nearest[..., None], axis=2)[..., 0]
        near = np.take_along_axis(nearness, nearest[..., None], axis=2)[..., 0] > 0.5
        return Match(value, nearest, near & seen)

    def drift(self, users: Array, rng: np.random.Generator) -> None:
        """A new session for `users`: interests drift, and some are replaced, weak ones more often."""
        noise = rng.standard_normal((users.size, *self.vectors_NKD.shape[1:]), dtype=np.float32)
        scale = np.float32(_WANDER / np.sqrt(noise.shape[-1]))
        self.vectors_NKD[users] = unit(self.vectors_NKD[users] + scale * noise)
        strength = self.strength_NK[users]
        given_up = rng.random(strength.shape) < self._config.interest_switch * (2 - strength)
        row, slot = np.nonzero(given_up)
        self._renew(users[row], slot, rng)

    def learn(self, items: Array, *, match: Match, click: Array, like: Array, rng: np.random.Generator) -> None:
        """Update the interests by a request's actions. All (n, S); slots not seen have no match and no click."""
        num = items.shape[0]
        change = np.where(click, np.float32(_FED), np.float32(-_STARVED)) * match.near
        for interest in range(self.strength_NK.shape[1]):
            strength = self.strength_NK[:num, interest]
            strength += np.where(match.nearest == interest, change, 0).sum(axis=1, dtype=np.float32)
            np.clip(strength, _WEAK, _STRONG, out=strength)
        # One click of the request moves the vectors: a liked one if there is one.
        weight = click * (1 + like + rng.random(click.shape, dtype=np.float32))
        best = weight.argmax(axis=1)
        users = np.flatnonzero(click.any(axis=1))
        best = best[users]
        vectors = self._catalogue.vectors_ID[items[users, best]]
        near = match.near[users, best]
        self._pull(users[near], match.nearest[users, best][near], vectors[near])
        chance = np.where(like[users, best], _PICKED_UP_LIKED, _PICKED_UP)
        picked = ~near & (rng.random(users.size) < chance)
        self._replace(users[picked], vectors[picked])

    def liked_later(self, users: Array, items: Array, rng: np.random.Generator) -> None:
        """Update the interests by likes that come long after their clicks; one per user, (n) each."""
        vectors = self._catalogue.vectors_ID[items]
        cosine = np.einsum("nkd,nd->nk", self.vectors_NKD[users], vectors)
        nearest = cosine.argmax(axis=1)
        near = cosine[np.arange(users.size), nearest] > _MIDDLE
        self._pull(users[near], nearest[near], vectors[near])
        picked = ~near & (rng.random(users.size) < _PICKED_UP_LIKED - _PICKED_UP)
        self._replace(users[picked], vectors[picked])

    def _pull(self, users: Array, slots: Array, towards: Array) -> None:
        moved = (1 - np.float32(_PULL)) * self.vectors_NKD[users, slots] + np.float32(_PULL) * towards
        self.vectors_NKD[users, slots] = unit(moved)

    def _replace(self, users: Array, vectors: Array) -> None:
        weakest = self.strength_NK[users].argmin(axis=1)
        self.vectors_NKD[users, weakest] = vectors
        self.strength_NK[users, weakest] = 1

    def _renew(self, users: Array, slots: Array, rng: np.random.Generator) -> None:
        topics = self._population.taste_table[users, rng.integers(TABLE, size=users.size)]
        anything = rng.integers(self._config.num_topics, size=users.size)
        topics = np.where(rng.random(users.size) < _OFF_TASTE, anything, topics)
        self.vectors_NKD[users, slots] = around(self._catalogue.topic_vectors_TD[topics], rng)
        self.strength_NK[users, slots] = 1
