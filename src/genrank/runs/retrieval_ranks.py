"""The ranks of a part's targets among all items, one pool of users after another."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import PackedBatch
from genrank.data.loader import Loader
from genrank.data.sequence import SequenceBuilder
from genrank.data.tables import FeatureTable
from genrank.data.timelines import ranges
from genrank.evaluation.retrieval_metrics import RetrievedTargets, joined_targets
from genrank.retrieval.item_vectors import embed_all
from genrank.retrieval.pieces import pieces
from genrank.retrieval.retriever import Encoded, Retriever

NUM_TOP = 10  # first items of a list, of which coverage and popularity are computed
SCORES_AT_ONCE = 2**25  # numbers: 128 MiB


class RankedLists(NamedTuple):
    """Results of some places: the targets' ranks per stage, and the first items of the answer."""

    ranks: dict[str, Tensor]
    top: Tensor


class SearchedItems(NamedTuple):
    """All I items as they are searched; popularity_I: a score of each, for a list beside the model's."""

    embedded_IW: Tensor
    vector_IW: Tensor
    popularity_I: Tensor | None


@torch.no_grad()
def locate(
    model: Retriever, loaders: Iterable[Loader], *, popularity: NDArray[np.int64] | None = None
) -> RetrievedTargets:
    """The rank of every target of a part among all items. loaders: of the part, or of each of its pools.

    With `exclude_seen`, a target that the user had before can't be found, and counts as `repeated`.
    popularity: (I) a score of every item, for a list that is evaluated beside the model's.
    """
    model.eval()
    searched, parts, num_requests = None, [], 0
    for loader in loaders:
        searched = searched or _searched(model, loader.builder.items, popularity)
        if len(loader.samples):
            parts.append(_located(_Search(model, searched, loader.builder), loader).after(num_requests))
        num_requests += loader.builder.num_requests
    return joined_targets(parts)


def _searched(model: Retriever, items: FeatureTable, popularity: NDArray[np.int64] | None) -> SearchedItems:
    embedded_IW = embed_all(model, items)
    scores_I = None if popularity is None else torch.from_numpy(popularity).float().to(embedded_IW.device)
    return SearchedItems(embedded_IW, model.vectors(embedded_IW), scores_I)


def _located(search: "_Search", loader: Loader) -> RetrievedTargets:
    rows, found = [], []
    for batch in loader:
        rows.append(batch.candidates.exposure.numpy())
        found += search(batch.to(search.device))
    ranks = {
        stage: torch.cat([lists.ranks[stage] for lists in found]).double().cpu().numpy() for stage in found[0].ranks
    }
    top = torch.cat([lists.top for lists in found]).cpu().numpy()
    return _retrieved(loader.builder, np.concatenate(rows), ranks, top)


class _Search:
    """Finds the ranks of batches' targets in the whole catalogue."""

    def __init__(self, model: Retriever, searched: SearchedItems, builder: SequenceBuilder):
        self.model, self.builder, self.device = model, builder, searched.vector_IW.device
        self.embedded_IW, self.vector_IW, self.popularity = searched

    def __call__(self, batch: PackedBatch) -> list[RankedLists]:
        encoded = self.model.encode(batch)
        query_CW = self.model.queries(encoded, batch)
        target_C = items_of(self.builder, batch.candidates.exposure)
        place_C = torch.arange(len(query_CW), device=query_CW.device)
        parts = pieces(len(query_CW), SCORES_AT_ONCE // len(self.vector_IW))
        return [self._lists(encoded, batch, place_C[part], query_CW[part], target_C[part]) for part in parts]

    def _lists(
        self, encoded: Encoded, batch: PackedBatch, place_P: Tensor, query_PW: Tensor, target_P: Tensor
    ) -> RankedLists:
        rows = batch.candidates.exposure[place_P]
        ranks = {}
        if self.popularity is not None:
            ranks["popularity"] = _rank(self._allowed(self.popularity.repeat(len(place_P), 1), rows), target_P)
        score_PI = self._allowed(query_PW @ self.vector_IW.T, rows)
        ranks["generator"] = _rank(score_PI, target_P)
        num_candidates = min(self.model.config.num_candidates, score_PI.shape[1] - 1)
        if self.model.ranker is None:
            return RankedLists(ranks, score_PI.topk(min(NUM_TOP, num_candidates), -1).indices)
        best = score_PI.topk(num_candidates, -1)
        ranked_PM = self._ranked(encoded, batch, place_P, query_PW, best.indices)
        ranked_PM = ranked_PM.masked_fill(best.values == -torch.inf, -torch.inf)
        is_target_PM = best.indices == target_P[:, None]
        place_in_best = _rank(ranked_PM, is_target_PM.int().argmax(-1))
        found_P = is_target_PM.any(-1) & ranks["generator"].isfinite()
        ranks["ranker"] = torch.where(found_P, place_in_best, ranks["generator"].clamp_min(num_candidates))
        order = ranked_PM.topk(min(NUM_TOP, num_candidates), -1).indices
        return RankedLists(ranks, best.indices.gather(1, order))

    def _ranked(
        self, encoded: Encoded, batch: PackedBatch, place_P: Tensor, query_PW: Tensor, row_PM: Tensor
    ) -> Tensor:
        return torch.cat(
            [
                self.model.rank_scores(
                    encoded,
                    batch,
                    place_P[part],
                    query_PW=query_PW[part],
                    items_PMW=self.embedded_IW[row_PM[part]],
                )
                for part in pieces(len(place_P), SCORES_AT_ONCE // (4 * row_PM.shape[1] * query_PW.shape[1]))
            ]
        )

    def _allowed(self, score_PI: Tensor, rows: Tensor) -> Tensor:
        """The scores without those of items that may not be retrieved."""
        score_PI[:, 0] = -torch.inf
        if self.model.config.exclude_seen:
            score_PI[seen_before(self.builder, rows)] = -torch.inf
        return score_PI


def items_of(builder: SequenceBuilder, exposure_N: Tensor) -> Tensor:
    """(N) int64 rows of the exposures' items, where `exposure_N` is."""
    rows = builder.timelines.item[exposure_N.cpu().numpy()].astype(np.int64)
    return torch.from_numpy(rows).to(exposure_N.device)


def seen_before(builder: SequenceBuilder, exposure_P: Tensor) -> tuple[Tensor, Tensor]:
    """(place, item) pairs: the items that the user of each exposure had before its request."""
    rows = exposure_P.cpu().numpy()
    begin = builder.timelines.offsets[builder.user_of_row[rows]]
    lengths = builder.visible_end[rows] - begin
    items = torch.from_numpy(builder.timelines.item[ranges(begin, lengths)].astype(np.int64))
    places = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths))
    return places.to(exposure_P.device), items.to(exposure_P.device)


def _rank(score_PI: Tensor, target_P: Tensor) -> Tensor:
    """(P) the target's rank from 0, the middle one among equal scores; infinite if the target is excluded."""
    own_P1 = score_PI.gather(1, target_P[:, None])
    before = (score_PI > own_P1).sum(-1) + 0.5 * ((score_PI == own_P1).sum(-1) - 1)
    return torch.where(own_P1[:, 0] == -torch.inf, torch.inf, before)


def _retrieved(
    builder: SequenceBuilder, row: NDArray[np.int64], ranks: dict[str, NDArray[np.float64]], top: NDArray[np.int64]
) -> RetrievedTargets:
    t, items = builder.timelines, builder.items
    item = t.item[row].astype(np.int64)
    return RetrievedTargets(
        request=builder.request_key[row].astype(np.int64),
        user=t.users[builder.user_of_row[row]],
        item=item,
        repeated=_had_before(builder, row),
        item_age=np.maximum(t.time[row] - items.first_time[item], 0),
        train_count=items.train_count[item],
        ranks=ranks,
        top=top,
        catalogue=np.arange(1, len(items)),
    )


def _had_before(builder: SequenceBuilder, row: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N) whether the user had the item before the request."""
    t = builder.timelines
    key = builder.user_of_row.astype(np.int64) * len(builder.items) + t.item
    order = np.argsort(key, kind="stable")  # and in order of time
    first = np.r_[True, np.diff(key[order]) > 0]
    earliest = np.empty(len(key), np.int64)
    earliest[order] = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    return earliest[row] < builder.visible_end[row]
