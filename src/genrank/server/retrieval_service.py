"""The retrieval service: one retriever, its index, the queue in front of it.

It shares a serving context with the ranking service, so that both see the same users and items. A new bundle or index
in the run's folder is opened beside the old one, which answers until then.
"""

import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from genrank.artifacts.bundle import load_bundle, newest_bundle
from genrank.artifacts.index import newest_index
from genrank.errors import GenRankError
from genrank.inference.serving_context import ServingContexts
from genrank.inference.store import StoreUnavailable, UpdatesExpired
from genrank.server.clock import Clock
from genrank.server.opened_index import RETRIEVAL, OpenedIndex, RetrieveAnswer, retrieve_answer
from genrank.server.pipelines import RETRIEVE, pipelines_of
from genrank.server.query import PipelineQuery
from genrank.server.queued_stage import QueuedStage
from genrank.server.ranking_service import FOLLOW_PERIOD
from genrank.server.rarely import Rarely
from genrank.server.served_pipeline import then
from genrank.server.service_options import ServiceOptions

log = logging.getLogger("genrank.server")
LOOK_PERIOD = 1.0  # seconds between checks for another bundle or index
BATCH = 8  # most retrievals in a batch


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
        self.stage = QueuedStage(
            RETRIEVAL,
            lambda: self.opened,
            cost=lambda _: 1.0,
            batch_cost=float(BATCH),
            wait=options.wait,
            deadline=options.deadline,
            needs_candidates=False,
        )
        self._stopping = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="genrank-index-follower", daemon=True)
        self._follower.start()

    def failure(self) -> str:
        """Why retrieval, or the check for new indexes, has stopped; empty if all is well."""
        if not self._stopping.is_set() and not self._follower.is_alive():
            return "the thread that follows the index has ended; start the service again"
        return self.stage.failure

    def retrieve(self, query: PipelineQuery) -> "Future[RetrieveAnswer]":
        """The future answer of /v1/retrieve, without HTTP. Raises what ServedPipeline.submit raises."""
        return then(pipelines_of(self.clock, retrieval=self.stage)[RETRIEVE].submit(query), retrieve_answer)

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
        self.stage.stop()
        self._stopping.set()
        self._follower.join()

    def _open(self) -> OpenedIndex:
        bundle = load_bundle(self.run)
        context = self.contexts.of(bundle, Path(bundle.config.data))
        opened = OpenedIndex(bundle, self.run / "index", context, self.options)
        opened.warm_up()
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
