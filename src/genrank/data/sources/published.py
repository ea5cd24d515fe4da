"""The public data sets that can be read as their publishers wrote them, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from genrank.config import nearest
from genrank.data.logs import Source
from genrank.data.sources.kuairand import kuairand
from genrank.data.sources.mind import mind
from genrank.data.sources.movielens import movielens
from genrank.errors import ConfigError, LogError

SOURCES: Mapping[str, Callable[[Path], Source]] = {"movielens": movielens, "mind": mind, "kuairand": kuairand}


def published(name: str, folder: Path) -> Source:
    """The data set `name` in `folder`. Raises ConfigError for an unknown name, LogError if it isn't in the folder."""
    if name not in SOURCES:
        raise ConfigError(f"--source {name}: no such source; {nearest(name, SOURCES)}")
    if not folder.is_dir():
        raise LogError(f"{folder}: no such folder; give the one that holds the unpacked {name} files")
    return SOURCES[name](folder)
