"""Shows, checks and repairs the content of a store of events and items. See `genrank store`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from genrank.artifacts.bundle import Bundle
from genrank.data.tables import FeatureTable
from genrank.errors import InputError, RequestError
from genrank.inference.catalogue import Catalogue, Item
from genrank.inference.histories import Histories
from genrank.inference.left_out import LeftOut
from genrank.inference.pasts import NoPast
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event, EventStore
from genrank.inference.stores import open_store


def open_existing(where: str, *, writing: bool) -> EventStore:
    """An existing store. writing: for changes; InputError if a service uses the file."""
    if "://" in where:
        return open_store(where)
    if not Path(where).is_file():
        raise InputError(f"{where}: there is no such store; give the file or address of genrank serve --store")
    return SQLiteStore(where, alone=writing)


def summary(store: EventStore, *, limit: int) -> dict[str, Any]:
    """Numbers of `users`, `events` and `items`; the first `limit` users with their numbers of events, and items."""
    users, items = store.users(), store.snapshot(events=False).items
    return {
        "users": len(users),
        "events": sum(users.values()),
        "items": len(items),
        "some_users": dict(list(users.items())[:limit]),
        "some_items": [item.id for item in items[:limit]],
    }


def shown_events(store: EventStore, user: str) -> list[dict[str, Any]]:
    """The user's events in order of time, with their keys."""
    return [{"key": event.key, **event.content()} for event in _events(store, user)]


def shown_items(store: EventStore, ids: list[str]) -> list[dict[str, Any]]:
    """The items of these ids."""
    items = store.snapshot(events=False).items
    return [{"item": i.id, "features": dict(i.features), "available": i.available} for i in items if i.id in ids]


class SchemaCheck:
    """A check of stored entries by a model's schema and vocabularies. Without a model: whether they can be parsed."""

    def __init__(self, bundle: Bundle | None):
        self.histories: Histories | None = None
        if bundle is not None:
            spec, folder = bundle.manifest.spec, bundle.folder
            items, users = (FeatureTable.load(folder, owner, spec) for owner in ("item", "user"))
            catalogue = Catalogue(items, folder, bundle.manifest)
            self.histories = Histories(folder, bundle.manifest, past=NoPast(spec), catalogue=catalogue, users=users)

    def left_out(self, store: EventStore) -> LeftOut:
        """All entries that can't be read, with the reason."""
        found = LeftOut("the store", quiet=True)
        for user in store.users():
            for event in _events(store, user):
                try:
                    self._read_event(event)
                except RequestError as problem:
                    found.event(user, event.key, str(problem))
        for item in store.snapshot(events=False).items:
            try:
                self._read_item(item)
            except RequestError as problem:
                found.item(item.id, str(problem))
        return found.joined(store.left_out)

    def repair(self, store: EventStore) -> tuple[int, int]:
        """Remove values that can't be read, and delete entries that can't be parsed; returns the numbers of both."""
        found = self.left_out(store)
        broken = store.left_out.reasons
        items = {item.id: item for item in store.snapshot(events=False).items}
        mended = 0
        for name in found.reasons:
            if name in broken:
                continue
            if name.kind == "item":
                changed = [self._mended_item(items[name.id])] if name.id in items else []
                store.put_items(changed)
                mended += len(changed)
            else:
                events = [each for each in _events(store, name.user) if each.key == name.id]
                mended += len(store.append([self._repaired_event(event) for event in events]))
        deleted = store.delete(
            items=[name.id for name in broken if name.kind == "item"],
            events=[(name.user, name.id) for name in broken if name.kind == "event"],
        )
        return mended, deleted

    def _read_event(self, event: Event) -> None:
        if self.histories is not None:
            self.histories.check_values(event)

    def _read_item(self, item: Item) -> None:
        if self.histories is not None:
            catalogue = self.histories.catalogue
            catalogue.check(catalogue.with_known_features(item))

    def _repaired_event(self, event: Event) -> Event:
        def reads(**values: Any) -> bool:
            try:
                self._read_event(replace(event, **{"actions": {}, "context": {}} | values))
            except RequestError:
                return False
            return True

        return replace(
            event,
            version=event.version + 1,  # content without these values may have been stored before
            actions={name: value for name, value in event.actions.items() if reads(actions={name: value})},
            context={name: value for name, value in event.context.items() if reads(context={name: value})},
        )

    def _mended_item(self, item: Item) -> Item:
        def reads(name: str, value: Any) -> bool:
            try:
                self._read_item(replace(item, features={name: value}))
            except RequestError:
                return False
            return True

        return replace(item, features={name: value for name, value in item.features.items() if reads(name, value)})


def _events(store: EventStore, user: str) -> Iterator[Event]:
    found = store.events(user)
    yield from (event for event, _ in (*(found.archived or ()), *found.events))
