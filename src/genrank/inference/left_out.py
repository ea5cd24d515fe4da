"""Stored events and items that can't be read: they are left out, counted and named, and never stop the service."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

from genrank.errors import shown

log = logging.getLogger("genrank.server")
MAX_NAMED = 20  # entries that the log names
MAX_COUNTED = 10_000  # entries that are remembered; more are not counted while serving


class Name(NamedTuple):
    """The name of an event (its user and key) or of an item (its id)."""

    kind: Literal["event", "item"]
    user: str
    id: str

    def __str__(self) -> str:
        return (
            f"event {shown(self.id)} of user {shown(self.user)}" if self.kind == "event" else f"item {shown(self.id)}"
        )


class LeftOut:
    """Events and items with the reason. Safe to use from several threads."""

    def __init__(self, where: str, *, quiet: bool = False):
        """where: what they are left out of, for the log. quiet: nothing is logged."""
        self.where, self.quiet = where, quiet
        self._reasons: dict[Name, str] = {}
        self._lock = threading.Lock()

    def event(self, user: str, key: str, reason: str) -> None:
        """Note an event that is left out."""
        self._note(Name("event", user, key), reason)

    def item(self, name: str, reason: str) -> None:
        """Note an item that is left out."""
        self._note(Name("item", "", name), reason)

    def joined(self, other: "LeftOut") -> "LeftOut":
        """These and the entries that another has left out."""
        with self._lock:
            self._reasons |= other.reasons
        return self

    @property
    def reasons(self) -> Mapping[Name, str]:
        """Why each is left out."""
        with self._lock:
            return dict(self._reasons)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there are, by kind."""
        with self._lock:
            return Counter(name.kind for name in self._reasons)

    def _note(self, name: Name, reason: str) -> None:
        with self._lock:
            if name in self._reasons or (len(self._reasons) >= MAX_COUNTED and not self.quiet):
                return
            self._reasons[name] = reason
            count = len(self._reasons)
        if self.quiet:
            return
        if count <= MAX_NAMED:
            log.error("%s: the %s is left out: %s; repair or delete it with genrank store", self.where, name, reason)
        if count == MAX_NAMED:
            log.error("%s: further entries are only counted; genrank store STORE check names all", self.where)
