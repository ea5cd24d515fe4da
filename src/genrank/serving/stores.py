"""Which store of live events is meant?"""

from genrank.serving.redis_store import RedisStore
from genrank.serving.store import EventStore, SQLiteStore


def open_store(where: str) -> EventStore:
    """The store at `where`: a file for SQLite, or redis://host:port/database#prefix for several workers.

    Raises DataError for a file that is no store, ConfigError for a malformed address, StoreUnavailable.
    """
    if "://" in where:
        return RedisStore(where)
    return SQLiteStore(where)
