"""`run_study`: tuning, cells, throughput, contrasts, pages."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from genrank.bench.machine import describe
from genrank.config import nearest, override, to_dict
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.errors import ConfigError, DataError, Interrupted, MissingExtraError
from genrank.evaluation.page import require
from genrank.evaluation.trees import import_lightgbm
from genrank.runs.train import check_model
from genrank.schema import fingerprint
from genrank.studies.bases import Bases, Size
from genrank.studies.cells import Cell, CellResult
from genrank.studies.grank import grank
from genrank.studies.inference import Contrast, Measured, contrast, measured, speed_verdict, verdict
from genrank.studies.judging import ALL
from genrank.studies.papers import STUDIES as PAPERS
from genrank.studies.progress import StudyProgress
from genrank.studies.sanity import a_a, compare_with_itself
from genrank.studies.scaling import power_law, scaling
from genrank.studies.schedule import Schedule
from genrank.studies.study import Finding, Study, Variant
from genrank.studies.throughput import measure
from genrank.studies.tuning import DEFAULT_GRID, SEED, Choice, Grid, Point, choose, parse_grid, tuned, tuner

OF_RETRIEVAL: Mapping[str, Callable[[Bases], Study]] = {"grank": grank}
STUDIES: Mapping[str, Callable[[Bases], Study]] = {**PAPERS, "scaling": scaling, "a-a": a_a, **OF_RETRIEVAL}
MAX_MEASURING_SECONDS = 120.0
Results = Mapping[str, Mapping[int, CellResult]]  # variant -> seed -> cell; seed -1: the same for any


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is run. seeds: their number; minutes: 0 for no limit; only: variants to keep, beside the baseline."""

    name: str
    seeds: int = 3
    minutes: float = 0.0
    size: Size = "small"
    jobs: int = 1
    grid: tuple[str, ...] = DEFAULT_GRID
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in STUDIES:
            raise ValueError(f"there is no study {self.name!r}; {nearest(self.name, STUDIES)}")
        if self.seeds < 1 or self.jobs < 1 or self.minutes < 0:
            raise ValueError("seeds and jobs must be at least 1, minutes 0 or more")


def run_study(data: Path, out: Path, options: StudyOptions, console: Console) -> dict[str, Any]:
    """Run the study on a prepared folder as far as its budget goes, and its result in plain values.

    Cells are kept in `out`/cells, where later studies of the same data find them. Raises ConfigError and DataError
    before anything is trained where the data or the settings don't serve; Interrupted on SIGINT and SIGTERM.
    """
    began = time.monotonic()
    manifest = Manifest.load(data)
    study, grid = planned(manifest, options), parse_grid(options.grid)
    check(study, grid, manifest)
    data_hash = fingerprint(manifest.files)
    seconds = 60 * options.minutes
    schedule = Schedule(
        data=data,
        cells=out / "cells",
        jobs=options.jobs,
        deadline=began + 0.95 * seconds - min(MAX_MEASURING_SECONDS, 0.1 * seconds) if seconds else None,
    )
    seeds = list(range(options.seeds))
    with _stoppable(study.name, out):
        with StudyProgress(console, study.name, _num_cells(study, grid, seeds)) as progress:
            choices = _tune(study, grid, data_hash, schedule, progress)
            results = _cells(study, choices, seeds, data_hash, schedule, progress)
        speed = _speed(study, choices, results, data, out, options)
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "notes": list(study.notes),
        "data": _about(manifest, data_hash),
        "options": to_dict(options),
        "machine": describe(),
        "seconds": round(time.monotonic() - began, 1),
        **conclude(study, results, seeds, speed),
        "tuning": [choice.to_json() for choice in choices.values()],
        "speed": speed,
    }


@contextmanager
def _stoppable(name: str, out: Path) -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does: its workers too, and with a line that says how to go on."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"study {name} stopped; what was finished is in {out / 'cells'}, and the same command goes on from there"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def planned(manifest: Manifest, options: StudyOptions) -> Study:
    """The study's variants on this data. Raises ConfigError and DataError where they make no sense there."""
    bases = Bases(manifest=manifest, size=options.size, settings=options.settings)
    if options.name not in OF_RETRIEVAL:
        bases.require_binary(options.name)
    bases.require_parts(options.name)
    study = STUDIES[options.name](bases)
    if not options.only:
        return study
    names = [variant.name for variant in study.variants]
    for name in options.only:
        if name not in names:
            raise ConfigError(f"--only {name}: study {study.name} has no such variant; {nearest(name, names)}")
    kept = {study.baseline, *options.only}
    kept |= {variant.tuned_as for variant in study.variants if variant.name in kept and variant.tuned_as}
    return replace(
        study,
        variants=tuple(variant for variant in study.variants if variant.name in kept),
        findings=tuple(finding for finding in study.findings if set(finding.contrast) <= kept),
        axes={axis: {n: x for n, x in points.items() if n in kept} for axis, points in study.axes.items()},
    )


def check(study: Study, grid: Grid, manifest: Manifest) -> None:
    """What would fail in a cell is said before the first one: settings, data, missing packages."""
    require(extra="studies")
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise MissingExtraError("studies need SciPy; pip install 'genrank[studies]'") from None
    for variant in study.variants:
        if variant.yardstick == "trees":
            import_lightgbm()
        for point in grid.points if variant.config else []:
            assert variant.config is not None
            try:
                check_model(tuned(variant.config, point).model, manifest.spec)
            except ValueError as problem:
                raise DataError(f"study {study.name}, {variant.name}: model.{problem}") from None


def _num_cells(study: Study, grid: Grid, seeds: Sequence[int]) -> int:
    total = 0
    for variant in study.variants:
        total += len(_seeds_of(variant, seeds))
        if _is_tuned(variant, grid):
            total += len(grid.points) - (SEED in seeds)  # the winner's cell is one of the table's
    return total


def _is_tuned(variant: Variant, grid: Grid) -> bool:
    return variant.config is not None and not variant.tuned_as and len(grid.points) > 1


def _tune(study: Study, grid: Grid, data_hash: str, schedule: Schedule, progress: StudyProgress) -> dict[str, Choice]:
    wanted, asked = [], dict[str, dict[Point, Cell]]()
    for variant in study.variants:
        if not _is_tuned(variant, grid):
            continue
        assert variant.config is not None
        asked[variant.name] = {
            point: Cell(data=data_hash, seed=SEED, config=tuned(variant.config, point)) for point in grid.points
        }
        wanted += [(f"{variant.name}, {' '.join(point)}", cell) for point, cell in asked[variant.name].items()]
    results = schedule.run(wanted, progress)
    progress.known(-len(asked))  # the winners count among the table's cells
    choices = {}
    for name, cells in asked.items():
        choice = choose(name, {p: results.get(cell.identity) for p, cell in cells.items()}, study.metrics[0])
        if choice is not None:
            choices[name] = choice
    if not len(grid.points) > 1:
        point = grid.points[0]
        choices = {v.name: Choice(variant=v.name, tried={}, best=point) for v in study.variants if v.config}
    return choices


def _cells(
    study: Study,
    choices: Mapping[str, Choice],
    seeds: Sequence[int],
    data_hash: str,
    schedule: Schedule,
    progress: StudyProgress,
) -> dict[str, dict[int, CellResult]]:
    """Seed by seed, so that a study that runs out of time has whole tables of fewer seeds."""
    asked: dict[tuple[str, int], Cell] = {}
    for seed in [-1, *seeds]:
        for variant in study.variants:
            config = _chosen(study, variant, choices)
            if seed in _seeds_of(variant, seeds) and (config is not None or variant.yardstick):
                asked[variant.name, seed] = Cell(data=data_hash, seed=seed, config=config, yardstick=variant.yardstick)
    results = schedule.run([(name, cell) for (name, _), cell in asked.items()], progress)
    table: dict[str, dict[int, CellResult]] = {variant.name: {} for variant in study.variants}
    for (name, seed), cell in asked.items():
        if cell.identity in results:
            table[name][seed] = results[cell.identity]
    return table


def _seeds_of(variant: Variant, seeds: Sequence[int]) -> Sequence[int]:
    return [-1] if variant.yardstick not in (None, "trees") else seeds  # counting knows no seeds


def _chosen(study: Study, variant: Variant, choices: Mapping[str, Choice]) -> Any:
    if variant.config is None:
        return None
    choice = choices.get(tuner(study, variant).name)
    return None if choice is None else tuned(variant.config, choice.best)


def _speed(
    study: Study, choices: Mapping[str, Choice], results: Results, data: Path, out: Path, options: StudyOptions
) -> dict[str, Any]:
    """Throughput by regime, of the variants that could be trained."""
    configs = {
        variant.name: config
        for variant in study.variants
        if (config := _chosen(study, variant, choices)) is not None
        and any(not cell.failed for cell in results[variant.name].values())
    }
    if not study.regimes or study.baseline not in configs:
        return {}
    seconds = min(MAX_MEASURING_SECONDS, 6 * options.minutes if options.minutes else MAX_MEASURING_SECONDS)
    prepared = PreparedData.load(data)
    return {
        regime: measure(
            {name: override(config, settings) for name, config in configs.items()},
            study.baseline, prepared, out / "cells", seconds=seconds / len(study.regimes),
        )
        for regime, settings in study.regimes.items()
    }  # fmt: skip


def conclude(study: Study, results: Results, seeds: Sequence[int], speed: Mapping[str, Any]) -> dict[str, Any]:
    """Rows, findings, fits and sanity from whatever cells there are."""
    parts = _parts(results) if study.slices else [ALL]
    rows = [_row(study, variant, results, seeds, parts, speed) for variant in study.variants]
    concluded: dict[str, Any] = {
        "baseline": study.baseline,
        "metrics": list(study.metrics),
        "slices": parts,
        "rows": rows,
        "findings": [_finding(finding, results, seeds, speed) for finding in study.findings],
    }
    if study.axes:
        concluded["fits"] = _fits(study, results, seeds)
    if study.name == "a-a":
        found = _figures(results, [study.baseline], seeds, "auc", ALL)
        concluded["sanity"] = found and compare_with_itself(
            found[0][study.baseline].value_S, found[0][study.baseline].users_SR
        )
    return concluded


def _parts(results: Results) -> list[str]:
    first = next((c for cells in results.values() for c in cells.values() if not c.failed), None)
    return list(first.figures["test"]) if first else [ALL]


def _figures(
    results: Results, names: Sequence[str], seeds: Sequence[int], metric: str, part: str
) -> tuple[dict[str, Measured], list[int]] | None:
    """Figures of the variants under the seeds that all of them have; None without any."""
    common = [
        seed
        for seed in seeds
        if all(any(s in results[n] and not results[n][s].failed for s in (seed, -1)) for n in names)
    ]
    if not common:
        return None
    found = {name: measured(results[name], common, metric=metric, part=part) for name in names}
    if any(value is None for value in found.values()):
        return None
    return {name: value for name, value in found.items() if value is not None}, common


def _row(
    study: Study,
    variant: Variant,
    results: Results,
    seeds: Sequence[int],
    parts: Sequence[str],
    speed: Mapping[str, Any],
) -> dict[str, Any]:
    cells = results[variant.name]
    done = [cell for cell in cells.values() if not cell.failed]
    row: dict[str, Any] = {
        "variant": variant.name,
        "seeds": len(done),
        "errors": sorted({cell.error for cell in cells.values() if cell.failed}),
        "parameters": done[0].figures.get("parameters") if done else None,
        "seconds": float(np.median([cell.figures["seconds"] for cell in done])) if done else None,
        "speed": {
            regime: figures["figures"][variant.name]
            for regime, figures in speed.items()
            if variant.name in figures["figures"]
        },
        "parts": {},
    }
    for part in parts:
        figures: dict[str, Any] = {}
        for metric in study.metrics:
            own = _figures(results, [variant.name], seeds, metric, part)
            if own is None:
                continue
            value_S = own[0][variant.name].value_S
            figures[metric] = {
                "mean": float(value_S.mean()),
                "deviation": float(value_S.std(ddof=1)) if len(value_S) > 1 else None,
                "values": [float(value) for value in value_S],
            }
            if variant.name != study.baseline:
                against = _figures(results, [variant.name, study.baseline], seeds, metric, part)
                if against is not None:
                    figures[metric]["difference"] = _plain(
                        contrast({variant.name: 1.0, study.baseline: -1.0}, against[0])
                    )
        if done and part in done[0].figures["test"]:
            figures["num_exposures"] = done[0].figures["test"][part]["num_exposures"]
        row["parts"][part] = figures
    return row


def _finding(finding: Finding, results: Results, seeds: Sequence[int], speed: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "claim": finding.claim,
        "kind": finding.kind,
        "metric": finding.metric,
        "slice": finding.slice,
        "paper": finding.paper,
        "size": finding.size,
        "margin": finding.margin if finding.kind in ("parity", "not_below", "at_most") else None,
    }
    if finding.kind == "faster":
        ratio = _ratio(finding, speed)
        return about | {"ratio": ratio, "verdict": speed_verdict(ratio)}
    found = _figures(results, list(finding.contrast), seeds, finding.metric, finding.slice or ALL)
    result = None if found is None else contrast(finding.contrast, found[0])
    return about | {
        "contrast": None if result is None else _plain(result),
        "seeds": 0 if found is None else len(found[1]),
        "verdict": verdict(finding, result),
    }


def _ratio(finding: Finding, speed: Mapping[str, Any]) -> dict[str, float] | None:
    """Throughput of the first variant over the second's, which is the study's baseline."""
    figures = speed.get(finding.regime, {}).get("figures", {}).get(next(iter(finding.contrast)))
    return None if figures is None else dict(figures["over_baseline"])


def _fits(study: Study, results: Results, seeds: Sequence[int]) -> list[dict[str, Any]]:
    fits = []
    for axis, points in study.axes.items():
        done = {n: x for n, x in points.items() if results[n] and not any(c.failed for c in results[n].values())}
        found = _figures(results, list(done), seeds, "neg_logloss", ALL) if done else None
        if found is None:
            continue
        xs = {n: x or float(next(iter(results[n].values())).figures["parameters"]) for n, x in done.items()}
        names = sorted(xs, key=lambda name: xs[name])
        loss_SX = -np.stack([found[0][name].value_S for name in names], axis=1)
        aucs = _figures(results, names, seeds, "auc", ALL)
        fits.append(
            {
                "axis": axis,
                "x": [xs[name] for name in names],
                "variants": names,
                "logloss": [float(value) for value in loss_SX.mean(0)],
                "auc": [float(aucs[0][name].value_S.mean()) for name in names] if aucs else None,
                "fit": power_law([xs[name] for name in names], loss_SX),
            }
        )
    return fits


def _plain(found: Contrast) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "deviation": found.deviation,
        "per_seed": list(found.per_seed),
        "interval": None if found.interval is None else list(found.interval),
        "user_interval": None if found.user_interval is None else list(found.user_interval),
        "p_value": found.p_value,
    }


def _about(manifest: Manifest, data_hash: str) -> dict[str, Any]:
    counts = manifest.counts
    return {
        "name": manifest.schema.name,
        "hash": data_hash,
        "users": counts.users,
        "items": counts.items,
        "exposures": counts.exposures,
        "test_exposures": counts.test.exposures,
        "task": next((task.name for task in manifest.spec.tasks if task.kind == "binary"), ""),
    }
