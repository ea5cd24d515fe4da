"""The stored index: every item as one version of a retriever embeds it.

    index/VERSION/embedded.npy    (I, W) float32
    index/VERSION/ids.parquet     the items' ids, in the same order
    index/VERSION/index.json      format, model version, width, hashes
    index/latest                  the newest complete version; moves last

What is searched is made of it when it is opened (`Retriever.vectors`), in the precision that the reader asks for: the
file outlives that choice, and the ranker needs items as they were embedded. VERSION is the beginning of index.json's
hash, so that the same items under the same model are the same version.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.config import build, to_dict
from genrank.data.manifest import hash_file
from genrank.errors import BundleError
from genrank.folders import new_folder, replace_text
from genrank.schema import fingerprint

FORMAT = 1
REMEDY = "run genrank index RUN again"


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What an index says of itself. model: the bundle's version that embedded the items."""

    model: str
    num_items: int
    width: int
    files: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class StoredIndex:
    """A verified index. `ids`: of the I items, none of them twice."""

    folder: Path
    config: IndexConfig
    ids: list[str]
    embedded_IW: NDArray[np.float32]

    @property
    def version(self) -> str:
        """The index's own name."""
        return self.folder.name


def write_index(folder: Path, *, model: str, ids: Sequence[str], embedded_IW: NDArray[np.float32]) -> Path:
    """Write a new version below `folder` and point `latest` at it; one that is interrupted leaves the old one live.

    BundleError where there are no items, or where one's embedding is not finite.
    """
    if not len(ids):
        raise BundleError(f"{folder}: there are no items to index; prepare a log that has some")
    bad = np.flatnonzero(~np.isfinite(embedded_IW).all(1))
    if len(bad):
        raise BundleError(
            f"{folder}: the vector of item {ids[int(bad[0])]!r} is not finite, as of {len(bad)} of {len(ids)}; mend "
            "these items' features (embeddings, most likely), or train again if it is all of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / ".staged"
    shutil.rmtree(staged, ignore_errors=True)
    with new_folder(staged) as part:
        np.save(part / "embedded.npy", embedded_IW.astype(np.float32, copy=False))
        pq.write_table(pa.table({"id": pa.array(list(ids), pa.string())}), part / "ids.parquet")
        config = IndexConfig(
            model=model,
            num_items=len(ids),
            width=embedded_IW.shape[1],
            files={path.name: hash_file(path) for path in sorted(part.iterdir())},
        )
        (part / "index.json").write_text(json.dumps(to_dict(config), indent=1), encoding="utf-8")
    final = folder / fingerprint(to_dict(config))[:12]
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    replace_text(folder / "latest", final.name)
    return final


def load_index(folder: Path, *, model: str, width: int) -> StoredIndex:
    """The newest index below `folder` (`RUN/index`), or the one in it.

    BundleError where there is none, where it is damaged, or where it is of another model than version `model`.
    """
    folder = _resolve(folder)
    try:
        values = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BundleError(f"{folder}: index.json can't be read ({problem}); {REMEDY}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f"{folder}: not an index of format {FORMAT}; {REMEDY}")
    config = build(IndexConfig, values, where=str(folder / "index.json"), error=BundleError)
    if config.model != model:
        raise BundleError(f"{folder}: an index of model {config.model}, and this one is {model}; {REMEDY}")
    if config.width != width:
        raise BundleError(f"{folder}: its vectors have {config.width} dimensions, and the model's {width}; {REMEDY}")
    for name, expected in config.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name}: missing from the index; {REMEDY}")
        if hash_file(folder / name) != expected:
            raise BundleError(f"{folder / name}: damaged (its SHA-256 has changed); {REMEDY}")
    embedded = np.load(folder / "embedded.npy", allow_pickle=False)
    ids = pq.ParquetFile(folder / "ids.parquet").read().column("id").to_pylist()
    if embedded.shape != (config.num_items, width) or len(ids) != config.num_items:
        raise BundleError(f"{folder}: {len(ids)} ids for vectors of shape {embedded.shape}; {REMEDY}")
    return StoredIndex(folder=folder, config=config, ids=ids, embedded_IW=embedded)


def _resolve(folder: Path) -> Path:
    if (folder / "index.json").exists():
        return folder
    if (folder / "latest").is_file():
        return folder / (folder / "latest").read_text(encoding="utf-8").strip()
    raise BundleError(f"{folder}: no index here; run genrank index RUN")
