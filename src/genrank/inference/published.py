"""Published models: immutable versions in a folder, each with golden requests whose scores it must still give.

    MODELS/VERSION/     a bundle, as artifacts/bundle.py writes it
    MODELS/VERSION.golden.json
    MODELS/current      the version to serve; moves last
    MODELS/history      the versions that were current, newest last

A golden request contains its history, so that its scores depend only on the model and its tables, not on other data.
If a publication is interrupted at any point, the earlier version stays current and complete, and publishing can be
repeated.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genrank.artifacts.bundle import Bundle, copy_bundle, load_bundle, require_same_schema
from genrank.config import build
from genrank.data.decoding import Decoder
from genrank.data.manifest import Manifest
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import users_of
from genrank.documents import read_json
from genrank.errors import BundleError
from genrank.folders import read_pointer, replace_text, replacement, writing
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.pasts import NoPast, PastOnDisk
from genrank.inference.ranking_engine import EngineRequest, RankingEngine
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stages import VALUE, StageCandidates, ordered
from genrank.inference.store import Event
from genrank.inference.traffic import events_of
from genrank.schema import fingerprint

NUM_GOLDEN = 8
NUM_CANDIDATES = 20
NUM_EVENTS = 64
GOLDEN_FORMAT = 2
# Of probabilities, and relative of seconds: rounding differs between processors. bf16: logits are within some 0.02.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """A user's events, candidates after them, and the scores that the model gave when it was published."""

    user: str
    events: tuple[dict[str, Any], ...]
    candidates: tuple[str, ...]
    time: int
    scores: dict[str, tuple[float, ...]]  # per task, in the candidates' order
    values: tuple[float, ...]  # in the candidates' order
    ranking: tuple[str, ...]  # the candidates in falling order of value


@dataclass(frozen=True, kw_only=True)
class _GoldenFile:
    """The content of VERSION.golden.json. hash: of the other fields."""

    format: int
    version: str
    requests: tuple[GoldenRequest, ...]
    hash: str


def publish(run: Path, models: Path) -> str:
    """Copy the run's newest bundle to `models` with golden requests, and make it current; returns its version.

    Raises BundleError or DataError if the run has no bundle, or the data that it was trained on is missing,
    OutputError if `models` can't be written or another process publishes there.
    """
    bundle = load_bundle(run)
    target = models / bundle.version
    with writing(models):
        if not _is_whole(target):
            with replacement(target) as part:
                copy_bundle(bundle, part)
        published = load_bundle(target)
        if not _has_golden(published):
            _write_golden(target, golden_requests(bundle))
        check_golden(published)
        _point_to(models, bundle.version)
    return bundle.version


def is_published(folder: Path) -> bool:
    """Whether the folder has published versions."""
    return (folder / "current").is_file()


def current(models: Path) -> str:
    """The version to serve. BundleError if there is none."""
    version = _pointer(models)
    if not (models / version).is_dir():
        raise BundleError(f"{models}: the current version {version!r} is missing; publish it again")
    return version


def roll_back(models: Path) -> str:
    """Make the previous version current again; returns its name. BundleError if there is none."""
    now = _pointer(models)
    with writing(models):
        past = [each for each in _history(models, now) if each != now and (models / each).is_dir()]
        if not past:
            raise BundleError(f"{models}: {now} is the only version published there; there is nothing to roll back to")
        check_golden(load_bundle(models / past[-1]))
        _point_to(models, past[-1])
    return past[-1]


def check_golden(
    bundle: Bundle, *, device: torch.device | str = "cpu", precision: Literal["fp32", "bf16"] = "fp32"
) -> None:
    """BundleError if a published model ranks its golden requests otherwise than when published, on the CPU in fp32.

    device, precision: those of the service; the tolerance depends on the precision.
    """
    requests, tolerance = _read_golden(bundle), TOLERANCE[precision]
    engine = _alone(bundle, requests, device=device, dtype=precision)
    for golden in requests:
        given = _answered(engine, golden, bundle)
        what = _first_difference(golden, given, tolerance)
        if what:
            raise BundleError(
                f"{bundle.folder}: the golden request of user {golden.user} gives other {what} than when it was "
                f"published, on {device} in {precision}; the model has been changed, or this version of genrank "
                "computes otherwise"
            )


def _first_difference(golden: GoldenRequest, given: GoldenRequest, tolerance: float) -> str:
    """How an answer differs from the published one, beyond rounding; empty if it doesn't."""
    for task, expected in golden.scores.items():
        if not _close(given.scores[task], expected, tolerance):
            return f"{task} scores"
    if not _close(given.values, golden.values, tolerance):
        return "values"
    value = dict(zip(golden.candidates, golden.values, strict=True))
    ours, theirs = ([value[item] for item in ranking] for ranking in (given.ranking, golden.ranking))
    return "" if _close(ours, theirs, tolerance) else "order of candidates"


def _close(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> bool:
    return len(ours) == len(theirs) and np.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def golden_requests(bundle: Bundle, *, seed: int = 0) -> list[GoldenRequest]:
    """Some users' last events in the data that the model was trained on, and items drawn at random."""
    data, manifest = Path(bundle.config.data), bundle.manifest
    require_same_schema(bundle, data, Manifest.open(data))
    with_history, past = users_of(data), PastOnDisk(data, manifest.spec)
    items, users = (FeatureTable.load(data, owner, manifest.spec) for owner in ("item", "user"))
    decoder, random = Decoder(data, manifest), np.random.default_rng(seed)
    asked = []
    for row in with_history[random.permutation(len(with_history))[:NUM_GOLDEN]].tolist():
        t, user = past.of(row), str(users.ids[row])
        rows = np.arange(t.num_exposures)[-NUM_EVENTS:]
        drawn = 1 + random.choice(len(items) - 1, min(NUM_CANDIDATES, len(items) - 1), replace=False)
        asked.append(
            GoldenRequest(
                user=user,
                events=tuple(_raw(event) for event in events_of(t, rows, user=user, items=items, decoder=decoder)),
                candidates=tuple(str(items.ids[int(item)]) for item in drawn),
                time=manifest.split.last_time + 1,
                scores={},
                values=(),
                ranking=(),
            )
        )
    engine = _alone(bundle, asked)
    return [_answered(engine, golden, bundle) for golden in asked]


def _answered(engine: RankingEngine, golden: GoldenRequest, bundle: Bundle) -> GoldenRequest:
    """The request with the answer of the engine."""
    rows = engine.histories.catalogue.find(golden.candidates)
    (found,) = engine.score([EngineRequest(user=golden.user, items=rows, time=golden.time)])
    ranked = ordered(StageCandidates(ids=golden.candidates, rows=rows, columns=found.scores), bundle.config.value)
    value = dict(zip(ranked.ids, ranked.columns[VALUE].tolist(), strict=True))
    return replace(
        golden,
        scores={task: tuple(score.tolist()) for task, score in found.scores.items()},
        values=tuple(value[item] for item in golden.candidates),
        ranking=tuple(ranked.ids),
    )


def _alone(
    bundle: Bundle,
    requests: Sequence[GoldenRequest],
    *,
    device: torch.device | str = "cpu",
    dtype: Literal["fp32", "bf16"] = "fp32",
) -> RankingEngine:
    """An engine over the bundle and the requests' events only, without prepared histories and statistics."""
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
    return RankingEngine(
        bundle.model(device),
        bundle.config.sequence,
        version=bundle.version,
        histories=histories,
        device=device,
        dtype=dtype,
        graphs=False,  # eight requests are not worth a capture
    )


def _raw(event: Event) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if name != "user"}


def _pointer(models: Path) -> str:
    remedy = f"run genrank publish RUN --to {models}"
    if not is_published(models):
        raise BundleError(f"{models}: no model is published there; {remedy}")
    return read_pointer(models / "current", error=BundleError, remedy=remedy)


def _golden(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.golden.json")


def _write_golden(folder: Path, requests: Sequence[GoldenRequest]) -> None:
    values = {"format": GOLDEN_FORMAT, "version": folder.name, "requests": [asdict(each) for each in requests]}
    replace_text(_golden(folder), json.dumps({**values, "hash": fingerprint(values)}) + "\n")


def _read_golden(bundle: Bundle) -> Sequence[GoldenRequest]:
    path, remedy = _golden(bundle.folder), f"run genrank publish RUN --to {bundle.folder.parent} again"
    values = read_json(path, error=BundleError, remedy=remedy)
    if values.get("format") != GOLDEN_FORMAT:
        raise BundleError(f"{path}: not golden requests of format {GOLDEN_FORMAT}; {remedy}")
    found = build(_GoldenFile, values, where=str(path), error=BundleError)
    if found.hash != fingerprint({name: values[name] for name in values if name != "hash"}):
        raise BundleError(f"{path}: edited or damaged; {remedy}")
    if found.version != bundle.version:
        raise BundleError(f"{path}: of version {found.version[:200]!r}, not {bundle.version}; {remedy}")
    tasks = {task.name for task in bundle.manifest.spec.tasks}
    if not found.requests or any(set(each.scores) != tasks or not each.candidates for each in found.requests):
        raise BundleError(f"{path}: holds no golden requests for the model's tasks; {remedy}")
    return found.requests


def _has_golden(bundle: Bundle) -> bool:
    try:
        return bool(_read_golden(bundle))
    except BundleError:
        return False


def _is_whole(folder: Path) -> bool:
    try:
        return folder.is_dir() and load_bundle(folder).folder == folder
    except BundleError:
        return False


def _history(models: Path, now: str = "") -> list[str]:
    """The versions that were current, newest last. now: the last to return; a publication may have been interrupted."""
    path = models / "history"
    past = path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []
    past = [version for version in past if Path(version).name == version]
    return past[: len(past) - past[::-1].index(now)] if now in past else past


def _point_to(models: Path, version: str) -> None:
    now = _pointer(models) if is_published(models) else ""
    past = _history(models, now)
    if not past or past[-1] != version:
        replace_text(models / "history", "\n".join([*past, version]) + "\n")
    replace_text(models / "current", version + "\n")
