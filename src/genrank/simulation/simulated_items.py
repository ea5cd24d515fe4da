"""The items of the simulated feed: topics, authors and times of publication.

Every item has a latent vector of unit length near its topic's; interests are vectors of the same space. Items are
numbered in order of publication, so that the items published by a given time are a prefix.

Legend: I items, T topics, A authors, D latent dimensions, H hours of the log, E dimensions of the content embedding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.simulation.world_config import WorldConfig

Array = NDArray[Any]

START = 1_704_067_200  # Monday, 1 January 2024, 00:00 UTC
HOUR = 3600
DAY = 24 * HOUR
LATENT_DIM = 16  # large enough to distinguish dozens of topics, and small enough for some pairs to be near
TAGS_PER_TOPIC = 6
_BACKLOG_DAYS = 14  # days before the log begins, in which the first items were published
_SPREAD = 0.36  # of a topic's items around its vector, as a share of the vector's length
_SECOND_TOPIC = 0.08  # weight of another topic in an item's vector
_OWN_TOPIC = 0.8  # share of an author's items that are on the author's main topic
_RECENCY = 2.2  # exponent that turns a uniform draw into a rank from the newest; 1: new items are not preferred


@dataclass(frozen=True, kw_only=True)
class SimulatedItems:
    """All items, also those published later."""

    topic_vectors_TD: Array  # float32
    tag_vectors_TGD: Array  # float32, G tags of each topic
    vectors_ID: Array  # float32, unit length
    content_IE: Array  # float32, content embeddings: a noisy projection of the vectors
    topic: Array  # (I) int64
    author: Array  # (I) int64
    quality: Array  # (I) float32, log-odds of a click
    popularity: Array  # (I) float32, the logging policy's estimate of the quality
    length: Array  # (I) float32, seconds
    published: Array  # (I) int64 seconds, whole hours
    by_topic: Array  # (I) int64, items in order of (topic, published)
    topic_start: Array  # (T) int64, first position of each topic in by_topic
    available_TH: Array  # int64, items of the topic published by then
    available_H: Array  # int64

    @classmethod
    def build(cls, config: WorldConfig, rng: np.random.Generator) -> "SimulatedItems":
        """The catalogue of a world."""
        published = _publication(config, rng)
        author_topic = rng.choice(config.num_topics, config.num_authors, p=_zipf(config.num_topics, 0.4))
        author = rng.choice(config.num_authors, published.size, p=_zipf(config.num_authors, 0.6))
        other = rng.integers(config.num_topics, size=published.size)
        topic = np.where(rng.random(published.size) < _OWN_TOPIC, author_topic[author], other)
        topic[: config.num_topics] = np.arange(config.num_topics)  # no topic is ever empty
        topics = unit(rng.standard_normal((config.num_topics, LATENT_DIM), dtype=np.float32))
        vectors = unit(around(topics[topic], rng) + np.float32(_SECOND_TOPIC) * topics[other])
        author_quality = 0.15 * rng.standard_normal(config.num_authors)
        quality = (author_quality[author] + 0.2 * rng.standard_normal(topic.size)).astype(np.float32)
        by_topic = np.lexsort((published, topic))
        counts = _available(topic, published, config)
        return cls(
            topic_vectors_TD=topics,
            tag_vectors_TGD=unit(around(np.repeat(topics[:, None], TAGS_PER_TOPIC, axis=1), rng)),
            vectors_ID=vectors,
            content_IE=_reveal(vectors, config, rng),
            topic=topic,
            author=author,
            quality=quality,
            popularity=quality + 0.3 * rng.standard_normal(topic.size, dtype=np.float32),
            length=np.exp(4.0 + 0.7 * rng.standard_normal(topic.size)).astype(np.float32),
            published=published,
            by_topic=by_topic,
            topic_start=np.searchsorted(topic[by_topic], np.arange(config.num_topics)),
            available_TH=counts,
            available_H=counts.sum(axis=0),
        )

    def draw_of_topics(self, topics: Array, *, hour: Array, rng: np.random.Generator) -> Array:
        """Items of the given topics that are published by then, newer ones more often.

        `topics`: (n, p) int64. `hour`: (n) int64, hours since the log's start. Returns (n, p) int64.
        """
        available = self.available_TH[topics, hour[:, None]]
        draw = rng.random(topics.shape, dtype=np.float32)
        rank = (available * draw ** np.float32(_RECENCY)).astype(np.int64)
        newest = self.topic_start[topics] + available - 1
        drawn: Array = self.by_topic[newest - np.minimum(rank, available - 1)]
        return drawn

    def draw_at_random(self, num: int, *, hour: Array, rng: np.random.Generator) -> Array:
        """Items that are published by then, all with the same probability. Returns (n, num) int64."""
        available = self.available_H[hour][:, None]
        rank = (available * rng.random((hour.size, num), dtype=np.float32)).astype(np.int64)
        drawn: Array = np.minimum(rank, available - 1)
        return drawn


def unit(vectors: Array) -> Array:
    """`vectors` (…, D) scaled to unit length."""
    scaled: Array = vectors / np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    return scaled


def around(centres: Array, rng: np.random.Generator) -> Array:
    """Unit vectors spread around `centres` (…, D), which are unit vectors."""
    noise = rng.standard_normal(centres.shape, dtype=np.float32)
    return unit(centres + np.float32(_SPREAD / np.sqrt(centres.shape[-1])) * noise)


def _publication(config: WorldConfig, rng: np.random.Generator) -> Array:
    backlog = rng.integers(-_BACKLOG_DAYS * 24, 1, size=config.num_items)
    backlog[: config.num_topics] = -_BACKLOG_DAYS * 24
    day = np.repeat(np.arange(config.num_days), config.new_items_per_day)
    fresh = 24 * day + rng.integers(24, size=day.size)
    return START + HOUR * np.sort(np.concatenate([backlog, fresh]))


def _available(topic: Array, published: Array, config: WorldConfig) -> Array:
    hours = 24 * config.num_days
    hour = np.maximum((published - START) // HOUR, 0)
    counts = np.bincount(topic * hours + hour, minlength=config.num_topics * hours)
    return np.cumsum(counts.reshape(config.num_topics, hours), axis=1)


def _reveal(vectors_ID: Array, config: WorldConfig, rng: np.random.Generator) -> Array:
    scale = 1 / np.sqrt(config.embedding_dim)
    projection = rng.standard_normal((LATENT_DIM, config.embedding_dim), dtype=np.float32) * np.float32(scale)
    noise = rng.standard_normal((vectors_ID.shape[0], config.embedding_dim), dtype=np.float32)
    revealed: Array = vectors_ID @ projection + np.float32(config.embedding_noise) * noise
    return revealed


def _zipf(num: int, exponent: float) -> Array:
    weights: Array = np.arange(1, num + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    return weights
