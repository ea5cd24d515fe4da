"""The ranking service without its web: one model, its users' histories, the queue in front of it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genrank.data.manifest import Manifest
from genrank.data.sequence import window_start
from genrank.data.tables import FeatureTable
from genrank.errors import RequestError
from genrank.retrieval.search import Precision
from genrank.runs.train import device_named
from genrank.service.batcher import Batcher
from genrank.serving.bundle import Bundle, require_same_schema
from genrank.serving.catalogue import Catalogue, Item
from genrank.serving.engine import Cache, Engine, EngineRequest, Scored, history_cache
from genrank.serving.histories import Histories, PastInMemory
from genrank.serving.live import ServedStatistics
from genrank.serving.ranker import Place, check_candidates, check_value, in_order
from genrank.serving.request_log import RequestLog, ServedRanking
from genrank.serving.store import Behind, Event, EventStore, StoreUnavailable

log = logging.getLogger("genrank.service")
MIB = 2**20
FOLLOW_PERIOD = 0.2  # seconds between looks for what other processes wrote
REQUEST_COST = 50.0  # of a request, in candidates


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How a service runs.

    max_candidates, max_retrieved, max_events, max_items: of one call. deadline: seconds within which a ranking is
    answered or refused.
    batch_candidates: of the rankings that are done together. wait: seconds for others to join them. values: named value
    formulas, weights by task; "" is the run's own.
    """

    max_candidates: int = 2000
    max_retrieved: int = 5000
    max_events: int = 1000
    max_items: int = 1000
    deadline: float = 0.5
    batch_candidates: int = 2000
    wait: float = 0.001
    cache_bytes: int = 512 * MIB  # of encoded histories
    decoded_bytes: int = 256 * MIB  # of histories as they are before that
    threads: int = 1  # of PyTorch; small models serve fastest with one, and scale by workers. 0: as many as it takes
    device: str = "auto"  # a GPU where there is one
    precision: Literal["fp32", "bf16"] = "fp32"
    index_precision: Precision = "int8"  # of the first look at the vectors of a retriever's index
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_candidates", "max_retrieved", "max_events", "max_items", "batch_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.deadline <= 0 or min(self.wait, self.cache_bytes, self.decoded_bytes) < 0:
            raise ValueError("deadline must be above 0, wait, cache_bytes and decoded_bytes 0 or more")


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """What a caller asks. time: seconds since the epoch, None for now. context: see FeatureEncoder.encode."""

    user: str
    candidates: tuple[str, ...]
    time: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # wanted in the answer; empty: all
    value: Mapping[str, float] | str = ""
    top_k: int = 0  # 0: all


@dataclass(frozen=True, kw_only=True)
class RankAnswer:
    """Candidates in falling order of value, and how the answer came about. Times in seconds."""

    user: str
    user_known: bool
    history_current: bool  # false: the store was out of reach, and events may be missing
    time: int
    num_history: int
    num_encoded: int
    places: tuple[Place, ...]
    model_version: str
    waited: float
    worked: float


@dataclass(frozen=True)
class _Asked:
    deployed: "Deployment"  # at the time of asking: its tasks and features are what the request was checked for
    request: RankRequest
    time: int
    weights: Mapping[str, float]
    began: float


class Deployment:
    """One model ready to rank: its tables, its users' past, its engine."""

    def __init__(
        self,
        bundle: Bundle,
        data: Path,
        *,
        store: EventStore,
        cache: Cache,
        options: ServiceOptions,
        until: int | None = None,
    ):
        """`data`: a prepared folder with the users' past, up to `until` (seconds, exclusive) if given.

        Raises BundleError, DataError and RequestError for what is missing or of another schema, StoreUnavailable.
        """
        manifest = Manifest.load(data)
        require_same_schema(bundle, data, manifest)
        self.bundle, self.spec = bundle, bundle.manifest.spec
        for weights in options.values.values():
            check_value(weights, self.spec)
        table, users = (FeatureTable.load(data, owner, self.spec) for owner in ("item", "user"))
        self.catalogue = Catalogue(table, data, bundle.manifest)
        self.store, self._following = store, threading.Lock()
        stored = store.snapshot(events=bool(self.spec.statistics))
        self._position = stored.position
        if stored.items:
            self.catalogue.put(stored.items)
        self.histories = Histories(
            data,
            bundle.manifest,
            past=PastInMemory(data, self.spec, until=until),
            catalogue=self.catalogue,
            users=users,
            store=store,
            max_bytes=options.decoded_bytes,
        )
        self.statistics = (
            ServedStatistics(data, bundle.manifest, self.histories, events=stored.events, until=until)
            if self.spec.statistics
            else None
        )
        device = device_named(options.device)
        self.engine = Engine(
            bundle.model(device),
            bundle.config.sequence,
            version=bundle.version,
            histories=self.histories,
            users=users,
            statistics=None if self.statistics is None else self.statistics.answers,
            cache=cache,
            device=device,
            dtype=options.precision,
        )

    def rank(self, batch: Sequence[_Asked]) -> list[RankAnswer]:
        """The answers, in order."""
        begun = time.monotonic()
        rows = [self.catalogue.find(asked.request.candidates) for asked in batch]
        found = self.engine.score(
            [
                EngineRequest(user=asked.request.user, items=items, time=asked.time, context=asked.request.context)
                for asked, items in zip(batch, rows, strict=True)
            ]
        )
        worked, version = time.monotonic() - begun, self.bundle.version
        return [
            _answer(asked, scored, items > 0, version=version, times=(begun - asked.began, worked))
            for asked, scored, items in zip(batch, found, rows, strict=True)
        ]

    def catch_up(self) -> None:
        """Learn what has changed in the store, a call at a time. Histories look there by themselves.

        Raises Behind where too much has changed to be told, StoreUnavailable.
        """
        with self._following:
            updates, self._position = self.store.updates(self._position)
            for update in updates:
                try:
                    if update.items:
                        self.catalogue.put(update.items)
                except RequestError as problem:
                    log.error("an item that another process has put is left out: %s", problem)
                if update.changes and self.statistics is not None:
                    self.statistics.count(update.changes)

    def warm_up(self) -> None:
        """A request of nobody's, so that the first one of somebody's finds everything loaded."""
        self.engine.score([EngineRequest(user="", items=np.zeros(1, np.int64), time=0)])


class RankingService:
    """Ranks, and learns of events and items while it does. Safe to use from several threads."""

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
        """`data`: see Deployment; by default what each model was trained on. request_log: takes every ranking."""
        if options.threads:
            torch.set_num_threads(options.threads)
        self.data, self.store, self.options, self.until = data, store, options, until
        self.request_log = request_log
        self.cache: Cache = history_cache(options.cache_bytes)
        self._swapping = threading.Lock()
        self.readers: list[Callable[[], None]] = []  # called when the store has something new
        self.deployed: Deployment
        self._deploy(bundle)
        self._batcher: Batcher[_Asked, RankAnswer] = Batcher(
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
    def version(self) -> str:
        """Of the model that ranks."""
        return self.deployed.bundle.version

    def swap(self, bundle: Bundle) -> None:
        """Rank with another model from the next batch on; requests in flight end with the one before.

        Raises what Deployment raises, and the service goes on with the model that it has.
        """
        with self._swapping:
            before = self.deployed.bundle.version
            self._deploy(bundle)
            self.cache.remove_where(lambda key: key[0] == before != bundle.version)

    def _deploy(self, bundle: Bundle) -> None:
        data = self.data if self.data is not None else Path(bundle.config.data)
        made = Deployment(bundle, data, store=self.store, cache=self.cache, options=self.options, until=self.until)
        made.warm_up()
        made.catch_up()
        self.deployed = made
        made.catch_up()  # with what came for the one before

    def catch_up(self) -> None:
        """Learn what has come to the store, from this process or another. Raises StoreUnavailable."""
        try:
            self.deployed.catch_up()
        except Behind:
            with self._swapping:
                self._deploy(self.deployed.bundle)
                self.cache.remove_where(lambda _: True)  # a store that lost its past counts revisions anew

    @property
    def expected_wait(self) -> float:
        """Seconds that a ranking would wait now."""
        return self._batcher.expected_wait

    def rank(self, request: RankRequest) -> "Future[RankAnswer]":
        """The answer to come. Raises RequestError for what can't be ranked, Overloaded where there's no time for it."""
        deployed = self.deployed
        self._check(deployed, request)
        weights = self._weights(deployed, request.value)
        when = int(time.time()) if request.time is None else request.time
        asked = _Asked(deployed, request, when, weights, time.monotonic())
        future = self._batcher.submit(asked, within=self.options.deadline)
        if self.request_log is not None:
            future.add_done_callback(lambda done: self._note(asked, done))
        return future

    def take_events(self, events: Sequence[Event]) -> int:
        """Keep the events; how many were new or changed. All or none: RequestError where one makes no sense."""
        if len(events) > self.options.max_events:
            raise RequestError(f"{len(events)} events in one call; send at most {self.options.max_events}")
        for event in events:
            if not event.user or not event.item:
                raise RequestError("an event's user or item is empty; give both")
            self.deployed.histories.check(event)
        changes = self.store.append(events)
        self._learn()
        return len(changes)

    def put_items(self, items: Sequence[Item]) -> int:
        """Add or change items; how many were new. All or none: RequestError."""
        if len(items) > self.options.max_items:
            raise RequestError(f"{len(items)} items in one call; send at most {self.options.max_items}")
        for item in items:
            self.deployed.catalogue.check(item)
        names = list({item.id: item for item in items})
        new = int((self.deployed.catalogue.find(names) == 0).sum())
        self.store.put_items(items)
        self._learn()
        return new

    def user(self, user: str) -> dict[str, Any]:
        """A user's history as the model would see it now: `user`, `known`, `current`, `exposures`, `window`."""
        deployed = self.deployed
        history = deployed.engine.history(user)
        t = history.timeline
        begin = int(window_start(np.array([t.num_exposures]), deployed.engine.sequence.max_history)[0])
        rows = range(begin, t.num_exposures)
        window = [
            {
                "item": str(deployed.catalogue.table.ids[int(t.item[row])]),
                "time": int(t.time[row]),
                "actions": {name: _plain(column[row]) for name, column in t.tasks.items()},
            }
            for row in rows
        ]
        return {
            "user": user,
            "known": history.row > 0,
            "current": history.current,
            "exposures": history.dropped + t.num_exposures,
            "window": window,
        }

    def stop(self) -> None:
        """Finish what waits, take no more, close the store."""
        self._batcher.stop()
        self._stopping.set()
        if self._follower.is_alive():
            self._follower.join()
        if self.request_log is not None:
            self.request_log.close()
        self.store.close()

    def _note(self, asked: _Asked, done: "Future[RankAnswer]") -> None:
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

    def _learn(self) -> None:
        """What is in the store now. It is kept, so that the caller must not hear of trouble: the follower goes on."""
        with suppress(StoreUnavailable):
            self.catch_up()
            for read in self.readers:
                read()

    def _follow(self) -> None:
        """Learn what other processes have written, until stopped."""
        reached = True
        while not self._stopping.wait(FOLLOW_PERIOD):
            try:
                self.catch_up()
                if not reached:
                    log.warning("the store answers again")
                reached = True
            except StoreUnavailable as problem:
                if reached:
                    log.error("%s; until it does, rankings take users' events as they were last seen", problem)
                reached = False
            except Exception:  # the service must outlive whatever is in the store
                log.exception("the service could not learn what is new in the store")

    def _check(self, deployed: Deployment, request: RankRequest) -> None:
        check_candidates(request.candidates)
        if len(request.candidates) > self.options.max_candidates:
            raise RequestError(
                f"{len(request.candidates)} candidates in one call; send at most {self.options.max_candidates}"
            )
        tasks = [task.name for task in deployed.spec.tasks]
        for task in request.tasks:
            if task not in tasks:
                raise RequestError(f"tasks: there is no task {task!r}; there is {', '.join(tasks)}")
        if request.top_k < 0:
            raise RequestError(f"top_k is {request.top_k}; it must be 0 (all) or more")
        deployed.histories.context.encode(request.context, len(request.candidates))

    def _weights(self, deployed: Deployment, value: Mapping[str, float] | str) -> Mapping[str, float]:
        if not isinstance(value, str):
            check_value(value, deployed.spec)
            return value
        if value and value not in self.options.values:
            known = ", ".join(self.options.values) or "none"
            raise RequestError(f"value: there is no formula {value!r}; there is {known}; or give weights by task")
        return self.options.values[value] if value else deployed.bundle.config.value

    def _work(self, batch: Sequence[_Asked]) -> list[RankAnswer]:
        answers: dict[int, RankAnswer] = {}
        for deployed in dict.fromkeys(asked.deployed for asked in batch):  # two, if the model was swapped just now
            own = [place for place, asked in enumerate(batch) if asked.deployed is deployed]
            answers |= zip(own, deployed.rank([batch[place] for place in own]), strict=True)
        return [answers[place] for place in range(len(batch))]


def _answer(
    asked: _Asked, scored: Scored, known: NDArray[np.bool_], *, version: str, times: tuple[float, float]
) -> RankAnswer:
    request = asked.request
    places = in_order(request.candidates, scored.scores, known=known, weights=asked.weights)
    return RankAnswer(
        user=request.user,
        user_known=scored.user_known,
        history_current=scored.history_current,
        time=asked.time,
        num_history=scored.num_history,
        num_encoded=scored.num_encoded,
        places=places[: request.top_k] if request.top_k else places,
        model_version=version,
        waited=times[0],
        worked=times[1],
    )


def _plain(value: Any) -> bool | float | None:
    """A task's value as it was sent: bool, seconds, None for unknown."""
    if value.dtype == np.int8:
        return None if value < 0 else bool(value)
    return None if np.isnan(value) else float(value)
