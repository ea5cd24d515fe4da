"""One retriever with its index, ready to search, and the answer of a pipeline with it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrank.artifacts.bundle import Bundle
from genrank.artifacts.index import load_index
from genrank.errors import RequestError
from genrank.ids import check_id
from genrank.inference.gen_retriever import check_k
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest, add_items, open_index
from genrank.inference.serving_context import ServingContext
from genrank.inference.stages import RETRIEVAL as SCORE
from genrank.inference.stages import RetrievalStage, StageCandidates, StageRequest
from genrank.nn.devices import device_named
from genrank.server.query import PipelineQuery
from genrank.server.queued_stage import QueueReport
from genrank.server.served_pipeline import PipelineOutcome
from genrank.server.service_options import ServiceOptions

RETRIEVAL = RetrievalStage.name  # of its queue, too


@dataclass(frozen=True, kw_only=True)
class RetrieveAnswer:
    """Ids and scores, best first, and how they were computed. Times in seconds."""

    user: str
    user_known: bool
    history_current: bool
    time: int
    num_history: int
    items: tuple[str, ...]
    scores: tuple[float, ...]
    model_version: str
    index_version: str
    waited: float
    seconds: Mapping[str, float]  # encode, search, rank: of the batch
    clock_behind: float = 0.0  # see RankAnswer


class OpenedIndex:
    """One retriever and one index, ready to search."""

    def __init__(self, bundle: Bundle, index: Path, context: ServingContext, options: ServiceOptions):
        """Raises BundleError and DataError if something is missing or doesn't fit."""
        device = device_named(options.device)
        self.bundle, self.context, self.options, self.model = bundle, context, options, bundle.retriever(device)
        stored = load_index(index, model=bundle.version, width=self.model.config.width)
        self.version = (bundle.version, stored.version)
        self._indexing = threading.Lock()
        self._indexed = int(context.catalogue.revisions.max())  # items that come while the index is made are new
        self.engine = RetrievalEngine(
            self.model,
            bundle.config.sequence,
            histories=context.histories,
            index=open_index(self.model, stored, context.catalogue, precision=options.index_precision),
            device=device,
        )
        self.stage = RetrievalStage(self.engine)

    def catch_up(self) -> None:
        """Read new items from the store into the index. Raises UpdatesExpired and StoreUnavailable."""
        self.context.catch_up()
        with self._indexing:
            revisions = self.context.catalogue.revisions
            rows = np.flatnonzero(revisions > self._indexed)
            add_items(self.engine.index, self.model, self.context.catalogue, rows)
            self._indexed = int(revisions.max())

    def request(self, query: PipelineQuery, candidates: StageCandidates, *, time: int) -> StageRequest:
        """The request to this retriever's stage, which replaces the candidates by those it finds; see ServedModel."""
        for name in query.exclude:
            check_id("exclude", name)
        check_k(query.k)
        if query.k > self.options.max_retrieved:
            raise RequestError(f"k is {query.k}; ask for at most {self.options.max_retrieved}")
        for name in query.without:
            self.context.catalogue.vocabulary(name)
        retrieval = RetrieveRequest(
            user=query.user,
            time=time,
            k=query.k,
            without=query.without,
            exclude=self.context.catalogue.find(query.exclude),
            exclude_seen=query.exclude_seen,
        )
        return StageRequest(user=query.user, time=time, retrieval=retrieval)

    def warm_up(self) -> None:
        """Retrieve for an unknown user, so that the first real request finds everything loaded."""
        self.engine.retrieve([RetrieveRequest(user="", time=0, k=1)])


def retrieve_answer(outcome: PipelineOutcome) -> RetrieveAnswer:
    """The answer of a pipeline with a retrieval: the candidates after its last stage."""
    report, found = outcome.reports[RETRIEVAL], outcome.candidates
    seen, (model_version, index_version) = report.candidates.user, versions(report)
    return RetrieveAnswer(
        user=outcome.query.user,
        user_known=seen.known,
        history_current=seen.history_current,
        time=outcome.time,
        num_history=seen.num_history,
        items=tuple(found.ids),
        scores=tuple(found.columns[SCORE].tolist()),
        model_version=model_version,
        index_version=index_version,
        waited=report.waited,
        seconds=report.candidates.seconds,
        clock_behind=outcome.clock_behind,
    )


def versions(report: QueueReport) -> tuple[str, str]:
    """The versions of the retriever and the index that did a retrieval."""
    assert isinstance(report.model, OpenedIndex)
    return report.model.version
