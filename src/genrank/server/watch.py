"""Follows a folder of published models: the service ranks with the version that is current there."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from genrank.artifacts.bundle import load_bundle
from genrank.errors import GenRankError
from genrank.inference.published import check_golden, current
from genrank.inference.store import StoreUnavailable, UpdatesExpired
from genrank.nn.devices import precision_on
from genrank.server.ranking_service import RankingService
from genrank.server.rarely import Rarely

log = logging.getLogger("genrank.server")
PERIOD = 1.0  # seconds between checks


class Watcher:
    """Checks `models` in a separate thread. A version that fails is logged and not tried again until it is published
    again. If the current version is missing or can't be read, this is logged and the check repeated."""

    def __init__(
        self,
        service: RankingService,
        models: Path,
        *,
        period: float = PERIOD,
        swapped: Callable[[], None] = lambda: None,
    ):
        """swapped: called after every change of the model."""
        self.swapped = swapped
        self.service, self.models, self.period = service, models, period
        self.failed: tuple[str, int] | None = None
        self._troubles = Rarely()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="genrank-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the checks."""
        self._stopping.set()
        self._thread.join()

    def failure(self) -> str:
        """Why no new version will be served; empty where all is well."""
        if self._thread.is_alive() or self._stopping.is_set():
            return ""
        return "the thread that looks for new models has ended; start the service again"

    def look(self) -> bool:
        """Change to the current version if it is another one; returns whether the model was changed."""
        try:
            version = current(self.models)
            published = (version, (self.models / "current").stat().st_ino)  # new with every publication
            if version == self.service.version:
                self.failed = None
                self._troubles.over()
                return False
            if published == self.failed:
                return False
            self.failed = published  # until its check has passed
            bundle = load_bundle(self.models / version)
            device = self.service.device
            check_golden(bundle, device=device, precision=precision_on(device, self.service.options.precision))
            self.service.swap(bundle)
            self.swapped()
        except (StoreUnavailable, UpdatesExpired) as problem:
            self.failed = None  # the store's fault: try the version again
            self._say(f"the service keeps model {self.service.version} for now: {problem}")
            return False
        except GenRankError as problem:
            self._say(f"the service keeps model {self.service.version}: {problem}")
            return False
        self.failed = None
        self._troubles.over()
        log.info("the service now ranks with model %s", version)
        return True

    def _say(self, trouble: str) -> None:
        self._troubles.say(log.error, trouble)

    def _run(self) -> None:
        while not self._stopping.wait(self.period):
            try:
                self.look()
            except Exception as problem:  # noqa: BLE001 - nothing in that folder may end this thread
                self._troubles.say(log.exception, f"the service keeps model {self.service.version}: {problem!r}")
