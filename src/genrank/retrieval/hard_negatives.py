"""The ranker's negatives: the generator's best items of the whole catalogue, in training as in serving.

A rank among a few thousand sampled items is not a rank in the catalogue: the third best of 300 random items is one of
the best 10,000 of a million. So the query is searched among all items that were shown in training. Items that the user
had before are left out if they are not retrieved either.

The searched vectors are computed again every few steps, ROWS_PER_STEP rows per step on average. A step scores at most
SCORES_PER_STEP pairs; if the catalogue is too large for all places, the ranker is trained at fewer places.

Shapes: P chosen places, S searched items, R the best, W width.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from genrank.batch import sent
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.pieces import pieces
from genrank.retrieval.retriever import Retriever

ROWS_PER_STEP = 2**14  # about as many as the items of a batch; ours
SCORES_PER_STEP = 2**27  # one or two seconds of a CPU core at width 128; ours
SCORES_AT_ONCE = 2**22  # 16 MiB

Seen = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # (P) exposures -> pairs (place, row) of the items that their users had before


class Best(NamedTuple):
    """is_met_P: whether the target of the place would be among the ranker's candidates in serving."""

    row_PR: Tensor
    hidden_PR: Tensor  # bool, not a negative: the target, or an item that the user had before
    is_met_P: Tensor


class HardNegatives:
    """The search, with the vectors that it searches. seen: None if items that the user had before are retrieved too."""

    def __init__(self, model: Retriever, catalogue: ItemVectors, seen: Seen | None):
        self.model, self.catalogue, self.seen = model, catalogue, seen
        self.row_S = catalogue.shown
        self.row_on_host_S = self.row_S.cpu()
        self.place_of_row = torch.full((len(catalogue.target_count),), -1)  # on the host
        self.place_of_row[self.row_on_host_S] = torch.arange(len(self.row_S))
        self.steps_between = max(-(-len(self.row_S) // ROWS_PER_STEP), 1)
        self.vector_SW, self.age = torch.zeros(0, model.config.width), 0

    @property
    def places_at_once(self) -> int:
        """The most places for which a step may search."""
        return max(SCORES_PER_STEP // max(len(self.row_S), 1), 1)

    @torch.no_grad()
    def __call__(self, query_PW: Tensor, exposure_P: Tensor, target_P: Tensor) -> Best:
        """The best items of every query, without its target. Called once per step.

        Exposures and targets are on the host, the result is on the queries' device.
        """
        if not len(self.vector_SW) or self.age >= self.steps_between:
            self.vector_SW, self.age = self._embedded(), 0
        self.age += 1
        query_PW, own_P, device = query_PW.float(), self.place_of_row[target_P], query_PW.device
        own_score_P = (query_PW * self.vector_SW[sent(own_P, device)]).sum(-1)
        place, hidden, was_had_P = torch.arange(len(own_P)), own_P, torch.zeros_like(own_P).bool()
        if self.seen is not None:
            at, row = self.seen(exposure_P)
            was_had_P[at[row == target_P[at]]] = True
            searched = self.place_of_row[row] >= 0
            place = torch.cat([place, at[searched]])
            hidden = torch.cat([hidden, self.place_of_row[row[searched]]])
        wanted = self.model.config.met_by_ranker
        score_PR, best_PR = _nearest(query_PW, self.vector_SW, (place, hidden), min(wanted, len(self.row_S)))
        is_best_P = (
            own_score_P >= score_PR[:, -1] if score_PR.shape[1] == wanted else torch.ones_like(own_score_P).bool()
        )
        return Best(self.row_S[best_PR], score_PR.isinf(), is_best_P & ~sent(was_had_P, device))

    def _embedded(self) -> Tensor:
        """(S, W) vectors as in an index: no id is dropped."""
        items = self.model.items
        was_training = items.training
        items.eval()
        vector_SW = torch.empty(len(self.row_S), self.model.config.width, device=self.row_S.device)
        for part in pieces(len(self.row_S), ROWS_PER_STEP):
            vector_SW[part] = self.model.vectors(self.catalogue.embedded(items, self.row_on_host_S[part]).float())
        items.train(was_training)
        return vector_SW

    def state(self) -> dict[str, Tensor]:
        """What a resumed run can't compute again, because weights have changed; empty if every step computes it."""
        if self.steps_between == 1 or not len(self.vector_SW):
            return {}
        return {"vectors": self.vector_SW, "age": torch.tensor(self.age)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state`."""
        if state:
            self.vector_SW, self.age = state["vectors"].to(self.row_S.device), int(state["age"])


def _nearest(query_PW: Tensor, vector_SW: Tensor, hidden: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """(P, R) the best scores, in order, and their positions; -inf for the hidden pairs, which are on the host."""
    place, at = hidden
    scores, found = [], []
    for part in pieces(len(vector_SW), SCORES_AT_ONCE // max(len(query_PW), 1)):
        score_PN = query_PW @ vector_SW[part].T
        inside = (at >= part.start) & (at < part.stop)
        hidden_pairs = place[inside] * score_PN.shape[1] + at[inside] - part.start
        score_PN.view(-1).index_fill_(0, sent(hidden_pairs, score_PN.device), -torch.inf)
        best = score_PN.topk(min(count, score_PN.shape[1]), -1)
        scores.append(best.values)
        found.append(best.indices + part.start)
    best = torch.cat(scores, 1).topk(count, -1)
    return best.values, torch.cat(found, 1).gather(1, best.indices)
