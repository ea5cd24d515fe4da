"""Every ranker and every setting that the shared behaviours are tested on, tiny."""

from typing import Any

import torch

from genrank.data.past_search import SearchConfig
from genrank.models.inputs import RankerConfig
from genrank.models.pointwise_ranker import PointwiseRankerConfig
from genrank.models.ranker import Ranker, build_ranker
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.nn.experts import MultiTaskConfig
from genrank.schema import DataSpec

HSTU = {"organization": "interleaved", "encoding": "hstu", "block": "hstu"}
HARD, SOFT = SearchConfig(kind="hard", num_retrieved=4), SearchConfig(kind="soft", num_retrieved=4, max_events=12)

SEQUENCE: dict[str, dict[str, Any]] = {
    "genrank": {},
    "alibi-both": {"alibi": "both"},
    "alibi-time": {"alibi": "time"},
    "alibi-none": {"alibi": "none"},
    "no-encoding": {"encoding": "none"},
    "no-position": {"position_embedding": False},
    "no-request": {"request_embedding": False},
    "no-gap": {"gap_embedding": False},
    "no-gate": {"attention_gate": False},
    "qk-norm": {"qk_norm": True},
    "user-prefix": {"user_features": "prefix"},
    "no-user": {"user_features": "none"},
    "three-blocks-plain": {"num_blocks": 3, "attention": "plain"},
    "one-block": {"num_blocks": 1},
    "recompute": {"num_blocks": 3, "recompute": True},
    "combined-actions": {"action_embedding": "combination"},
    "no-content": {"content": "off"},
    "no-statistics": {"statistics": "off"},
    "hstu": HSTU,
    "hstu-user-prefix": {**HSTU, "user_features": "prefix"},
    "hstu-one-block": {**HSTU, "num_blocks": 1},
    "hstu-block": {"block": "hstu"},
    "hstu-encoding": {"encoding": "hstu"},
    "hstu-block-and-encoding": {"block": "hstu", "encoding": "hstu"},
    "interleaved": {"organization": "interleaved"},
    "interleaved-hstu-encoding": {"organization": "interleaved", "encoding": "hstu"},
    "interleaved-hstu-block": {"organization": "interleaved", "block": "hstu"},
    "scaled-input": {"input": "scaled", "user_features": "prefix"},
    "hstu-uniform-start": {**HSTU, "start": "uniform"},
    "hstu-scaled-input": {**HSTU, "input": "scaled"},
    "hstu-action-scaled-input": {"encoding": "hstu", "block": "hstu", "input": "scaled", "start": "official"},
    "sim-hard": {"search": HARD},
    "sim-soft": {"search": SOFT},
    "hstu-sim": {**HSTU, "search": HARD},
    "slot-and-clock": {"position_feature": True, "hour_feature": True, "weekday_feature": True},
    "hstu-slot-and-clock": {**HSTU, "position_feature": True, "hour_feature": True},
    "hstu-clock": {**HSTU, "hour_feature": True, "weekday_feature": True},
    "mmoe": {"heads": MultiTaskConfig(kind="mmoe", num_experts=3, expert=8, tower=8)},
    "ple": {"heads": MultiTaskConfig(kind="ple", num_experts=2, num_task_experts=1, num_layers=2, expert=8, tower=8)},
    "ppnet": {"heads": MultiTaskConfig(ppnet=True, tower=8, tower_layers=2)},
    "regression": {"duration_head": "regression"},
    "wlr": {"duration_head": "wlr"},
    "d2q": {"duration_head": "d2q"},
    "quantile": {"duration_head": "quantile"},
}
POINTWISE: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp-no-crosses": {"num_cross_layers": 0},
    "din": {"pooling": "din"},
    "mlp-sim-hard": {"search": HARD},
    "din-sim-soft": {"pooling": "din", "search": SOFT},
    "din-ple-ppnet": {"pooling": "din", "heads": MultiTaskConfig(kind="ple", expert=8, tower=8, ppnet=True)},
    "mlp-no-content": {"content": "off"},
    "mlp-slot-and-clock": {"position_feature": True, "hour_feature": True, "weekday_feature": True},
    "din-slot-and-clock": {"pooling": "din", "position_feature": True, "hour_feature": True},
}
NAMES = (*SEQUENCE, *POINTWISE)


def config(name: str, **changes: Any) -> RankerConfig:
    """The tiny configuration of that name."""
    if name in SEQUENCE:
        sizes = {"width": 16, "num_heads": 2, "feedforward": 32, "embedding_dim": 8, "heads": MultiTaskConfig(tower=8)}
        return SequenceRankerConfig(**(sizes | SEQUENCE[name] | changes))
    sizes = {"width": 16, "num_heads": 2, "embedding_dim": 8, "mlp": (16,), "heads": MultiTaskConfig(tower=8)}
    return PointwiseRankerConfig(**(sizes | POINTWISE[name] | changes))


class _WithCopies(SequenceRankerConfig):
    """Every exposure is predicted at a candidate token of its own, as a reference for predicting in place."""

    predicts_in_place = False


def with_copies(config: SequenceRankerConfig) -> SequenceRankerConfig:
    """The configuration of a model that never predicts in place."""
    return _WithCopies(**vars(config))


def ranker(name: str, spec: DataSpec, *, max_history: int, **changes: Any) -> Ranker:
    """That ranker with fixed random weights, in evaluation mode."""
    torch.manual_seed(0)
    return build_ranker(config(name, **changes), spec, max_history=max_history).eval()
