"""The public data sets that can be read as their publishers wrote them, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from genrank.config import nearest
from genrank.errors import ConfigError, LogError
from genrank.preparation.logs import Source
from genrank.preparation.sources.kuairand import kuairand
from genrank.preparation.sources.mind import mind
from genrank.preparation.sources.movielens import movielens
from genrank.preparation.sources.sequences import sequences
from genrank.preparation.sources.taobao import taobao

SOURCES: Mapping[str, Callable[[Path], Source]] = {
    "movielens": movielens,
    "mind": mind,
    "kuairand": kuairand,
    "taobao": taobao,
    "sequences": sequences,
}
OF_ONE_FILE = ("taobao", "sequences")  # the file may be given in place of its folder


def published(name: str, path: Path) -> Source:
    """The data set `name` in the folder `path`. Raises ConfigError for an unknown name, LogError if it isn't there."""
    if name not in SOURCES:
        raise ConfigError(f"--source {name}: no such source; {nearest(name, SOURCES)}")
    if not (path.is_dir() or (name in OF_ONE_FILE and path.is_file())):
        kind = "file or folder" if name in OF_ONE_FILE else "folder"
        raise LogError(f"{path}: no such {kind}; give the one that holds the unpacked {name} files")
    return SOURCES[name](path)
