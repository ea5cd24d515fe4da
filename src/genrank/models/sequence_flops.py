"""The number of floating-point operations in the attention of a sequence ranker. See flops.py for what counts."""

import torch

from genrank.batch import Candidates, PackedBatch
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.nn.organization import tokens_per_event


def sequence_attention_flops(config: SequenceRankerConfig, batch: PackedBatch) -> int:
    """Operations of a forward pass over all blocks. In the last block only candidates are queries."""
    own = batch.candidates.in_history < 0
    if not config.predicts_in_place:
        own = torch.ones_like(own)
    seen_C = seen_by_candidates(config, batch.candidates)
    inner = _seen_by_history(config, batch) + int(seen_C[own].sum())
    return 4 * config.width * ((config.num_blocks - 1) * inner + int(seen_C.sum()))


def scoring_attention_flops(config: SequenceRankerConfig, batch: PackedBatch) -> int:
    """Operations of scoring candidates over a history that is encoded already."""
    return 4 * config.width * config.num_blocks * int(seen_by_candidates(config, batch.candidates).sum())


def seen_by_candidates(config: SequenceRankerConfig, candidates: Candidates) -> torch.Tensor:
    """(C) tokens that each candidate sees, itself included."""
    seen_C: torch.Tensor = tokens_per_event(config.organization) * candidates.prefix + 1
    return seen_C


def _seen_by_history(config: SequenceRankerConfig, batch: PackedBatch) -> int:
    """Tokens that the history's tokens see, themselves included, in one block."""
    assert config.user_features != "prefix", "tokens of users are not counted"
    history = batch.history
    if config.history_mask == "full":
        return int(((tokens_per_event(config.organization) * history.offsets.diff()) ** 2).sum())
    if config.organization == "action":
        return int((history.position + 1).sum())
    items_T, actions_T = 2 * history.as_candidate.prefix + 1, 2 * history.position + 2
    return int((items_T + actions_T).sum())
