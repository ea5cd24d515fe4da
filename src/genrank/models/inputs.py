"""The inputs that both rankers share: embeddings of items, users, contexts and actions; SIM; window statistics.

Shapes: I distinct items, B sequences, T history events, C candidates, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from genrank.batch import Candidates, FeatureColumns, History, PackedBatch
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import search_feature
from genrank.model_config import ModelConfig, check_left_out
from genrank.nn.calendar import NUM_HOURS, NUM_WEEKDAYS, Calendar
from genrank.nn.durations import DurationHead
from genrank.nn.embeddings import ActionEmbedding, CombinationEmbedding, FeatureEmbedding, StatisticsEmbedding
from genrank.nn.experts import MultiTaskConfig
from genrank.nn.organization import per_token
from genrank.nn.position import SlotEmbedding
from genrank.nn.sim import ExactSearch
from genrank.schema import DataSpec, FeatureSpec, Owner

Use = Literal["auto", "on", "off"]  # auto: where the data has it
HOUR, WEEKDAY = "@hour", "@weekday"  # names that a schema can't use


@dataclass(frozen=True, kw_only=True)
class RankerConfig(ModelConfig):
    """The settings of every ranker."""

    width: int = 64
    num_heads: int = 4
    embedding_dim: int = 32  # of each feature, before the projection to `width`
    action_embedding: Literal["type", "combination"] = "type"  # the sum over action types, or one per combination
    content: Use = "auto"  # frozen embeddings of items
    statistics: Use = "auto"  # window statistics of candidates
    without: tuple[str, ...] = ()  # features of the data that the model does not use
    search: SearchConfig = field(default_factory=SearchConfig)  # SIM: a branch over the history before the window
    heads: MultiTaskConfig = field(default_factory=MultiTaskConfig)
    duration_head: DurationHead = "ordinal"
    dropout: float = 0.1
    id_dropout: float = 0.05  # share of item and user ids that count as unknown while training
    feature_dropout: float = 0.01  # share of other categories, lists of values and buckets
    position_feature: bool = False  # the slot in the feed: of past exposures, and of candidates while training
    hour_feature: bool = False  # hour and weekday of the request, in the schema's time zone
    weekday_feature: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        for name in ("dropout", "id_dropout", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    def num_tokens(self, batch: PackedBatch) -> int:
        """Tokens of a batch: one for each past exposure and each candidate."""
        return len(batch.history.item) + len(batch.candidates.item)

    def check(self, spec: DataSpec, *, num_items: int | None = None) -> None:
        """See ModelConfig."""
        if self.content == "on" and not any(f.kind == "embedding" for f in spec.of("item")):
            raise ValueError(
                "content=on needs a feature of the item of kind embedding, and the data has none; set it off"
            )
        if self.statistics == "on" and not spec.statistics:
            raise ValueError("statistics=on needs window statistics; prepare again with --set statistics.enabled=true")
        check_left_out(self.without, spec)
        if self.search.kind == "hard":
            search_feature(self.search, spec)
        if self.duration_head != "ordinal" and not any(task.kind == "duration" for task in spec.tasks):
            raise ValueError(f"duration_head={self.duration_head} needs a duration task, and the data has none")


def _of_requests(config: RankerConfig) -> tuple[FeatureSpec, ...]:
    """The features that are computed from a request's time, not read from a column of the log."""
    used = (
        (HOUR, NUM_HOURS, config.hour_feature),
        (WEEKDAY, NUM_WEEKDAYS, config.weekday_feature),
    )
    return tuple(
        FeatureSpec(name=name, owner="exposure", kind="categorical", size=size) for name, size, chosen in used if chosen
    )


class Inputs(nn.Module):
    """φ of items, users and contexts, ϕ of actions, and the inputs that are added to a candidate's vector directly."""

    def __init__(self, config: RankerConfig, spec: DataSpec, *, use_users: bool = True, use_actions: bool = True):
        super().__init__()
        self.config, self.spec, width = config, spec, config.width
        self.items = self._features("item")
        self.contexts = self._features("exposure") if self._used("exposure") else None
        self.slots = SlotEmbedding(width, config.feature_dropout) if config.position_feature and use_actions else None
        self.calendar = Calendar(spec.zone) if config.hour_feature or config.weekday_feature else None
        self.users = self._features("user") if self._used("user") and use_users else None
        embedding = ActionEmbedding if config.action_embedding == "type" else CombinationEmbedding
        self.actions = embedding(spec, width) if use_actions else None
        uses_statistics = bool(spec.statistics) and config.statistics != "off"
        self.statistics = StatisticsEmbedding(len(spec.statistics), width) if uses_statistics else None
        search = config.search
        self.sim = (
            ExactSearch(search.kind, width, num_heads=config.num_heads, num_retrieved=search.num_retrieved)
            if search.kind != "none"
            else None
        )

    def _used(self, owner: Owner) -> tuple[FeatureSpec, ...]:
        config = self.config
        features = tuple(
            spec
            for spec in self.spec.of(owner)
            if spec.name not in config.without and (spec.kind != "embedding" or config.content != "off")
        )
        return features + (_of_requests(config) if owner == "exposure" else ())

    def _features(self, owner: Owner) -> FeatureEmbedding:
        config = self.config
        return FeatureEmbedding(
            self._used(owner),
            dim=config.embedding_dim,
            width=config.width,
            id_dropout=config.id_dropout,
            feature_dropout=config.feature_dropout,
        )

    @property
    def prior(self) -> int:
        """Width of `prior_of`."""
        return self.config.width * (1 if self.users is None else 2)

    def prior_of(self, batch: PackedBatch, items_IW: Tensor, user_BW: Tensor | None) -> Tensor:
        """(C, prior) PPNet's prior: the item with its author, and the user."""
        c = batch.candidates
        parts = [items_IW[c.item]] + ([] if user_BW is None else [per_token(user_BW, c.offsets, len(c.item))])
        return torch.cat(parts, -1)

    def user_vectors(self, batch: PackedBatch) -> Tensor | None:
        """(B, W), None where users have no features."""
        return None if self.users is None else self.users(batch.users)

    def of_history(self, history: History) -> Tensor | None:
        """(T, W) the contexts of past exposures, None if exposures have no features."""
        return self._contexts(history.features, history.as_candidate.time)

    def of_actions(self, history: History) -> Tensor:
        """(T, W) the actions on past exposures, and their slots."""
        assert self.actions is not None
        acted_TW: Tensor = self.actions(history.actions)
        return acted_TW if self.slots is None else acted_TW + self.slots(history.slot)

    def of_candidates(self, c: Candidates) -> Tensor | None:
        """(C, W) the contexts of candidates, None if exposures have no features."""
        return self._contexts(c.features, c.time)

    def _contexts(self, features: FeatureColumns, time_N: Tensor) -> Tensor | None:
        """time_N: seconds, of the exposures' requests."""
        if self.contexts is None:
            return None
        columns = dict(features)
        if self.calendar is not None:
            columns |= {HOUR: self.calendar.hour(time_N), WEEKDAY: self.calendar.weekday(time_N)}
        embedded: Tensor = self.contexts(columns)
        return embedded

    def long_history(self, batch: PackedBatch, items_IW: Tensor) -> Tensor | None:
        """(C, W) SIM's output, None without SIM."""
        if self.sim is None:
            return None
        events_EW = self.events(items_IW[batch.long.item], batch.long.actions)
        found: Tensor = self.sim(items_IW[batch.candidates.item], batch.candidates, events_EW, batch.long)
        return found

    def events(self, item_EW: Tensor, actions: Mapping[str, Tensor]) -> Tensor:
        """(E, W) items with the actions on them."""
        assert self.actions is not None
        acted: Tensor = item_EW + self.actions(actions)
        return acted

    def window_statistics(self, batch: PackedBatch) -> Tensor | None:
        """(C, W), None without them."""
        return None if self.statistics is None else self.statistics(batch.candidates.statistics)
