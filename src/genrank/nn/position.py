"""The slot in the feed: its effect on actions, learned separately from the effect of the candidate.

Ranking decides on the slot, so the slot is unknown then. If it were an ordinary input that is sometimes unknown, a
network would learn for the unknown slot the average over the log: that items which the logging policy put on top are
good. So the slot's effect is a separate term, added to the logits of the towers, which don't read the slot:

    logit = f(candidate, history) + b(slot)        in training
    logit = f(candidate, history) + b(unknown)     in validation, evaluation and ranking

A tenth of the training exposures count as unknown, and train b(unknown) only: f learns from known slots.

Shapes: C candidates, T history events, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genrank.nn.embeddings import Table, dropped

NUM_SLOTS = 256  # slots from 254 on share a row (ours); row 0: unknown
UNKNOWN_SHARE = 0.1  # of the training exposures
BIAS_DIM = 16  # width of a slot's vector, from which b is computed: this trains faster than a plain number per slot


def slot_index(slot_N: Tensor) -> Tensor:
    """(N) the table's row of each slot; -1, unknown, is row 0."""
    return (slot_N + 1).clamp(0, NUM_SLOTS - 1)


class SlotEmbedding(nn.Module):
    """The slots of past exposures: a click far down says more than one on top."""

    def __init__(self, width: int, dropout: float):
        """dropout: share of the slots that count as unknown in training."""
        super().__init__()
        self.table, self.dropout = Table(NUM_SLOTS, width), dropout

    def forward(self, slot_T: Tensor) -> Tensor:
        """(T, W)."""
        embedded: Tensor = self.table(dropped(slot_index(slot_T), self.dropout * self.training))
        return embedded


class PositionBias(nn.Module):
    """b: a term per slot for every logit."""

    def __init__(self, sizes: Mapping[str, int]):
        """sizes: number of logits per task."""
        super().__init__()
        self.sizes = dict(sizes)
        self.table = Table(NUM_SLOTS, BIAS_DIM)
        self.to_logits = nn.Linear(BIAS_DIM, sum(sizes.values()), bias=False)

    def forward(self, logits: Mapping[str, Tensor], slot_C: Tensor) -> dict[str, Tensor]:
        """(C, logits of the task's head) per task, with b added; `slot_C` is used in training only."""
        sizes, known_C = list(self.sizes.values()), slot_index(slot_C)
        if not self.training:
            terms = self.to_logits(self.table(known_C.new_zeros(1))).split(sizes, -1)
            return {name: logits[name] + term for name, term in zip(self.sizes, terms, strict=True)}
        hidden_C1 = torch.rand(known_C.shape, device=known_C.device)[:, None] < UNKNOWN_SHARE
        terms = self.to_logits(self.table(torch.where(hidden_C1[:, 0], 0, known_C))).split(sizes, -1)
        return {
            name: torch.where(hidden_C1, logits[name].detach(), logits[name]) + term
            for name, term in zip(self.sizes, terms, strict=True)
        }
