"""Ids of users, items, requests and events: text of a bounded length, so that what is kept of each is bounded too."""

from genrank.errors import RequestError, shown

MAX_ID = 256  # characters


def check_id(what: str, name: str, *, optional: bool = False) -> str:
    """The id; RequestError where it is empty or longer than MAX_ID. optional: it may be empty."""
    if not name and not optional:
        raise RequestError(f"{what}: the id is empty; give 1 to {MAX_ID} characters")
    if len(name) > MAX_ID:
        raise RequestError(f"{what}: an id has at most {MAX_ID} characters, found {len(name)}: {shown(name[:40])}…")
    return name
