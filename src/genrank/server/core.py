"""The ranking service without HTTP: one model, its users' histories, the queue in front of it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrank.artifacts.bundle import Bundle
from genrank.data.sequence import window_start
from genrank.errors import GenRankError, RequestError, shown
from genrank.ids import check_id
from genrank.inference.catalogue import Item
from genrank.inference.gen_ranker import check_candidates, check_value
from genrank.inference.ranking_engine import Cache, history_cache
from genrank.inference.request_log import RequestLog, ServedRanking
from genrank.inference.serving_context import ServingContexts
from genrank.inference.store import Event, EventStore, StoreUnavailable, UpdatesExpired
from genrank.server.batcher import Batcher
from genrank.server.clock import Clock
from genrank.server.deployment import Deployment, PendingRanking, RankAnswer, RankRequest
from genrank.server.rarely import Rarely
from genrank.server.service_options import ServiceOptions

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
        self.contexts = ServingContexts(store, max_bytes=options.decoded_bytes, until=until)
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
        self._batcher: Batcher[PendingRanking, RankAnswer] = Batcher(
            self._work,
            cost=lambda asked: REQUEST_COST + len(asked.request.candidates),
            batch_cost=float(options.batch_candidates),
            wait=options.wait,
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

    @property
    def expected_wait(self) -> float:
        """Seconds that a ranking would wait now."""
        return self._batcher.expected_wait

    def failure(self) -> str:
        """Why rankings, or reads of what other processes wrote, have stopped; empty if all is well."""
        if self.store.shared and not self._stopping.is_set() and not self._follower.is_alive():
            return "the thread that follows the store has ended; start the service again"
        return self._batcher.failure and f"ranking: {self._batcher.failure}"

    def rank(self, request: RankRequest) -> "Future[RankAnswer]":
        """The future answer. Raises RequestError for a bad request, Overloaded if there is no time for it."""
        deployed = self.deployed
        if request.of_each:
            context = deployed.context.histories.context.of_each(request.context, request.of_each)
            request = replace(request, context=context, of_each=frozenset())
        self._check(deployed, request)
        weights = self._weights(deployed, request.value)
        when, behind = self.clock.of(request.time)
        asked = PendingRanking(deployed, request, when, weights, time.monotonic(), behind)
        future = self._batcher.submit(asked, within=self.options.deadline)
        if self.request_log is not None:
            future.add_done_callback(lambda done: self._note(asked, done))
        return future

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
        """A user's history as the model would see it now: `user`, `known`, `current`, `exposures`, `window`."""
        deployed = self.deployed
        history = deployed.context.histories.of(user)
        t = history.timeline
        begin = int(window_start(np.array([t.num_exposures]), deployed.engine.sequence.max_history)[0])
        rows = range(begin, t.num_exposures)
        window = [
            {
                "item": str(deployed.context.catalogue.table.ids[int(t.item[row])]),
                "time": int(t.time[row]),
                "actions": {name: _plain(column[row]) for name, column in t.tasks.items()},
            }
            for row in rows
        ]
        return {
            "user": user,
            "known": history.row > 0,
            "current": history.current,
            "exposures": t.num_exposures,
            "window": window,
        }

    def stop(self) -> None:
        """Finish the waiting requests, accept no more, close the store."""
        self._batcher.stop()
        self._stopping.set()
        if self._follower.is_alive():
            self._follower.join()
        if self.request_log is not None:
            self.request_log.close()
        self.store.close()

    def _note(self, asked: PendingRanking, done: "Future[RankAnswer]") -> None:
        assert self.request_log is not None
        if done.cancelled() or done.exception() is not None:
            return
        answer = done.result()
        ranking = ServedRanking(
            model=answer.model_version,
            user=asked.request.user,
            candidates=asked.request.candidates,
            time=asked.time,
            history=answer.num_history,
            history_current=answer.history_current,
            scores={place.item: place.scores for place in answer.places},
            context=asked.request.context,
        )
        self.request_log.note(ranking, asked.deployed.bundle.folder)

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

    def _check(self, deployed: Deployment, request: RankRequest) -> None:
        check_id("user", request.user)
        if len(request.candidates) > self.options.max_candidates:
            raise RequestError(
                f"{len(request.candidates)} candidates in one call; send at most {self.options.max_candidates}"
            )
        check_candidates(request.candidates)
        tasks = [task.name for task in deployed.spec.tasks]
        for task in request.tasks:
            if task not in tasks:
                raise RequestError(f"tasks: there is no task {shown(task)}; choose from {', '.join(tasks)}")
        if request.top_k < 0:
            raise RequestError(f"top_k is {request.top_k}; it must be 0 (all) or more")
        deployed.context.histories.context.encode(request.context, len(request.candidates))

    def _weights(self, deployed: Deployment, value: Mapping[str, float] | str) -> Mapping[str, float]:
        if not isinstance(value, str):
            check_value(value, deployed.spec)
            return value
        if value and value not in self.options.values:
            known = ", ".join(self.options.values) or "none"
            raise RequestError(
                f"value: there is no formula {shown(value)} ({known}); choose one, or give weights by task"
            )
        return self.options.values[value] if value else deployed.bundle.config.value

    def _work(self, batch: Sequence[PendingRanking]) -> list[RankAnswer]:
        answers: dict[int, RankAnswer] = {}
        for deployed in dict.fromkeys(asked.deployed for asked in batch):  # two, if the model was just swapped
            own = [place for place, asked in enumerate(batch) if asked.deployed is deployed]
            answers |= zip(own, deployed.rank([batch[place] for place in own]), strict=True)
        return [answers[place] for place in range(len(batch))]


def _plain(value: Any) -> bool | float | None:
    """A task's value as it was sent: bool, seconds, None for unknown."""
    if value.dtype == np.int8:
        return None if value < 0 else bool(value)
    return None if np.isnan(value) else float(value)
