"""The logging policy of the simulated feed: which items answer a request.

It is an imperfect ranker, as in real logs: it chooses topics by an inexact estimate of the user's long-term taste,
ignores current interests, and sorts by a noisy estimate of the items' quality. Some requests get random items instead.

Legend: n active users, P items of the pool, S slots of a request, M requests that are remembered.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.population import TABLE, Population
from genrank.simulation.simulated_items import SimulatedItems
from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

REMEMBERED = 8  # requests within which no item is shown again
_POOL = 2.5  # candidates per slot
_NOISE = 0.5  # of the policy's scores; the popularity has about 0.4
_REPEATED = np.float32(-1e9)


@dataclass(frozen=True)
class Page:
    """The answers to the active users: (n, S) items in order of slots; only `seen` ones are exposures."""

    items: Array  # (n, S) int64
    seen: Array  # (n, S) bool, a prefix of every row
    is_random: Array  # (n) bool


class Policy:
    """The logging policy, with the items that a shard's users were shown lately."""

    def __init__(self, population: Population, *, catalogue: SimulatedItems, config: WorldConfig) -> None:
        self._population, self._catalogue, self._config = population, catalogue, config
        self._shown_NMS = np.full((population.number.size, REMEMBERED, config.max_slots), -1, np.int64)
        self._round = 0

    def answer(self, hour: Array, rng: np.random.Generator) -> Page:
        """Pages for the first n users; `hour` (n) int64 counts from the log's start."""
        num, config = hour.size, self._config
        pool = int(_POOL * config.max_slots)
        entries = rng.integers(TABLE, size=(num, pool))
        topics = np.take_along_axis(self._population.policy_table[:num], entries, axis=1)
        candidates = self._catalogue.draw_of_topics(topics, hour=hour, rng=rng)
        is_random = rng.random(num) < config.random_share
        candidates[is_random] = self._catalogue.draw_at_random(pool, hour=hour[is_random], rng=rng)
        candidates.sort(axis=1)
        score = np.float32(_NOISE) * rng.standard_normal(candidates.shape, dtype=np.float32)
        score += np.where(is_random[:, None], 0, self._catalogue.popularity[candidates])
        score[self._repeated(candidates)] = _REPEATED
        order = np.argsort(-score, axis=1, kind="stable")[:, : config.max_slots]
        items = np.take_along_axis(candidates, order, axis=1)
        fresh = np.take_along_axis(score, order, axis=1) > _REPEATED
        slots = rng.integers(config.min_slots, config.max_slots + 1, size=num)
        seen = fresh & (np.arange(config.max_slots) < slots[:, None])
        self._remember(np.where(seen, items, -1))
        return Page(items, seen, is_random)

    def recent(self, num: int, *, requests: int) -> Array:
        """Items of the first `num` users' latest requests before the present one: (num, requests * S), -1 for none."""
        rows = (self._round - 2 - np.arange(requests)) % REMEMBERED
        return self._shown_NMS[:num, rows].reshape(num, -1)

    def _remember(self, items: Array) -> None:
        self._shown_NMS[: items.shape[0], self._round % REMEMBERED] = items
        self._round += 1

    def _repeated(self, candidates: Array) -> Array:
        """Which of the sorted candidates (n, P) are in the pool twice or were shown lately."""
        repeated = np.zeros(candidates.shape, bool)
        repeated[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
        for shown in self._shown_NMS[: candidates.shape[0]].transpose(1, 2, 0).reshape(-1, candidates.shape[0]):
            repeated |= candidates == shown[:, None]
        return repeated
