"""The size of the simulated feed and the behaviour of its users."""

from dataclasses import dataclass

_COUNTS = (
    "num_users",
    "num_days",
    "num_topics",
    "num_authors",
    "num_interests",
    "embedding_dim",
    "min_slots",
)
_STRENGTHS = ("position_bias", "satiation", "interest_boost", "taste_gain", "embedding_noise")
_SHARES = ("random_share", "interest_switch", "late_share", "prefetched_share")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The simulated feed. Strengths are in log-odds of a click; the defaults give about 350,000 exposures.

    Raises ValueError for a value outside its range.
    """

    num_users: int = 1500
    num_days: int = 14
    seed: int = 0

    num_items: int = 2000  # in the catalogue when the log begins
    new_items_per_day: int = 150
    num_topics: int = 20
    num_authors: int = 300
    embedding_dim: int = 32  # of the content embedding
    embedding_noise: float = 0.05  # standard deviation per dimension, of vectors of length one

    requests_per_day: float = 2.0  # mean over users; their activity is heavy-tailed
    requests_per_session: float = 2.5
    min_slots: int = 6  # exposures of a request
    max_slots: int = 10
    random_share: float = 0.15  # of requests that are answered with random items

    num_interests: int = 3  # of a user at a time
    interest_switch: float = 0.05  # probability that an interest is replaced between two sessions
    interest_boost: float = 2.7  # of a full match with an interest
    taste_gain: float = 0.3  # per standard deviation of the long-term taste
    position_bias: float = 0.2  # per natural logarithm of 1 + slot
    satiation: float = 0.1  # per exposure of the same topic in this request and the two before
    late_share: float = 0.0  # of likes and follows that come minutes to hours after the exposure
    prefetched_share: float = 0.0  # of a session's later pages that are requested when the previous page is shown
    shuffle_labels: bool = False  # permute the actions over exposures, so that there is nothing to learn

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _at_least(name, getattr(self, name), 1)
        for name in _STRENGTHS:
            _at_least(name, getattr(self, name), 0)
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        _at_least("seed", self.seed, 0)
        _at_least("new_items_per_day", self.new_items_per_day, 0)
        _at_least("num_items", self.num_items, max(self.num_topics, 2 * self.max_slots))
        _at_least("max_slots", self.max_slots, self.min_slots)
        _at_least("requests_per_session", self.requests_per_session, 1)
        if not self.requests_per_day > 0:
            raise ValueError(f"requests_per_day is {self.requests_per_day}; it must be above 0")
        if self.max_slots > 64:
            raise ValueError(f"max_slots is {self.max_slots}; it must be at most 64")

    @property
    def has_late_actions(self) -> bool:
        """Whether a request can come before the actions on the previous one; the log then has times of actions."""
        return self.late_share > 0 or self.prefetched_share > 0

    @property
    def exposures_per_user(self) -> float:
        """Expected exposures of a user over the whole period."""
        return self.num_days * self.requests_per_day * (self.min_slots + self.max_slots) / 2


def _at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:  # so that NaN is refused too
        raise ValueError(f"{name} is {value}; it must be at least {bound}")
