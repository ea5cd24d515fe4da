"""The stored index: every item as one version of a retriever embeds it.

    index/VERSION/embedded.npy    (I, W) float32
    index/VERSION/ids.parquet     the items' ids, in the same order
    index/VERSION/index.json      format, model version, width, hashes
    index/latest                  the newest complete version; moves last

The vectors to search are computed from it when it is opened (`Retriever.vectors`), in the precision that the reader
chooses: one file serves every precision, and the ranker needs the items as they were embedded. VERSION is the
beginning of the hash of all files (artifacts/versioned.py), so the same items and model give the same version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.artifacts.versioned import VersionedKind
from genrank.config import build, to_dict
from genrank.errors import BundleError

FORMAT = 1
REMEDY = "run genrank index RUN again"
INDEXES = VersionedKind(about="index.json", format=FORMAT, noun="an index", error=BundleError, remedy=REMEDY)


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The content of index.json. model: the version of the bundle that embedded the items."""

    model: str
    num_items: int
    width: int
    files: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class StoredIndex:
    """A verified index. version: the beginning of the hash of all files. `ids`: of the I items, all different."""

    folder: Path
    version: str
    config: IndexConfig
    ids: list[str]
    embedded_IW: NDArray[np.float32]


def write_index(folder: Path, *, model: str, ids: Sequence[str], embedded_IW: NDArray[np.float32]) -> Path:
    """Write a new version below `folder` and point `latest` at it; if interrupted, the old one stays the latest.

    BundleError if there are no items, or if the embedding of one is not finite.
    """
    if not len(ids):
        raise BundleError(f"{folder}: there are no items to index; prepare a log with items")
    bad = np.flatnonzero(~np.isfinite(embedded_IW).all(1))
    if len(bad):
        raise BundleError(
            f"{folder}: the vector of item {ids[int(bad[0])]!r} is not finite ({len(bad)} of {len(ids)} are not); "
            "correct these items' features (embeddings, most likely), or train again if it is all of them"
        )

    def fill(part: Path) -> dict[str, Any]:
        np.save(part / "embedded.npy", embedded_IW.astype(np.float32, copy=False))
        pq.write_table(pa.table({"id": pa.array(list(ids), pa.string())}), part / "ids.parquet")
        values: dict[str, Any] = to_dict(
            IndexConfig(model=model, num_items=len(ids), width=embedded_IW.shape[1], files={})
        )
        return values

    return INDEXES.write(folder, fill)


def load_index(folder: Path, *, model: str, width: int) -> StoredIndex:
    """The newest index below `folder` (`RUN/index`), or the one in it.

    BundleError if there is none, if it is damaged, or if it is of another model than version `model`.
    """
    folder = newest_index(folder)
    version, values = INDEXES.read(folder)
    config = build(IndexConfig, values, where=str(folder / "index.json"), error=BundleError)
    if config.model != model:
        raise BundleError(f"{folder}: an index of model {config.model}, and this one is {model}; {REMEDY}")
    if config.width != width:
        raise BundleError(f"{folder}: its vectors have {config.width} dimensions, and the model's {width}; {REMEDY}")
    embedded = np.load(folder / "embedded.npy", allow_pickle=False)
    ids = pq.ParquetFile(folder / "ids.parquet").read().column("id").to_pylist()
    if embedded.shape != (config.num_items, width) or len(ids) != config.num_items:
        raise BundleError(f"{folder}: {len(ids)} ids for vectors of shape {embedded.shape}; {REMEDY}")
    return StoredIndex(folder=folder, version=version, config=config, ids=ids, embedded_IW=embedded)


def newest_index(folder: Path) -> Path:
    """The folder of the newest index below `folder`, or `folder` itself; BundleError if there is none."""
    if (folder / INDEXES.about).exists():
        return folder
    if (folder / "latest").exists():
        return INDEXES.newest(folder)
    raise BundleError(f"{folder}: no index here; run genrank index RUN")
