"""The losses of a retriever: three InfoNCE losses over shared item embeddings (GRank, arXiv 2510.15299).

    query        every target against the whole catalogue (up to `full_softmax` items), or against a pool of negatives
    auxiliary    at some places: the target against a part of a pool, each of them attending to the history
    ranker       at those of these places whose target is among the query's best: it against others of them

A pool is shared by the batch: the batch's targets, and uniform draws (mixed negatives). In serving the ranker scores
only the generator's best items of the catalogue, so it is trained on these only (retrieval/hard_negatives.py): with
targets that are not among them, it would learn that items with high scores of the generator are wrong.

Shapes: C places, P chosen places, N pool, K hard negatives, J trained items, W width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genrank.batch import Candidates, PackedBatch, sent
from genrank.data.timelines import offsets_of
from genrank.retrieval.hard_negatives import HardNegatives, Seen
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.losses import full_softmax, info_nce, log_expected
from genrank.retrieval.retriever import Encoded, Retriever

ItemOf = Callable[[Tensor], Tensor]  # (N) exposures -> (N) int64 rows of items, both on the host


@dataclass(frozen=True)
class NegativePool:
    """Negatives: rows of the catalogue, their embeddings, and the log of how often each is expected."""

    row_N: Tensor
    embedded_NW: Tensor
    log_expected_N: Tensor

    def thinned(self, count: int) -> "NegativePool":
        """A random part of at most `count`, with the expected frequencies reduced accordingly."""
        if len(self.row_N) <= count:
            return self
        kept = sent(torch.randperm(len(self.row_N))[:count], self.row_N.device)
        rarer = math.log(count / len(self.row_N))
        return NegativePool(self.row_N[kept], self.embedded_NW[kept], self.log_expected_N[kept] + rarer)


class Rows(NamedTuple):
    """The same row numbers of items, exposures or places on host and device."""

    host: Tensor
    device: Tensor


class RetrievalLosses:
    """Losses of a batch. item_of: the catalogue's rows of exposures of the batch. seen: see hard_negatives.

    Items are drawn on the host, where their features are, so that every device draws the same ones. Nothing that is
    sent to a device has to be read back; only the ranker's negatives are found on the device.
    """

    def __init__(self, model: Retriever, catalogue: ItemVectors, item_of: ItemOf, *, seen: Seen | None = None):
        self.hard = HardNegatives(model, catalogue, seen) if model.config.ranker else None
        self.model, self.catalogue, self.item_of = model, catalogue, item_of
        self.trained_on_host_J = catalogue.trained_J.cpu()
        self.is_full = len(catalogue.trained_J) <= model.config.full_softmax
        self.place_of_row = torch.full_like(catalogue.target_count, -1)  # among the trained items
        self.place_of_row[catalogue.trained_J] = torch.arange(len(catalogue.trained_J), device=catalogue.device)
        self.num_targets = int(catalogue.target_count.sum())

    def __call__(self, batch: PackedBatch) -> dict[str, Tensor]:
        """(C) or (P) losses by name."""
        model, config = self.model, self.model.config
        encoded = model.encode(batch)
        query_CW = model.queries(encoded, batch)
        exposure_C, offsets = _on_host(batch.candidates)
        target = self._both(self.item_of(exposure_C))
        others = self._everything() if self.is_full else self._pool(target, None)
        vector_NW = model.vectors(others.embedded_NW)
        if self.is_full:
            rows = self.place_of_row[target.device]
            losses = {"query": full_softmax(query_CW, vector_NW, rows, scale=model.scale)}
        else:
            own_CW = model.vectors(encoded.items_IW[batch.candidates.item])
            own_C = (query_CW * own_CW).sum(-1).float() * model.scale
            logits_CN = (query_CW @ vector_NW.T).float() * model.scale
            losses = {"query": self._against(others, own_C, logits_CN, target.device)}
        if not (config.auxiliary or config.ranker):
            return losses
        place = self._both(draw_places(offsets, config.places))
        if config.auxiliary:
            target_at_places = Rows(target.host[place.host], target.device[place.device])
            losses["auxiliary"] = self._auxiliary(encoded, batch, place.device, target_at_places, others)
        if config.ranker:
            losses["ranker"] = self._ranker(encoded, batch, place.host, query_CW.detach())
        return losses

    def _both(self, host_N: Tensor) -> Rows:
        return Rows(host_N, sent(host_N, self.catalogue.device))

    def _auxiliary(
        self, encoded: Encoded, batch: PackedBatch, place_P: Tensor, target: Rows, known: NegativePool
    ) -> Tensor:
        pool = self._pool(target, known if self.is_full else None).thinned(self.model.config.num_auxiliary)
        own_PW = encoded.items_IW[batch.candidates.item[place_P]]
        items_PMW = torch.cat([own_PW[:, None], pool.embedded_NW.expand(len(place_P), -1, -1)], 1)
        scores_PM = self.model.auxiliary_scores(encoded, batch, place_P, items_PMW).float()
        return self._against(pool, scores_PM[:, 0], scores_PM[:, 1:], target.device)

    def _ranker(self, encoded: Encoded, batch: PackedBatch, place_P: Tensor, query_CW: Tensor) -> Tensor:
        """The ranker's loss at the places whose target is among the query's best: in serving it scores only these.

        `place_P` is on the host, which waits here once: for these places, and for the items that were found.
        """
        assert self.hard is not None
        c, device = batch.candidates, self.catalogue.device
        place_P = _thinned(place_P, self.hard.places_at_once)
        exposure_P = _on_host(c)[0][place_P]
        best = self.hard(query_CW[sent(place_P, device)], exposure_P, self.item_of(exposure_P))
        drawn_PK = _drawn(best.row_PR, self.model.config.num_hard)
        found = read(torch.cat([best.is_met_P[:, None].long(), best.row_PR.gather(1, drawn_PK)], 1))
        met = found[:, 0].nonzero().squeeze(1)
        if not len(met):
            return query_CW.new_zeros(0, dtype=torch.float32)
        rows, item_PK = torch.unique(found[met, 1:], return_inverse=True)
        hard_PKW = self.catalogue.embedded(self.model.items, rows)[sent(item_PK, device)]
        place_P, met = sent(place_P[met], device), sent(met, device)
        items_PMW = torch.cat([encoded.items_IW[c.item[place_P]][:, None], hard_PKW], 1)
        scores_PM = self.model.rank_scores(
            encoded, batch, place_P, query_PW=query_CW[place_P], items_PMW=items_PMW
        ).float()
        return info_nce(scores_PM[:, 0], scores_PM[:, 1:], hidden_PN=best.hidden_PR.gather(1, drawn_PK)[met])

    def _against(self, pool: NegativePool, own_P: Tensor, logits_PN: Tensor, target_P: Tensor) -> Tensor:
        hidden_PN = pool.row_N == target_P[:, None]
        return info_nce(own_P, logits_PN, hidden_PN=hidden_PN, log_expected_N=pool.log_expected_N)

    def _everything(self) -> NegativePool:
        rows = self.catalogue.trained_J
        embedded_JW = self.model.items(self.catalogue.trained_columns)
        return NegativePool(rows, embedded_JW, torch.zeros((), device=self.catalogue.device))

    def _pool(self, target: Rows, known: NegativePool | None) -> NegativePool:
        """The given targets and uniform draws; embedded here, or taken from `known`, which has all trained items."""
        trained, num_uniform = self.trained_on_host_J, self.model.config.num_negatives
        drawn = self._both(trained[torch.randint(len(trained), (num_uniform,))])
        rows = torch.cat([target.device, drawn.device])
        expected = log_expected(
            self.catalogue.target_count[rows],
            total=self.num_targets,
            num_in_batch=len(target.host),
            num_uniform=num_uniform,
            num_items=len(trained),
        )
        if known is None:
            on_host = torch.cat([target.host, drawn.host])
            return NegativePool(rows, self.catalogue.embedded(self.model.items, on_host), expected)
        return NegativePool(rows, known.embedded_NW[self.place_of_row[rows]], expected)


def read(found: Tensor) -> Tensor:
    """A device's result on the host: the only wait of a training step."""
    return found.cpu()


def _on_host(c: Candidates) -> tuple[Tensor, Tensor]:
    """(C) exposures and (B + 1) offsets on the host, read from the device if the batch doesn't have them there."""
    exposure_C = c.exposure.cpu() if c.exposures is None else torch.from_numpy(c.exposures.values)
    return exposure_C, c.offsets.cpu() if c.lengths is None else torch.from_numpy(offsets_of(c.lengths.values))


def draw_places(offsets: Tensor, count: int) -> Tensor:
    """(P) up to `count` random places of every sample, in order. All on the host."""
    num_places, sample_B = int(offsets[-1]), torch.arange(len(offsets) - 1)
    sample_C = torch.repeat_interleave(sample_B, offsets.diff())
    # A random order within each sample: sorted by sample, then by a random number.
    order = torch.argsort(sample_C + torch.rand(num_places, dtype=torch.float64))
    rank_C = torch.arange(num_places) - offsets[sample_C]
    return order[rank_C < count].sort().values


def _thinned(place_P: Tensor, count: int) -> Tensor:
    """At most `count` random places, in order."""
    if len(place_P) <= count:
        return place_P
    return place_P[torch.randperm(len(place_P))[:count].sort().values]


def _drawn(from_PR: Tensor, count: int) -> Tensor:
    """(P, K) up to `count` different random positions in each row."""
    chance: Tensor = sent(torch.rand(from_PR.shape), from_PR.device)
    return chance.topk(min(count, from_PR.shape[1]), -1).indices
