"""The two rankers behind one interface: forward, encode_history, score, predict, loss; see SequenceRanker."""

from genrank.models.inputs import check_data
from genrank.models.pointwise_ranker import PointwiseRanker, PointwiseRankerConfig
from genrank.models.sequence_ranker import SequenceRanker, SequenceRankerConfig
from genrank.schema import DataSpec

ModelConfig = SequenceRankerConfig | PointwiseRankerConfig
Ranker = SequenceRanker | PointwiseRanker


def build_ranker(config: ModelConfig, spec: DataSpec, *, max_history: int) -> Ranker:
    """The model of a configuration. ValueError where the data lacks what it asks for."""
    check_data(config, spec)
    if isinstance(config, SequenceRankerConfig):
        return SequenceRanker(config, spec, max_history=max_history)
    return PointwiseRanker(config, spec, max_history=max_history)
