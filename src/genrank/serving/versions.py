"""Published models: immutable versions in a folder, each with golden requests whose scores it must still give.

    MODELS/VERSION/     a bundle, as serving/bundle.py writes it
    MODELS/VERSION.golden.json
    MODELS/current      the version to serve; moves last
    MODELS/history      the versions that were current, newest last

A golden request brings its history along, so that it asks the model and its tables only, not the data beside them.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrank.data.decoding import Decoder
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines
from genrank.errors import BundleError
from genrank.folders import new_folder, replace_text
from genrank.serving.bundle import Bundle, load_bundle
from genrank.serving.catalogue import Catalogue
from genrank.serving.engine import Engine, EngineRequest
from genrank.serving.histories import Histories, NoPast
from genrank.serving.store import Event, SQLiteStore
from genrank.serving.traffic import events_of

NUM_GOLDEN = 8
NUM_CANDIDATES = 20
NUM_EVENTS = 64
TOLERANCE = 1e-3  # of probabilities, and relative of seconds: other processors round otherwise


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """A user's events, candidates behind them, and the scores that the model gave when it was published."""

    user: str
    events: tuple[dict[str, Any], ...]
    candidates: tuple[str, ...]
    time: int
    scores: dict[str, list[float]]  # per task, in the candidates' order


def publish(run: Path, models: Path) -> str:
    """Copy the run's newest bundle to `models` with golden requests, and make it current; its version.

    Raises BundleError where the run has none, or where the data that it was trained on isn't there.
    """
    bundle = load_bundle(run)
    target = models / bundle.version
    if not target.exists():
        golden = golden_requests(bundle)
        with new_folder(target) as part:
            shutil.copytree(bundle.folder, part, dirs_exist_ok=True)
        replace_text(_golden(target), json.dumps([asdict(each) for each in golden]) + "\n")
    check_golden(load_bundle(target))
    _point_to(models, bundle.version)
    return bundle.version


def is_published(folder: Path) -> bool:
    """Whether the folder holds published versions."""
    return (folder / "current").is_file()


def current(models: Path) -> str:
    """The version to serve. BundleError where there is none."""
    version = _pointer(models)
    if not version or not (models / version).is_dir():
        raise BundleError(f"{models}: the current version {version!r} is missing; publish it again")
    return version


def roll_back(models: Path) -> str:
    """Make the version that was current before current again; its name. BundleError where there is none."""
    now = _pointer(models)
    past = [version for version in _history(models) if version != now and (models / version).is_dir()]
    if not past:
        raise BundleError(f"{models}: {now} is the only version that was published; there is nothing to roll back to")
    _point_to(models, past[-1])
    return past[-1]


def check_golden(bundle: Bundle) -> None:
    """BundleError where a published model doesn't give the scores of its golden requests, on the CPU in fp32."""
    path = _golden(bundle.folder)
    try:
        requests = [GoldenRequest(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as problem:
        raise BundleError(f"{path}: can't be read ({problem}); publish the model again") from None
    engine = _alone(bundle, requests)
    for golden in requests:
        given = _score(engine, golden)
        for task, expected in golden.scores.items():
            if not np.allclose(given.get(task, np.nan), expected, atol=TOLERANCE, rtol=TOLERANCE):
                raise BundleError(
                    f"{bundle.folder}: the golden request of user {golden.user} gives other {task} scores than when it "
                    "was published; the model has been changed, or this version of genrank computes otherwise"
                )


def golden_requests(bundle: Bundle, *, seed: int = 0) -> list[GoldenRequest]:
    """Some users' last events in the data that the model was trained on, and items drawn at random."""
    data, manifest = Path(bundle.config.data), bundle.manifest
    t = Timelines.load(data, manifest.spec)
    items, users = (FeatureTable.load(data, owner, manifest.spec) for owner in ("item", "user"))
    decoder, random = Decoder(data, manifest), np.random.default_rng(seed)
    asked = []
    for index in random.permutation(len(t.users))[:NUM_GOLDEN].tolist():
        rows = np.arange(t.offsets[index], t.offsets[index + 1])[-NUM_EVENTS:]
        user = str(users.ids[int(t.users[index])])
        drawn = 1 + random.choice(len(items) - 1, min(NUM_CANDIDATES, len(items) - 1), replace=False)
        asked.append(
            GoldenRequest(
                user=user,
                events=tuple(_raw(event) for event in events_of(t, rows, user=user, items=items, decoder=decoder)),
                candidates=tuple(str(items.ids[int(item)]) for item in drawn),
                time=manifest.split.last_time + 1,
                scores={},
            )
        )
    engine = _alone(bundle, asked)
    return [replace(golden, scores=_score(engine, golden)) for golden in asked]


def _score(engine: Engine, golden: GoldenRequest) -> dict[str, list[float]]:
    rows = engine.histories.catalogue.find(golden.candidates)
    (found,) = engine.score([EngineRequest(user=golden.user, items=rows, time=golden.time)])
    return {task: score.tolist() for task, score in found.scores.items()}


def _alone(bundle: Bundle, requests: Sequence[GoldenRequest]) -> Engine:
    """An engine of the bundle and the requests' events, with no past and no statistics beside them."""
    store, spec = SQLiteStore(":memory:"), bundle.manifest.spec
    store.append([Event(user=golden.user, **event) for golden in requests for event in golden.events])
    items, users = (FeatureTable.load(bundle.folder, owner, spec) for owner in ("item", "user"))
    histories = Histories(
        bundle.folder,
        bundle.manifest,
        past=NoPast(spec),
        catalogue=Catalogue(items, bundle.folder, bundle.manifest),
        users=users,
        store=store,
    )
    return Engine(bundle.model(), bundle.config.sequence, version=bundle.version, histories=histories, users=users)


def _raw(event: Event) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if name != "user"}


def _pointer(models: Path) -> str:
    try:
        return (models / "current").read_text(encoding="utf-8").strip()
    except OSError:
        raise BundleError(f"{models}: no model is published there; run genrank publish RUN --to {models}") from None


def _golden(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.golden.json")


def _history(models: Path) -> list[str]:
    path = models / "history"
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _point_to(models: Path, version: str) -> None:
    past = _history(models)
    if not past or past[-1] != version:
        replace_text(models / "history", "\n".join([*past, version]) + "\n")
    replace_text(models / "current", version + "\n")
