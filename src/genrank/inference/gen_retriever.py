"""GenRetriever: from a run folder with an index to the best items of the whole catalogue.

retriever = GenRetriever.load("runs/mine")
found = retriever.retrieve("u42", k=500)
for item, score in zip(found.items, found.scores):
    print(item, score)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts import pretrained
from genrank.artifacts.bundle import Bundle, load_bundle, require_same_schema
from genrank.artifacts.index import load_index, write_index
from genrank.data.manifest import Manifest
from genrank.data.tables import FeatureTable
from genrank.errors import RequestError
from genrank.folders import writing
from genrank.ids import check_id
from genrank.inference.catalogue import Catalogue
from genrank.inference.gen_ranker import as_id, as_ids, check_time
from genrank.inference.histories import Histories
from genrank.inference.pasts import PastOnDisk, open_past
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest, open_index
from genrank.nn.devices import device_named
from genrank.retrieval.item_search import Precision
from genrank.retrieval.item_vectors import embed_all


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Items, best first; fewer than k if no more of the catalogue may be retrieved."""

    user: str
    user_known: bool
    time: int  # seconds since the epoch
    num_history: int  # past events that the generator saw
    items: tuple[str, ...]
    scores: tuple[float, ...]
    model_version: str
    index_version: str
    seconds: Mapping[str, float]  # encode, search, rank


class GenRetriever:
    """A loaded bundle with its index."""

    def __init__(
        self,
        bundle: Bundle,
        index: Path,
        *,
        data: Path | None = None,
        device: str = "cpu",
        precision: Precision = "int8",
        in_memory: bool = False,
    ):
        """in_memory: read all histories at once, for many requests, if there are not too many: see PastLimits."""
        self.bundle, self.index, spec = bundle, index, bundle.manifest.spec
        self.data = data if data is not None else Path(bundle.config.data)
        require_same_schema(bundle, self.data, Manifest.open(self.data))
        on = device_named(device)
        model = bundle.retriever(on)
        stored = load_index(index, model=bundle.version, width=model.config.width)
        self.index_version = stored.version
        items, users = (FeatureTable.load(self.data, owner, spec) for owner in ("item", "user"))
        self.catalogue = Catalogue(items, self.data, bundle.manifest)
        self.engine = RetrievalEngine(
            model,
            bundle.config.sequence,
            histories=Histories(
                self.data,
                bundle.manifest,
                past=(open_past if in_memory else PastOnDisk)(self.data, spec),
                catalogue=self.catalogue,
                users=users,
            ),
            index=open_index(model, stored, self.catalogue, precision=precision),
            device=on,
        )

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        data: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "int8",
        in_memory: bool = False,
    ) -> "GenRetriever":
        """The newest bundle of a run and its index. data: a prepared folder with the histories; None: that of the run.

        Raises BundleError or DataError, in one line, for missing or damaged files, another schema or another model.
        """
        folder = None if data is None else Path(data)
        return cls(
            load_bundle(Path(run)),
            Path(run) / "index",
            data=folder,
            device=device,
            precision=precision,
            in_memory=in_memory,
        )

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, data: str | Path | None = None, device: str = "cpu", revision: str | None = None
    ) -> "GenRetriever":
        """A model written by `save_pretrained`: a folder, or OWNER/NAME of the Hugging Face Hub. See `load`."""
        return cls.load(pretrained.fetch(name, revision=revision), data=data, device=device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the model and its index into a new folder with a model card. OutputError if it can't be written."""
        return pretrained.save(self.bundle, Path(folder), index=self.index)

    def push_to_hub(self, repository: str, folder: str | Path, *, private: bool = True) -> str:
        """`save_pretrained` into `folder`, and upload it to OWNER/NAME; returns its address. Needs huggingface_hub."""
        return pretrained.push(self.save_pretrained(folder), repository, private=private)

    def retrieve(
        self,
        user: str,
        *,
        k: int = 500,
        time: int | None = None,
        without: Mapping[str, Sequence[Any]] | None = None,
        exclude: Sequence[str] = (),
        num_candidates: int = 0,
    ) -> RetrievalResult:
        """The best `k` items for `user`.

        time: seconds since the epoch; None: one second after the data's last exposure. Later exposures are not seen.
        without: values by item feature; items with one of them are left out. exclude: ids that are left out.
        num_candidates: of the generator for the ranker; 0: as trained. A user who is not in the data, or has no
        history, gets the model's items for an unknown user, and the answer says so. Raises RequestError.
        """
        check_k(k)
        user = check_id("user", as_id("user", user))
        when = self.bundle.manifest.split.last_time + 1 if time is None else check_time(time)
        request = RetrieveRequest(
            user=user,
            time=when,
            k=k,
            without=without or {},
            exclude=self.catalogue.find(as_ids("exclude", exclude)),
        )
        (found,) = self.engine.retrieve([request], num_candidates=num_candidates)
        ids = self.catalogue.table.ids
        return RetrievalResult(
            user=user,
            user_known=found.user_known,
            time=when,
            num_history=found.num_history,
            items=tuple(str(ids[row]) for row in found.rows.tolist()),
            scores=tuple(found.scores.tolist()),
            model_version=self.bundle.version,
            index_version=self.index_version,
            seconds=found.seconds,
        )


def build_index(run: Path, *, data: Path | None = None, device: str = "cpu") -> Path:
    """Embed every item of the run's data, or of `data`, and write the run's index; returns its folder.

    Raises BundleError if the run is no retriever or an embedding is not finite, and DataError.
    """
    bundle = load_bundle(run)
    model = bundle.retriever(device_named(device))
    with writing(run / "index"):
        pass  # if the index can't be written, fail now and not after the work
    folder = data if data is not None else Path(bundle.config.data)
    require_same_schema(bundle, folder, Manifest.open(folder))
    items = FeatureTable.load(folder, "item", bundle.manifest.spec)
    rows = np.arange(1, len(items))
    embedded = embed_all(model, items, rows).float().cpu().numpy()
    return write_index(run / "index", model=bundle.version, ids=items.ids.to_pylist()[1:], embedded_IW=embedded)


def check_k(k: int) -> None:
    """RequestError if k is below 1."""
    if k < 1:
        raise RequestError(f"k is {k}; ask for at least one item")
