"""The retrieval engine: users in, the best items of the whole catalogue out.

A request becomes the last request of its user's timeline, with one unknown item, and the sequence builder of training
cuts it. Its query vector is searched among all items; the ranker, if the model has one, orders the best
`num_candidates` of them.

Shapes: B requests, M candidates of each, W width, K results.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrank.artifacts.index import StoredIndex
from genrank.batch import PackedBatch, map_arrays
from genrank.data.positives import positives
from genrank.data.request import with_request
from genrank.data.sequence import SequenceConfig
from genrank.data.timelines import Timelines
from genrank.errors import BundleError
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories, UserHistory
from genrank.nn.devices import on_device
from genrank.retrieval.item_search import Precision, SearchResult
from genrank.retrieval.item_vectors import embed_all
from genrank.retrieval.live_search import EmbeddedItems, LiveIndex
from genrank.retrieval.retriever import Encoded, Retriever
from genrank.retrieval.retriever_config import positive_task

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RetrieveRequest:
    """A request for `k` items for a user. time: seconds since the epoch.

    without: values by item feature, as in {"author": ["a7"]}: items with one of them are left out. exclude: rows that
    are left out. exclude_seen: None: as the model was trained. history: of the user, from the engine's histories; None:
    read now.
    """

    user: str
    time: int
    k: int = 500
    without: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    exclude: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    exclude_seen: bool | None = None
    history: UserHistory | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievedItems:
    """Rows of the item table, best first; fewer than k if there aren't more. Times in seconds, of the batch."""

    rows: Ints
    scores: NDArray[np.float32]  # logits: of the ranker, or of the generator if there is no ranker
    user_known: bool
    history_current: bool
    num_history: int  # events that the generator saw
    seconds: Mapping[str, float]  # encode, search, rank


class RetrievalEngine:
    """One retriever over its users' histories and its index. Not safe to use from several threads; the index is."""

    def __init__(
        self,
        model: Retriever,
        sequence: SequenceConfig,
        *,
        histories: Histories,
        index: LiveIndex,
        device: torch.device | str = "cpu",
    ):
        self.model, self.device = model, torch.device(device)
        self.sequence = replace(sequence, grouping="request", loss_on_history=False, labels_once=False)
        self.histories, self.index = histories, index
        self.task = positive_task(model.config, model.spec)

    def retrieve(self, requests: Sequence[RetrieveRequest], *, num_candidates: int = 0) -> list[RetrievedItems]:
        """The answers, in order. num_candidates: of the generator for the ranker; 0: as the model was trained."""
        with torch.no_grad(), on_device(self.device):
            return self._retrieve(requests, num_candidates)

    def _retrieve(self, requests: Sequence[RetrieveRequest], num_candidates: int) -> list[RetrievedItems]:
        began = time.perf_counter()
        known = [request.history or self.histories.of(request.user) for request in requests]
        taken = [positives(each.timeline, self.task, events=self.model.config.events) for each in known]
        builder = self.histories.builder(
            [self._asked(*pair) for pair in zip(taken, requests, strict=True)], self.sequence, self.model.config.search
        )
        samples = builder.samples()
        order = np.argsort(samples.user, kind="stable")  # one sample a request, in the order of requests
        batch: PackedBatch = map_arrays(builder.batch(samples), torch.from_numpy)
        batch = batch.to(self.device)
        encoded = self.model.encode(batch)
        query_BW = self.model.queries(encoded, batch)
        encoded_at = time.perf_counter()
        asked = [requests[user] for user in samples.user.tolist()]
        past = [taken[user] for user in samples.user.tolist()]
        found, embedded = self._search(query_BW, asked, past, num_candidates or self.model.config.num_candidates)
        found_at = time.perf_counter()
        if self.model.ranker is not None and found.rows.size:
            found = self._ranked(encoded, batch, query_BW, found, embedded)
        seconds = {
            "encode": encoded_at - began,
            "search": found_at - encoded_at,
            "rank": time.perf_counter() - found_at,
        }
        num_history = samples.num_history
        return [
            _answer(found, sample, requests[user], known[user], int(num_history[sample]), seconds)
            for user, sample in enumerate(order.tolist())
        ]

    def _search(
        self,
        query_BW: torch.Tensor,
        requests: Sequence[RetrieveRequest],
        past: Sequence[Timelines],
        num_candidates: int,
    ) -> tuple[SearchResult, EmbeddedItems]:
        table = self.histories.catalogue.table
        most = max(request.k for request in requests)
        k = max(num_candidates, most) if self.model.ranker is not None else most
        excluded = [
            np.concatenate([self._seen(request, each), request.exclude, self._without(request)])
            for request, each in zip(requests, past, strict=True)
        ]
        found, embedded = self.index.search(
            query_BW.float().cpu().numpy(), min(k, len(table)), excluded=excluded, allowed=self._available()
        )
        return SearchResult(found.rows, found.scores * self.model.scale), embedded

    def _asked(self, past: Timelines, request: RetrieveRequest) -> Timelines:
        return with_request(
            past,
            time=request.time,
            items=np.zeros(1, np.int64),
            features=self.histories.context.encode({}, 1),
            statistics=np.zeros((1, past.statistics.shape[1]), np.float16),
        )

    def _available(self) -> NDArray[np.bool_] | None:
        available = self.histories.catalogue.available
        return None if available.all() else available

    def _seen(self, request: RetrieveRequest, past: Timelines) -> Ints:
        wanted = self.model.config.exclude_seen if request.exclude_seen is None else request.exclude_seen
        return past.item[past.known_time < request.time].astype(np.int64) if wanted else np.zeros(0, np.int64)

    def _without(self, request: RetrieveRequest) -> Ints:
        """Rows that have one of the values."""
        rows = [np.zeros(0, np.int64)]
        for name, values in request.without.items():
            rows.append(self.histories.catalogue.rows_with(name, values))
        return np.concatenate(rows)

    def _ranked(
        self, encoded: Encoded, batch: PackedBatch, query_BW: torch.Tensor, found: SearchResult, embedded: EmbeddedItems
    ) -> SearchResult:
        items_BMW = torch.from_numpy(embedded(found.rows)).to(self.device)
        places = torch.arange(len(query_BW), device=self.device)
        scores_BM = self.model.rank_scores(encoded, batch, places, query_PW=query_BW, items_PMW=items_BMW)
        scores = np.where(found.rows < 0, -np.inf, scores_BM.float().cpu().numpy()).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        return SearchResult(np.take_along_axis(found.rows, order, 1), np.take_along_axis(scores, order, 1))


def open_index(model: Retriever, stored: StoredIndex, catalogue: Catalogue, *, precision: Precision) -> LiveIndex:
    """The stored index over the rows of an item table; items that were added or changed since it was built are added.

    BundleError if the table has none of its items.
    """
    rows = catalogue.find(stored.ids)
    known = rows > 0
    if not known.any():
        raise BundleError(f"{stored.folder}: none of its items is in the data; run genrank index RUN --data DATA")

    def vectors(embedded: NDArray[np.float32]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = model.vectors(torch.from_numpy(embedded)).numpy()
        return made

    embedded = stored.embedded_IW if known.all() else stored.embedded_IW[known]
    index = LiveIndex(rows[known], embedded, vectors=vectors, precision=precision)
    missing = np.ones(len(catalogue.table), np.bool_)
    missing[0], missing[rows] = False, False
    add_items(index, model, catalogue, np.flatnonzero(missing | (catalogue.revisions > 0)))
    return index


def add_items(index: LiveIndex, model: Retriever, catalogue: Catalogue, rows: Ints) -> None:
    """Embed rows of the catalogue's table, and put them into the index."""
    if len(rows):
        index.put(rows, embed_all(model, catalogue.table, rows).cpu().numpy())


def _answer(
    found: SearchResult,
    sample: int,
    request: RetrieveRequest,
    known: UserHistory,
    num_history: int,
    seconds: Mapping[str, float],
) -> RetrievedItems:
    rows = found.rows[sample]
    rows = rows[rows >= 0][: request.k]
    return RetrievedItems(
        rows=rows,
        scores=found.scores[sample][: len(rows)],
        user_known=known.row > 0,
        history_current=known.current,
        num_history=num_history,
        seconds=seconds,
    )
