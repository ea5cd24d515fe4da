"""The model bundle: the files that ranking and retrieval load. No pickle; every file is hashed.

    bundle/VERSION/bundle.json          format, configuration, hashes of all other files
    bundle/VERSION/model.safetensors    weights
    bundle/VERSION/manifest.json        schema, boundaries, split and counts of the data it was trained on
    bundle/VERSION/items.parquet users.parquet vocab/ embeddings/
    bundle/latest                       the newest complete version; moves last

VERSION is the beginning of the hash of everything in it; see artifacts/versioned.py.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genrank.artifacts.versioned import VersionedKind
from genrank.config import build, to_dict
from genrank.data.learned_days import vocabulary_sizes, with_sizes
from genrank.data.manifest import Manifest
from genrank.data.sequence import SequenceConfig
from genrank.data.vocabulary_files import StoredVocabulary
from genrank.errors import BundleError, DataError, OutputError
from genrank.model_config import ModelConfig
from genrank.models.ranker import Ranker
from genrank.retrieval.retriever import Retriever

FORMAT = 3
CARRIED = ("items.parquet", "users.parquet", "vocab/", "embeddings/")  # of the prepared folder, beside its manifest
BUNDLES = VersionedKind(
    about="bundle.json", format=FORMAT, noun="a bundle", error=BundleError, remedy="copy it again, or train again"
)


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """The content of bundle.json. `data`: the prepared folder of the training, which has the users' histories."""

    model: ModelConfig
    sequence: SequenceConfig
    value: dict[str, float]
    data: str
    spec_hash: str
    files: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle. version: the beginning of the hash of everything in it."""

    folder: Path
    version: str
    config: BundleConfig
    manifest: Manifest

    def model(self, device: torch.device | str = "cpu") -> Ranker:
        """The ranker in evaluation mode. BundleError if the bundle is a retriever, or its weights don't fit."""
        if self.config.model.retrieves:
            raise BundleError(
                f"{self.folder}: a retriever, which ranks nothing; see genrank retrieve, or give a ranker's run"
            )
        return cast(Ranker, self._load(device))

    def retriever(self, device: torch.device | str = "cpu") -> Retriever:
        """The retriever in evaluation mode. BundleError if the bundle is a ranker, or its weights don't fit."""
        if not self.config.model.retrieves:
            raise BundleError(f"{self.folder}: a ranker, which retrieves nothing; give a run of a recipe such as grank")
        return cast(Retriever, self._load(device))

    def _load(self, device: torch.device | str) -> nn.Module:
        model = self.config.model.build(self.manifest.spec, max_history=self.config.sequence.max_history)
        try:
            model.load_state_dict(load_file(self.folder / "model.safetensors"))
        except (RuntimeError, SafetensorError) as problem:
            reason = str(problem).splitlines()[0]
            raise BundleError(
                f"{self.folder}: the weights don't fit the configuration ({reason}); train again"
            ) from None
        return model.to(device).eval()


def write_bundle(
    folder: Path,
    model: Ranker | Retriever,
    *,
    data: Path,
    sequence: SequenceConfig,
    value: dict[str, float],
    manifest: Manifest | None = None,
) -> Path:
    """Write a new version below `folder` and point `latest` at it. OutputError if it can't be written.

    manifest: that of `data`, with the split and the vocabulary sizes of the training; None: as prepared.
    """
    whole = Manifest.open(data)
    manifest = manifest or whole

    def fill(part: Path) -> dict[str, Any]:
        _save_weights(model, part / "model.safetensors")
        _copy(data, part, [name for name in whole.files if name.startswith(CARRIED)])
        manifest.save(part)
        config = BundleConfig(
            model=model.config,
            sequence=sequence,
            value=value,
            data=str(data.resolve()),
            spec_hash=manifest.spec.fingerprint(),
            files={},
        )
        values: dict[str, Any] = to_dict(config)
        return values

    return BUNDLES.write(folder, fill)


def _save_weights(model: Ranker | Retriever, path: Path) -> None:
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, path)
    except SafetensorError as problem:
        raise OutputError(f"{path.parent.parent}: the weights can't be written ({problem}); make room there") from None


def load_bundle(path: Path) -> Bundle:
    """The bundle of a run, of a `bundle` folder, or of one version. Raises BundleError with what is wrong."""
    folder = newest_bundle(path)
    version, values = BUNDLES.read(folder)
    config = build(BundleConfig, values, where=str(folder / "bundle.json"), error=BundleError)
    try:
        manifest = Manifest.load(folder)
    except DataError as problem:
        raise BundleError(f"{folder}: not the manifest of this version of genrank ({problem}); train again") from None
    if manifest.spec.fingerprint() != config.spec_hash:
        raise BundleError(f"{folder}: the manifest is of another schema than the model; train again")
    return Bundle(folder=folder, version=version, config=config, manifest=manifest)


def copy_bundle(bundle: Bundle, part: Path) -> None:
    """Copy the files of a bundle, without any other files in the folder."""
    _copy(bundle.folder, part, (*bundle.config.files, BUNDLES.about))


def _copy(source: Path, part: Path, names: Iterable[str]) -> None:
    for name in names:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, part / name)


def require_same_schema(bundle: Bundle, data: Path, manifest: Manifest) -> None:
    """BundleError if a model can't read prepared data. The data may have admitted values since the model was trained:
    read with the bundle's spec, they are unknown."""
    problem = schema_problem(bundle, data, manifest)
    if problem:
        raise BundleError(
            f"{data}: {problem}; evaluate on the data it was trained on ({bundle.config.data}), or train on this"
        )


def schema_problem(bundle: Bundle, data: Path, manifest: Manifest) -> str:
    """The difference of prepared data from the bundle in features, tasks or the meaning of an index; empty: none."""
    mine = bundle.manifest
    sizes = vocabulary_sizes(mine.spec)
    if with_sizes(manifest.spec, sizes) != mine.spec:
        difference = _difference(mine, manifest)
        return f"prepared with another schema or vocabulary ({difference}) than the model in {bundle.folder}"
    for name, size in sizes.items():
        file = f"vocab/{name}.parquet"
        if manifest.files.get(file) != mine.files[file] and not _same_meaning(bundle.folder / file, data / file, size):
            return f"{file} is not the vocabulary that the model in {bundle.folder} was trained with"
    return ""


def _same_meaning(mine: Path, theirs: Path, size: int) -> bool:
    """Whether the first `size` indices stand for the same values in two vocabularies."""
    one, two = (StoredVocabulary.load(path).categories(size) for path in (mine, theirs))
    return one == two


def require_same_statistics(bundle: Bundle, data: Path, manifest: Manifest) -> None:
    """BundleError if prepared statistics are smoothed or measured differently from those of the model's training.

    Ranking needs no such check: it counts statistics again, with the bundle's settings.
    """
    mine = bundle.manifest
    if (mine.schema.statistics, mine.base_rates) != (manifest.schema.statistics, manifest.base_rates):
        raise BundleError(
            f"{data}: its window statistics are smoothed or measured differently from those of the model in "
            f"{bundle.folder}; evaluate on the data it was trained on ({bundle.config.data}), or train on this"
        )


def _difference(mine: Manifest, theirs: Manifest) -> str:
    """The first difference of two specs, in words."""
    specs = (mine.spec, with_sizes(theirs.spec, vocabulary_sizes(mine.spec)))
    for kind in ("tasks", "feedback", "features"):
        one, two = ({p.name: p for p in getattr(spec, kind)} for spec in specs)
        for name in [*one, *two]:
            if one.get(name) != two.get(name):
                return f"{kind}: {name!r} differs"
    if mine.spec.statistics != theirs.spec.statistics:
        return "the window statistics differ"
    if mine.spec.zone != theirs.spec.zone:
        return f"time.zone: {mine.spec.zone} and {theirs.spec.zone}"
    return "the order of features differs"


def newest_bundle(path: Path) -> Path:
    """The folder of a run's newest bundle, or `path` itself if it is a bundle; BundleError if there is none."""
    if (path / BUNDLES.about).exists():
        return path
    for folder in (path / "bundle", path):
        if (folder / "latest").exists() and folder.name != "checkpoints":
            return BUNDLES.newest(folder)
    raise BundleError(f"{path}: no model bundle here; give the folder of a finished run (genrank train … --out RUN)")
