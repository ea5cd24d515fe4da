"""Opens a store of live events by its address."""

import re

from genrank.errors import ConfigError
from genrank.inference.redis_store import RedisStore, without_secrets
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import EventStore


def open_store(where: str) -> EventStore:
    """The store at `where`: a file for SQLite, or redis://host:port/database#prefix for several workers.

    Raises DataError for a file that is no store, ConfigError for a malformed address, StoreUnavailable.
    """
    if "://" in where:
        return RedisStore(where)
    if re.match(
        r"(rediss?|unix):|[^/@]*:[^/@]*@", where, re.IGNORECASE
    ):  # it may contain a password, so it is not used as a file name
        raise ConfigError(
            f"--store {without_secrets('redis://' + where.rpartition('@')[2])} lacks its redis://; "
            "expected redis://host:port/database, or a file"
        )
    return SQLiteStore(where)
