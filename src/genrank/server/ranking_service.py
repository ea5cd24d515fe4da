"""The ranking service without HTTP: one model, its users' histories, the queue in front of it."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from genrank.artifacts.bundle import Bundle
from genrank.errors import GenRankError, RequestError
from genrank.inference.catalogue import Item
from genrank.inference.gen_ranker import ranked_items
from genrank.inference.pasts import PastLimits
from genrank.inference.ranking_engine import Cache, history_cache
from genrank.inference.request_log import RequestLog, ServedRanking
from genrank.inference.serving_context import ServingContexts
from genrank.inference.store import Event, EventStore, StoreUnavailable, UpdatesExpired
from genrank.server.clock import Clock
from genrank.server.deployment import RANKING, Deployment, RankAnswer, rank_answer
from genrank.server.pipelines import RANK, pipelines_of
from genrank.server.query import PipelineQuery
from genrank.server.queued_stage import QueuedStage, QueueReport, StageJob
from genrank.server.rarely import Rarely
from genrank.server.served_pipeline import then
from genrank.server.service_options import ServiceOptions
from genrank.server.shown_history import shown_history

log = logging.getLogger("genrank.server")
FOLLOW_PERIOD = 0.2  # seconds between reads of what other processes wrote
ATTEMPTS = 3  # attempts to deploy a model while many events are written to the store
REQUEST_COST = 50.0  # fixed cost of a request, in the cost of one candidate


class RankingService:
    """Ranks candidates, and takes events and items meanwhile. Safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        data: Path | None = None,
        *,
        store: EventStore,
        options: ServiceOptions,
        until: int | None = None,
        request_log: RequestLog | None = None,
    ):
        """data: see ServingContext; None: the data that each model was trained on. request_log: logs every ranking."""
        if options.threads:
            torch.set_num_threads(options.threads)
        self.data, self.store, self.options = data, store, options
        self.contexts = ServingContexts(
            store,
            max_bytes=options.decoded_bytes,
            past_limits=PastLimits(max_exposures=options.max_exposures, max_bytes=options.timeline_bytes),
            until=until,
        )
        self.request_log = request_log
        self.cache: Cache = history_cache(options.cache_bytes)
        self._swapping, self._putting = threading.Lock(), threading.Lock()
        self._troubles = Rarely()
        self.readers: list[Callable[[], None]] = []  # called after events or items were stored
        self.vital: list[Callable[[], str]] = [self.failure]  # each returns what has failed, or an empty text
        self.deployed: Deployment
        self._deploy(bundle)
        logged = 0 if until is not None else self.deployed.bundle.manifest.split.last_time
        self.clock = Clock(earliest=max(logged, store.last_written()))  # now is not before the newest data
        self.stage = QueuedStage(
            RANKING,
            lambda: self.deployed,
            cost=lambda candidates: REQUEST_COST + len(candidates),
            batch_cost=float(options.batch_candidates),
            wait=options.wait,
            deadline=options.deadline,
            noted=None if request_log is None else self._note,
        )
        self._stopping = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="genrank-follower", daemon=True)
        if store.shared:
            self._follower.start()

    @property
    def device(self) -> torch.device:
        """The device of the model that ranks."""
        return self.deployed.engine.device

    @property
    def version(self) -> str:
        """The version of the model that ranks."""
        return self.deployed.bundle.version

    def swap(self, bundle: Bundle) -> None:
        """Rank with another model from the next batch on; requests in flight are finished by the earlier one.

        Raises what Deployment raises; the service then keeps its model.
        """
        with self._swapping:
            before = self.deployed.bundle.version
            self._deploy(bundle)
            self.cache.remove_where(lambda key: key[0] == before != bundle.version)

    def _deploy(self, bundle: Bundle) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._deploy_once(bundle)
                return
            except UpdatesExpired:  # more updates came meanwhile than the store keeps: begin again with all of it
                if attempt == ATTEMPTS - 1:
                    raise

    def _deploy_once(self, bundle: Bundle) -> None:
        data = self.data if self.data is not None else Path(bundle.config.data)
        made = Deployment(bundle, self.contexts.of(bundle, data), cache=self.cache, options=self.options)
        made.warm_up()
        made.context.catch_up()
        self.deployed = made

    def catch_up(self) -> None:
        """Read what is new in the store, written by this process or another. Raises StoreUnavailable."""
        try:
            self.deployed.context.catch_up()
        except UpdatesExpired:
            with self._swapping:
                try:
                    self.deployed.context.catch_up()  # another thread may have deployed the model again meanwhile
                except UpdatesExpired:
                    self._deploy(self.deployed.bundle)
                    self.cache.remove_where(lambda _: True)  # a store that lost its content restarts its revisions

    def failure(self) -> str:
        """Why rankings, or reads of what other processes wrote, have stopped; empty if all is well."""
        if self.store.shared and not self._stopping.is_set() and not self._follower.is_alive():
            return "the thread that follows the store has ended; start the service again"
        return self.stage.failure

    def rank(self, query: PipelineQuery) -> "Future[RankAnswer]":
        """The future answer of /v1/rank, without HTTP. Raises what ServedPipeline.submit raises."""
        return then(pipelines_of(self.clock, ranking=self.stage)[RANK].submit(query), rank_answer)

    def take_events(self, events: Sequence[Event]) -> int:
        """Store the events; returns how many were new or changed. All or none: RequestError if one is invalid."""
        if len(events) > self.options.max_events:
            raise RequestError(f"{len(events)} events in one call; send at most {self.options.max_events}")
        for event in events:
            if not event.user or not event.item:
                raise RequestError("an event's user or item is empty; give both")
            self.clock.check(event)
            self.deployed.context.histories.check(event)
        changes = self.store.append(events)
        self._read_store()
        return len(changes)

    def put_items(self, items: Sequence[Item]) -> int:
        """Add or change items; returns how many were new. All or none: RequestError if one is invalid."""
        if len(items) > self.options.max_items:
            raise RequestError(f"{len(items)} items in one call; send at most {self.options.max_items}")
        for item in items:
            self.deployed.context.catalogue.check(item)
        names = list({item.id: item for item in items})
        new = int((self.deployed.context.catalogue.find(names) == 0).sum())
        with self._putting:  # the model reads each call before the next: if far behind, it would be deployed again
            self._check_room(new)
            self.store.put_items(items)
            self._read_store()
        return new

    def _check_room(self, new: int) -> None:
        added, most = self.deployed.context.catalogue.num_added, self.options.max_new_items
        if new and added + new > most:
            raise RequestError(
                f"{new} new items after {added} that were added since the data was prepared, at most {most} are taken; "
                "prepare the data again, or raise --set max_new_items"
            )

    def user(self, user: str) -> dict[str, Any]:
        """A user's history as the model would see it now; see shown_history."""
        return shown_history(self.deployed, user)

    def stop(self) -> None:
        """Finish the waiting requests, accept no more, close the store."""
        self.stage.stop()
        self._stopping.set()
        if self._follower.is_alive():
            self._follower.join()
        if self.request_log is not None:
            self.request_log.close()
        self.store.close()

    def _note(self, job: StageJob, report: QueueReport) -> None:
        assert self.request_log is not None
        assert isinstance(job.model, Deployment)
        ranked, request = report.candidates, job.request
        ranking = ServedRanking(
            model=job.model.bundle.version,
            user=request.user,
            candidates=tuple(job.candidates.ids),
            time=request.time,
            history=ranked.user.num_history,
            history_current=ranked.user.history_current,
            scores={place.item: place.scores for place in ranked_items(ranked, job.model.tasks)},
            context=job.candidates.context(job.model.context.histories.context, request.context),
        )
        self.request_log.note(ranking, job.model.bundle.folder)

    def _read_store(self) -> None:
        """Read what was stored. Failures are logged, not raised, because the data is stored and will be read later."""
        for read in (self.catch_up, *self.readers):
            try:
                read()
            except GenRankError as problem:
                self._troubles.say(log.error, f"new events and items are stored, but could not be read yet: {problem}")

    def _follow(self) -> None:
        """Read what other processes write to the store, until stopped."""
        reached = True
        while not self._stopping.wait(FOLLOW_PERIOD):
            try:
                self.catch_up()
                if not reached:
                    log.warning("the store answers again")
                reached = True
            except StoreUnavailable as problem:
                if reached:
                    log.error("%s; until then, rankings use the events that were read before", problem)
                reached = False
            except Exception as problem:  # noqa: BLE001 - nothing in the store may end this thread
                trouble = f"the service could not read what is new in the store: {type(problem).__name__}: {problem}"
                self._troubles.say(log.exception, trouble)
