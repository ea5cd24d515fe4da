"""The retrieval service: one retriever, its index, the queue in front of it.

It shares a serving context with the ranking service, so that both see the same users and items. A new bundle or index
in the run's folder is opened beside the old one, which answers until then.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts.bundle import Bundle, load_bundle, newest_bundle
from genrank.artifacts.index import load_index, newest_index
from genrank.errors import GenRankError, RequestError
from genrank.ids import check_id
from genrank.inference.gen_retriever import check_k
from genrank.inference.histories import Histories, UserHistory
from genrank.inference.pipeline import Pipeline, PipelineAnswer, StageReport
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest, add_items, open_index
from genrank.inference.serving_context import ServingContext, ServingContexts
from genrank.inference.stages import RETRIEVAL, RetrievalStage, StageRequest
from genrank.inference.store import StoreUnavailable, UpdatesExpired
from genrank.nn.devices import device_named
from genrank.server.batcher import Batcher
from genrank.server.clock import Clock
from genrank.server.core import FOLLOW_PERIOD
from genrank.server.rarely import Rarely
from genrank.server.service_options import ServiceOptions

log = logging.getLogger("genrank.server")
LOOK_PERIOD = 1.0  # seconds between checks for another bundle or index
BATCH = 8  # most retrievals in a batch


@dataclass(frozen=True, kw_only=True)
class RetrievalQuery:
    """A request for items: see RetrieveRequest. exclude: ids. time: None for now."""

    user: str
    k: int = 500
    time: int | None = None
    without: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    exclude_seen: bool | None = None


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
    stages: tuple[StageReport, ...] = ()  # what each stage of the pipeline did
    histories: Mapping[Histories, UserHistory] = field(default_factory=dict)  # see StageCandidates


@dataclass(frozen=True)
class _PendingRetrieval:
    wanted: RetrievalQuery
    time: int
    began: float
    clock_behind: float


class _Opened:
    """One retriever and one index, ready to search."""

    def __init__(self, bundle: Bundle, index: Path, context: ServingContext, options: ServiceOptions):
        device = device_named(options.device)
        self.bundle, self.context, self.model = bundle, context, bundle.retriever(device)
        stored = load_index(index, model=bundle.version, width=self.model.config.width)
        self.version = (bundle.version, stored.version)
        self._indexing = threading.Lock()
        self._indexed = int(
            context.catalogue.revisions.max()
        )  # before the index is made: items that come meanwhile are new
        self.engine = RetrievalEngine(
            self.model,
            bundle.config.sequence,
            histories=context.histories,
            index=open_index(self.model, stored, context.catalogue, precision=options.index_precision),
            device=device,
        )
        self.pipeline = Pipeline([RetrievalStage(self.engine)])

    def catch_up(self) -> None:
        """Read new items from the store into the index. Raises UpdatesExpired and StoreUnavailable."""
        self.context.catch_up()
        with self._indexing:
            revisions = self.context.catalogue.revisions
            rows = np.flatnonzero(revisions > self._indexed)
            add_items(self.engine.index, self.model, self.context.catalogue, rows)
            self._indexed = int(revisions.max())


class RetrievalService:
    """Retrieves for the users of a store. Safe to use from several threads."""

    def __init__(
        self,
        run: Path,
        *,
        contexts: ServingContexts,
        options: ServiceOptions,
        clock: Clock | None = None,
    ):
        """run: folder of a retriever's run, with an index. contexts: those of the ranking service.

        Raises BundleError and DataError if something is missing or doesn't fit.
        """
        self.run, self.contexts, self.options = run, contexts, options
        self.clock = clock or Clock()
        self._opening = threading.Lock()
        self.opened = self._open()
        self._failed: tuple[tuple[str, str], tuple[int, ...]] | None = None
        self._troubles = Rarely()
        self._batcher: Batcher[_PendingRetrieval, RetrieveAnswer] = Batcher(
            self._work, cost=lambda _: 1.0, batch_cost=float(BATCH), wait=options.wait
        )
        self._stopping = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="genrank-index-follower", daemon=True)
        self._follower.start()

    @property
    def expected_wait(self) -> float:
        """Seconds that a retrieval would wait now."""
        return self._batcher.expected_wait

    def failure(self) -> str:
        """Why retrieval, or the check for new indexes, has stopped; empty if all is well."""
        if not self._stopping.is_set() and not self._follower.is_alive():
            return "the thread that follows the index has ended; start the service again"
        return self._batcher.failure and f"retrieval: {self._batcher.failure}"

    def retrieve(self, wanted: RetrievalQuery) -> "Future[RetrieveAnswer]":
        """The future answer. Raises RequestError for a bad query, Overloaded if there is no time for it."""
        check_id("user", wanted.user)
        for name in wanted.exclude:
            check_id("exclude", name)
        check_k(wanted.k)
        if wanted.k > self.options.max_retrieved:
            raise RequestError(f"k is {wanted.k}; ask for at most {self.options.max_retrieved}")
        for name in wanted.without:
            self.opened.context.catalogue.vocabulary(name)
        when, behind = self.clock.of(wanted.time)
        return self._batcher.submit(
            _PendingRetrieval(wanted, when, time.monotonic(), behind), within=self.options.deadline
        )

    def catch_up(self) -> None:
        """Read what is new in the store, written by this process or another. Raises StoreUnavailable."""
        try:
            self.opened.catch_up()
        except UpdatesExpired:
            with self._opening:
                try:
                    self.opened.catch_up()  # another thread may have opened it again meanwhile
                except UpdatesExpired:
                    self.opened = self._open()

    def look(self) -> bool:
        """Open a new bundle or index if there is one; returns whether it is in use. If it fails, the old one stays."""
        try:
            newest = (newest_bundle(self.run).resolve().name, newest_index(self.run / "index").resolve().name)
            if newest == self.opened.version:
                self._troubles.over()
                return False
            pointers = (self.run / "bundle" / "latest", self.run / "index" / "latest")
            written = tuple(pointer.stat().st_ino for pointer in pointers if pointer.exists())  # new with every write
            if (newest, written) == self._failed:
                return False
            self._failed = (newest, written)  # until it has been opened
            self.opened = self._open()
            self.catch_up()  # items that came while it was opened
        except (StoreUnavailable, UpdatesExpired):
            self._failed = None  # the store's fault: try the index again
            return False
        except GenRankError as problem:
            self._troubles.say(log.error, f"retrieval keeps its index: {problem}")
            return False
        self._failed = None
        self._troubles.over()
        log.info("retrieval now searches index %s of model %s", newest[1], newest[0])
        return True

    def stop(self) -> None:
        """Finish the waiting requests, and accept no more."""
        self._batcher.stop()
        self._stopping.set()
        self._follower.join()

    def _open(self) -> _Opened:
        bundle = load_bundle(self.run)
        context = self.contexts.of(bundle, Path(bundle.config.data))
        opened = _Opened(bundle, self.run / "index", context, self.options)
        opened.engine.retrieve([RetrieveRequest(user="", time=0, k=1)])  # so that everything is loaded
        return opened

    def _follow(self) -> None:
        looked = time.monotonic()
        while not self._stopping.wait(FOLLOW_PERIOD):
            try:
                if self.contexts.store.shared:
                    self.catch_up()
                if time.monotonic() - looked > LOOK_PERIOD:
                    looked = time.monotonic()
                    self.look()
            except StoreUnavailable:
                continue  # the ranking service has logged it
            except Exception as problem:  # noqa: BLE001 - nothing in the store or the folder may end this thread
                self._troubles.say(log.exception, f"retrieval could not read what is new: {problem!r}")

    def _work(self, batch: Sequence[_PendingRetrieval]) -> list[RetrieveAnswer]:
        opened, begun = self.opened, time.monotonic()
        answers = opened.pipeline.run([_stage_request(opened, asked) for asked in batch])
        return [
            _answer(opened, asked, answer, begun - asked.began) for asked, answer in zip(batch, answers, strict=True)
        ]


def _stage_request(opened: _Opened, asked: _PendingRetrieval) -> StageRequest:
    wanted = asked.wanted
    retrieval = RetrieveRequest(
        user=wanted.user,
        time=asked.time,
        k=wanted.k,
        without=wanted.without,
        exclude=opened.context.catalogue.find(wanted.exclude),
        exclude_seen=wanted.exclude_seen,
    )
    return StageRequest(user=wanted.user, time=asked.time, retrieval=retrieval)


def _answer(opened: _Opened, asked: _PendingRetrieval, answer: PipelineAnswer, waited: float) -> RetrieveAnswer:
    found = answer.candidates
    return RetrieveAnswer(
        user=asked.wanted.user,
        user_known=found.user.known,
        history_current=found.user.history_current,
        time=asked.time,
        num_history=found.user.num_history,
        items=tuple(found.ids),
        scores=tuple(found.columns[RETRIEVAL].tolist()),
        model_version=opened.version[0],
        index_version=opened.version[1],
        waited=waited,
        seconds=found.seconds,
        clock_behind=asked.clock_behind,
        stages=answer.reports,
        histories=found.histories,
    )
