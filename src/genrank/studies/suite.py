"""`run_study`: tuning, cells, throughput, contrasts, pages."""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from genrank.studies.catalogue import OF_RETRIEVAL, STUDIES
from genrank.studies.cells import Cell, CellResult
from genrank.studies.code import made_with
from genrank.studies.conclusions import Results, conclude
from genrank.studies.progress import StudyProgress
from genrank.studies.schedule import Schedule
from genrank.studies.study import Study, Variant
from genrank.studies.throughput import measure
from genrank.studies.tuning import DEFAULT_GRID, SEED, Choice, Grid, Point, choose, parse_grid, tuned, tuner

MAX_MEASURING_SECONDS = 120.0


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
        "made": made_with(),
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
                check_model(tuned(variant.config, point).model, manifest)
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
