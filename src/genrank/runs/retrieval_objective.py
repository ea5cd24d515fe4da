"""Retrieval runs: their training losses, and the ranks of a part's targets."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import PackedBatch
from genrank.data.loader import Loader
from genrank.data.pools import View
from genrank.data.positives import of_positives, positives
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder
from genrank.data.timelines import ranges
from genrank.evaluation.retrieval_metrics import RetrievedTargets, request_metrics
from genrank.model_config import ModelConfig
from genrank.retrieval.item_vectors import ItemVectors, embed_all
from genrank.retrieval.pieces import pieces
from genrank.retrieval.retriever import Encoded, Retriever
from genrank.retrieval.retriever_config import RetrieverConfig, positive_task
from genrank.retrieval.training_losses import RetrievalLosses
from genrank.schema import DataSpec
from genrank.training.objective import Measured

NUM_TOP = 10  # first items of a list, of which coverage and popularity are computed
SCORES_AT_ONCE = 2**25  # numbers: 128 MiB


def retrieval_data(data: PreparedData, config: ModelConfig) -> PreparedData:
    """The data as the retriever sees it."""
    config = cast(RetrieverConfig, config)
    return of_positives(data, positive_task(config, data.manifest.spec), events=config.events)


def retrieval_view(config: ModelConfig, spec: DataSpec) -> View:
    """What of timelines the retriever sees."""
    config = cast(RetrieverConfig, config)
    return partial(positives, task=positive_task(config, spec), events=config.events)


class RetrievalObjective:
    """The retriever's losses, for the trainer."""

    binary: tuple[str, ...] = ()

    def __init__(self, model: Retriever, loader: Loader, device: torch.device):
        builder = loader.builder
        items = builder.timelines.item[loader.samples.candidates].astype(np.int64)
        catalogue = ItemVectors.of(builder.items, items, device)
        item_of_row = torch.from_numpy(builder.timelines.item.astype(np.int64)).to(device)
        self.model_losses = RetrievalLosses(
            model, catalogue, item_of_row, seen=partial(_seen, builder) if model.config.exclude_seen else None
        )
        self.weights: Mapping[str, float] = model.config.losses
        self.losses = tuple(self.weights)

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """See Objective."""
        return self.model_losses(batch)

    def measure(self, result: dict[str, Tensor], batch: PackedBatch) -> Measured:
        """See Objective."""
        del batch
        return Measured(result, {name: torch.zeros_like(loss) for name, loss in result.items()}, {})

    def state(self) -> dict[str, Tensor]:
        """See Objective."""
        hard = self.model_losses.hard
        return {} if hard is None else hard.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See Objective."""
        if self.model_losses.hard is not None:
            self.model_losses.hard.restore(state)


def validation_figures(model: Retriever, loaders: Iterable[Loader]) -> dict[str, float]:
    """Recall and NDCG on the loader's samples; NDCG@10 decides which weights are kept."""
    (loader,) = loaders  # a retriever's log is in memory
    found = locate(model, loader)
    *_, last = found.ranks
    figures = {name: float(v.mean()) for name, v in request_metrics(found.request, found.ranks[last]).items()}
    return {**figures, "score": figures["ndcg@10"]}


class RankedLists(NamedTuple):
    """Results of some places: the targets' ranks per stage, and the first items of the answer."""

    ranks: dict[str, Tensor]
    top: Tensor


@torch.no_grad()
def locate(model: Retriever, loader: Loader, *, popularity: NDArray[np.int64] | None = None) -> RetrievedTargets:
    """The rank of every target of the loader's samples among all items.

    With `exclude_seen`, a target that the user had before can't be found, and counts as `repeated`.
    popularity: (I) a score of every item, for a list that is evaluated beside the model's.
    """
    builder, device = loader.builder, next(model.parameters()).device
    model.eval()
    scores = None if popularity is None else torch.from_numpy(popularity).float().to(device)
    search = _Search(model, builder, embed_all(model, builder.items), scores)
    exposures, found = [], []
    for batch in loader:
        batch = batch.to(device)
        exposures.append(batch.candidates.exposure.cpu().numpy())
        found += search(batch)
    row = np.concatenate(exposures)
    ranks = {
        stage: torch.cat([lists.ranks[stage] for lists in found]).double().cpu().numpy() for stage in found[0].ranks
    }
    return _retrieved(builder, row, ranks, torch.cat([lists.top for lists in found]).cpu().numpy())


class _Search:
    """Finds the ranks of batches' targets in the whole catalogue."""

    def __init__(self, model: Retriever, builder: SequenceBuilder, embedded_IW: Tensor, popularity: Tensor | None):
        self.model, self.builder, self.embedded_IW, self.popularity = model, builder, embedded_IW, popularity
        self.vector_IW = model.vectors(embedded_IW)
        self.item_of_row = torch.from_numpy(builder.timelines.item.astype(np.int64)).to(embedded_IW.device)

    def __call__(self, batch: PackedBatch) -> list[RankedLists]:
        encoded = self.model.encode(batch)
        query_CW = self.model.queries(encoded, batch)
        target_C = self.item_of_row[batch.candidates.exposure]
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
            score_PI[_seen(self.builder, rows)] = -torch.inf
        return score_PI


def _seen(builder: SequenceBuilder, exposure_P: Tensor) -> tuple[Tensor, Tensor]:
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
        request=builder.request_key[row],
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
    key = builder.user_of_row * len(builder.items) + t.item
    order = np.argsort(key, kind="stable")  # and in order of time
    first = np.r_[True, np.diff(key[order]) > 0]
    earliest = np.empty(len(key), np.int64)
    earliest[order] = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    return earliest[row] < builder.visible_end[row]
