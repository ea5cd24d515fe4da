"""Logs that are named by an address: files on an object store or a cluster's disks, or a table of Spark's catalogue."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from genrank.errors import LogError

TABLE = "table:"  # before the name of a table, as in table:warehouse.shown
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|" + TABLE)


class Address(str):
    """The URL of files, as in s3://bucket/logs, or a table's name behind `table:`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What the manifest has for the name of a file."""
        return str(self)

    @property
    def table(self) -> str | None:
        """The table's name, or None for files."""
        return self.removeprefix(TABLE) if self.startswith(TABLE) else None


def address_of(name: Path | str) -> Address | None:
    """The address in a name, or None for a path of this machine."""
    return Address(name) if isinstance(name, str) and ADDRESS.match(name) else None


def local_path(address: Address) -> Path:
    """The path of a file:// address. Raises LogError for any other: only Spark reads those."""
    parts = urlsplit(address)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise LogError(f"{address}: DuckDB reads files of this machine only; prepare with --engine spark")
    return Path(unquote(parts.path))


def split_addresses(places: Sequence[Path | Address]) -> tuple[list[Path], list[Address]]:
    """Paths and addresses of one table; LogError for both at once, or for several tables."""
    addresses = [place for place in places if isinstance(place, Address)]
    paths = [place for place in places if not isinstance(place, Address)]
    if addresses and (paths or (len(addresses) > 1 and any(each.table for each in addresses))):
        kinds = "paths of this machine and addresses" if paths else "several, with tables among them"
        raise LogError(f"{addresses[0]}: expected addresses of files, or one table, found {kinds}; give one kind only")
    return paths, addresses
