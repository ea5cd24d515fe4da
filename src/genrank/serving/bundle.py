"""The model bundle: what ranking loads. No pickle, and every file is hashed.

    bundle/VERSION/bundle.json          format, configuration, hashes of all other files
    bundle/VERSION/model.safetensors    weights
    bundle/VERSION/manifest.json        schema, boundaries, split and counts of the data it was trained on
    bundle/VERSION/items.parquet users.parquet vocab/ embeddings/
    bundle/latest                       the newest complete version; moves last

VERSION is the beginning of the hash of everything in it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genrank.config import build, to_dict
from genrank.data.manifest import Manifest, hash_file
from genrank.data.sequence import SequenceConfig
from genrank.errors import BundleError
from genrank.folders import new_folder, replace_text
from genrank.models.ranker import ModelConfig, Ranker, build_ranker
from genrank.retrieval.config import RetrieverConfig
from genrank.retrieval.retriever import Retriever
from genrank.schema import fingerprint

FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """What a bundle says of itself. `data`: the prepared folder it was trained on, for users' histories."""

    model: ModelConfig | RetrieverConfig
    sequence: SequenceConfig
    value: dict[str, float]
    data: str
    spec_hash: str
    files: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    config: BundleConfig
    manifest: Manifest

    @property
    def version(self) -> str:
        """The bundle's own name."""
        return self.folder.name

    def model(self, device: torch.device | str = "cpu") -> Ranker:
        """The ranker in evaluation mode. BundleError where the bundle is a retriever, or its weights don't fit."""
        config = self.config.model
        if isinstance(config, RetrieverConfig):
            raise BundleError(
                f"{self.folder}: a retriever, which ranks nothing; see genrank retrieve, or give a ranker's run"
            )
        model = build_ranker(config, self.manifest.spec, max_history=self.config.sequence.max_history)
        self._load(model)
        return model.to(device).eval()

    def retriever(self, device: torch.device | str = "cpu") -> Retriever:
        """The retriever in evaluation mode. BundleError where the bundle is a ranker, or its weights don't fit."""
        config = self.config.model
        if not isinstance(config, RetrieverConfig):
            raise BundleError(f"{self.folder}: a ranker, which retrieves nothing; give a run of a recipe such as grank")
        model = Retriever(config, self.manifest.spec, max_history=self.config.sequence.max_history)
        self._load(model)
        return model.to(device).eval()

    def _load(self, model: nn.Module) -> None:
        try:
            model.load_state_dict(load_file(self.folder / "model.safetensors"))
        except (RuntimeError, SafetensorError) as problem:
            reason = str(problem).splitlines()[0]
            raise BundleError(
                f"{self.folder}: the weights don't fit the configuration ({reason}); train again"
            ) from None


def write_bundle(
    folder: Path, model: Ranker | Retriever, *, data: Path, sequence: SequenceConfig, value: dict[str, float]
) -> Path:
    """Write a new version below `folder` and point `latest` at it."""
    manifest = Manifest.load(data)
    staged = folder / ".staged"
    shutil.rmtree(staged, ignore_errors=True)
    with new_folder(staged) as part:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, part / "model.safetensors"
        )
        for name in ("manifest.json", "items.parquet", "users.parquet"):
            shutil.copyfile(data / name, part / name)
        for name in ("vocab", "embeddings"):
            if (data / name).is_dir():
                shutil.copytree(data / name, part / name)
        paths = sorted(path for path in part.rglob("*") if path.is_file())
        config = BundleConfig(
            model=model.config,
            sequence=sequence,
            value=value,
            data=str(data.resolve()),
            spec_hash=manifest.spec.fingerprint(),
            files={path.relative_to(part).as_posix(): hash_file(path) for path in paths},
        )
        (part / "bundle.json").write_text(json.dumps(to_dict(config), indent=1), encoding="utf-8")
    final = folder / fingerprint(to_dict(config))[:12]
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    replace_text(folder / "latest", final.name)
    return final


def load_bundle(path: Path) -> Bundle:
    """The bundle of a run, of a `bundle` folder, or of one version. Raises BundleError that says what is wrong."""
    folder = _resolve(path)
    try:
        values = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise BundleError(f"{folder}: bundle.json can't be read ({problem}); train again") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f"{folder}: not a bundle of format {FORMAT}; train again with this version of genrank")
    config = build(BundleConfig, values, where=str(folder / "bundle.json"), error=BundleError)
    _verify(folder, config)
    manifest = Manifest.load(folder)
    if manifest.spec.fingerprint() != config.spec_hash:
        raise BundleError(f"{folder}: the manifest is of another schema than the model; train again")
    return Bundle(folder=folder, config=config, manifest=manifest)


def require_same_schema(bundle: Bundle, data: Path, manifest: Manifest) -> None:
    """BundleError where prepared data has other features, vocabularies or tasks than the bundle was trained on."""
    found = manifest.spec.fingerprint()
    if found != bundle.config.spec_hash:
        raise BundleError(
            f"{data}: prepared with another schema or vocabulary ({_difference(bundle.manifest, manifest)}) than the "
            f"model in {bundle.folder}; evaluate on the data it was trained on ({bundle.config.data}), or train on this"
        )
    for name, expected in bundle.manifest.files.items():
        if name.startswith("vocab/") and manifest.files.get(name) != expected:
            raise BundleError(
                f"{data / name}: not the vocabulary that the model in {bundle.folder} was trained with; "
                f"evaluate on {bundle.config.data}, or train on this data"
            )


def require_same_statistics(bundle: Bundle, data: Path, manifest: Manifest) -> None:
    """BundleError where prepared statistics are smoothed or measured otherwise than those the model learned from.

    Ranking needs no such check: it counts anew, in the bundle's way.
    """
    mine = bundle.manifest
    if (mine.schema.statistics, mine.base_rates) != (manifest.schema.statistics, manifest.base_rates):
        raise BundleError(
            f"{data}: its window statistics are smoothed or measured otherwise than those of the model in "
            f"{bundle.folder}; evaluate on the data it was trained on ({bundle.config.data}), or train on this"
        )


def _difference(mine: Manifest, theirs: Manifest) -> str:
    """The first thing in which two specs differ, in words."""
    for kind in ("tasks", "feedback", "features"):
        one, two = ({p.name: p for p in getattr(m.spec, kind)} for m in (mine, theirs))
        for name in [*one, *two]:
            if one.get(name) != two.get(name):
                return f"{kind}: {name!r} differs"
    if mine.spec.statistics != theirs.spec.statistics:
        return "the window statistics differ"
    if mine.spec.zone != theirs.spec.zone:
        return f"time.zone: {mine.spec.zone} and {theirs.spec.zone}"
    return "the order of features differs"


def _resolve(path: Path) -> Path:
    if (path / "bundle.json").exists():
        return path
    for folder in (path / "bundle", path):
        if (folder / "latest").exists() and folder.name != "checkpoints":
            return folder / (folder / "latest").read_text(encoding="utf-8").strip()
    raise BundleError(f"{path}: no model bundle here; give the folder of a finished run (genrank train … --out RUN)")


def _verify(folder: Path, config: BundleConfig) -> None:
    for name, expected in config.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name}: missing from the bundle; copy the whole folder again, or train again")
        if hash_file(folder / name) != expected:
            raise BundleError(f"{folder / name}: damaged (its SHA-256 has changed); copy it again, or train again")
