"""Rankers. Every family's configuration is imported here, so that it is known by its `kind` in files."""

from genrank.models.pointwise_ranker import PointwiseRankerConfig
from genrank.models.sequence_config import SequenceRankerConfig

__all__ = ["PointwiseRankerConfig", "SequenceRankerConfig"]
