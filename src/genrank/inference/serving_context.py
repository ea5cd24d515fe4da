"""The users and items of a service, once in memory for all models that were trained on the same data.

A context has timelines, tables, decoded histories and window statistics of a prepared folder, with later events and
items of the store. Ranking and retrieval share one, and so do a model and the one that replaces it.
"""

import threading
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from genrank.artifacts.bundle import Bundle, require_same_schema
from genrank.config import to_dict
from genrank.data.manifest import Manifest
from genrank.data.tables import FeatureTable
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.left_out import LeftOut
from genrank.inference.pasts import PastLimits, open_past
from genrank.inference.served_statistics import ServedStatistics
from genrank.inference.store import EventStore, UpdatesExpired
from genrank.schema import fingerprint


class ServingContext:
    """Safe to use from several threads. expired: it missed updates that the store no longer keeps; make another."""

    def __init__(
        self,
        data: Path,
        manifest: Manifest,
        *,
        store: EventStore,
        max_bytes: int,
        past_limits: PastLimits | None = None,
        until: int | None = None,
    ):
        """data: a prepared folder with the users' past, up to `until` (seconds, exclusive) if given.

        manifest: of a model with the folder's vocabularies and tasks. max_bytes: see Histories. Raises DataError and
        StoreUnavailable.
        """
        spec = manifest.spec
        self.store, self.expired = store, False
        self.users = FeatureTable.load(data, "user", spec)
        self.catalogue = Catalogue(FeatureTable.load(data, "item", spec), data, manifest)
        self._following = threading.Lock()
        stored = store.snapshot(events=bool(spec.statistics))
        self._position = stored.position
        self.left_out = LeftOut("what is stored")
        self.catalogue.put_readable(stored.items, self.left_out)
        self.histories = Histories(
            data,
            manifest,
            past=open_past(data, spec, until=until, limits=past_limits),
            catalogue=self.catalogue,
            users=self.users,
            store=store,
            max_bytes=max_bytes,
            left_out=self.left_out,
        )
        self.statistics = (
            ServedStatistics(data, manifest, self.histories, events=stored.events, until=until)
            if spec.statistics
            else None
        )

    def catch_up(self) -> None:
        """Apply the updates of the store since the last call. Histories read the store themselves.

        Raises UpdatesExpired if some of them are no longer kept, StoreUnavailable.
        """
        with self._following:
            try:
                updates, self._position = self.store.updates(self._position)
            except UpdatesExpired:
                self.expired = True
                raise
            for update in updates:
                self.catalogue.put_readable(update.items, self.left_out)
                if update.changes and self.statistics is not None:
                    self.statistics.count(update.changes)


class _Key(NamedTuple):
    """Two models share a context if all of these are equal."""

    data: Path
    files: str  # hash of the prepared folder's files
    schema: str  # hash of the model's roles, boundaries and settings of statistics


class ServingContexts:
    """The contexts of one service, each made on first use and kept as long as a model uses it."""

    def __init__(
        self,
        store: EventStore,
        *,
        max_bytes: int,
        past_limits: PastLimits | None = None,
        until: int | None = None,
    ):
        self.store, self.max_bytes, self.past_limits, self.until = store, max_bytes, past_limits, until
        self._made: WeakValueDictionary[_Key, ServingContext] = WeakValueDictionary()
        self._making = threading.Lock()

    def of(self, bundle: Bundle, data: Path) -> ServingContext:
        """The context of a model over a prepared folder. BundleError if the folder has another schema; DataError."""
        manifest, mine = Manifest.open(data), bundle.manifest
        require_same_schema(bundle, data, manifest)
        schema = {"schema": to_dict(mine.schema), "spec": to_dict(mine.spec), "rates": to_dict(mine.base_rates)}
        key = _Key(data.resolve(), fingerprint(manifest.files), fingerprint(schema))
        with self._making:
            made = self._made.get(key)
            if made is None or made.expired:
                made = ServingContext(
                    data,
                    mine,
                    store=self.store,
                    max_bytes=self.max_bytes,
                    past_limits=self.past_limits,
                    until=self.until,
                )
                self._made[key] = made
            return made
