"""Follows a folder of published models: the service ranks with whatever is current there."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from genrank.artifacts.bundle import load_bundle
from genrank.errors import GenRankError
from genrank.inference.published import check_golden, current
from genrank.inference.store import StoreUnavailable, UpdatesExpired
from genrank.nn.devices import precision_on
from genrank.server.core import RankingService
from genrank.server.rarely import Rarely

log = logging.getLogger("genrank.server")
PERIOD = 1.0  # seconds between looks


class Watcher:
    """Looks at `models` in a thread of its own. A version that fails is logged, once, and tried again when
    another has been current since; so is a current version that is missing or can't be read, which is looked for on."""

    def __init__(
        self,
        service: RankingService,
        models: Path,
        *,
        period: float = PERIOD,
        swapped: Callable[[], None] = lambda: None,
    ):
        """swapped: is called after every swap."""
        self.swapped = swapped
        self.service, self.models, self.period = service, models, period
        self.failed: tuple[str, int] | None = None
        self._troubles = Rarely()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="genrank-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def failure(self) -> str:
        """Why no new version will be served; empty where all is well."""
        if self._thread.is_alive() or self._stopping.is_set():
            return ""
        return "the thread that looks for new models has ended; start the service again"

    def look(self) -> bool:
        """Swap if another version is current; whether it was."""
        try:
            version = current(self.models)
            published = (version, (self.models / "current").stat().st_ino)  # another one each time
            if version == self.service.version:
                self.failed = None
                self._troubles.over()
                return False
            if published == self.failed:
                return False
            self.failed = published  # until it has been found good
            bundle = load_bundle(self.models / version)
            device = self.service.device
            check_golden(bundle, device=device, precision=precision_on(device, self.service.options.precision))
            self.service.swap(bundle)
            self.swapped()
        except (StoreUnavailable, UpdatesExpired) as problem:
            self.failed = None  # not its fault; tried again
            self._say(f"the service stays with {self.service.version} for now: {problem}")
            return False
        except GenRankError as problem:
            self._say(f"the service stays with {self.service.version}: {problem}")
            return False
        self.failed = None
        self._troubles.over()
        log.info("the service ranks with %s now", version)
        return True

    def _say(self, trouble: str) -> None:
        self._troubles.say(log.error, trouble)

    def _run(self) -> None:
        while not self._stopping.wait(self.period):
            try:
                self.look()
            except Exception as problem:  # noqa: BLE001 - the service must outlive whatever is in that folder
                self._troubles.say(log.exception, f"the service stays with {self.service.version}: {problem!r}")
