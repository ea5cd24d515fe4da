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
from genrank.schema import fingerprint
from genrank.studies.all_studies import OF_RETRIEVAL, STUDIES
from genrank.studies.bases import Bases, Size
from genrank.studies.cells import Cell, CellResult
from genrank.studies.code import made_with
from genrank.studies.conclusions import Evidence, Results, conclude
from genrank.studies.schedule import Schedule
from genrank.studies.study import COUNT_BASED, RANKING, Study, Variant
from genrank.studies.study_progress import StudyProgress
from genrank.studies.throughput import measure
from genrank.studies.tuning import DEFAULT_GRID, SEED, Choice, Grid, Point, TuningSearch, in_turn, parse_grid, tuned

MAX_MEASURING_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is run.

    seeds: number of seeds; minutes: time budget, 0 for none; trials: most tuning trials of each ranker; only: variants
    to keep, besides the baseline.
    """

    name: str
    seeds: int = 3
    minutes: float = 0.0
    size: Size = "small"
    jobs: int = 1
    grid: tuple[str, ...] = DEFAULT_GRID
    trials: int = 15
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in STUDIES:
            raise ValueError(f"there is no study {self.name!r}; {nearest(self.name, STUDIES)}")
        if self.seeds < 1 or self.jobs < 1 or self.trials < 1 or self.minutes < 0:
            raise ValueError("seeds, jobs and trials must be at least 1, minutes 0 or more")


def run_study(data: Path, out: Path, options: StudyOptions, console: Console) -> dict[str, Any]:
    """Run the study on a prepared folder within its budget, and return its result in plain values.

    Cells are kept in `out`/cells, or packed beside it, where later studies of the same data find them. Raises
    ConfigError and DataError before any training if the data or the settings don't suit the study; Interrupted on
    SIGINT and SIGTERM.
    """
    began = time.monotonic()
    manifest = Manifest.open(data)
    study, grid = planned(manifest, options), parse_grid(options.grid, options.settings)
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
        with StudyProgress(console, study.name, _num_cells(study, grid, options)) as progress:
            choices = _tune(study, grid, data_hash, options.trials, schedule, progress)
            cells = _cells(study, choices, seeds, data_hash)
            results = _computed(study, cells, schedule, progress)
            baselines = _baselines(study, data_hash)
            baseline_results = _computed_baselines(baselines, schedule, progress)
        speed = _speed(study, choices, results, data, out, options)
    evidence = Evidence(
        results=results,
        seeds=seeds,
        baselines=baseline_results,
        choices=choices,
        speed=speed,
        leaks=leaks(manifest),
    )
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "notes": [*study.notes, *(f"Warning of the data: {found.message}" for found in manifest.warnings)],
        "data": _about(manifest, data_hash),
        "options": to_dict(options),
        "machine": describe(),
        "made": made_with(),
        "seconds": round(time.monotonic() - began, 1),
        **conclude(study, evidence),
        "tuning": [choice.to_json() for choice in choices.values()],
        "cells": _identities(cells, results),
        "counting_cells": {name: baselines[name].identity for name in baseline_results},
        "speed": speed,
    }


@contextmanager
def _stoppable(name: str, out: Path) -> Iterator[None]:
    """SIGTERM stops a study as Ctrl-C does: it ends the workers, and the message says how to continue."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"study {name} stopped; finished cells are in {out / 'cells'}; run the same command again to continue"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def planned(manifest: Manifest, options: StudyOptions) -> Study:
    """The study with its variants for this data. Raises ConfigError and DataError if the data doesn't suit it."""
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
    """Check settings, data and installed packages before the first cell is computed."""
    require(extra="studies")
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise MissingExtraError("studies need SciPy; pip install 'genrank[studies]'") from None
    for variant in study.variants:
        if variant.classical == "trees":
            import_lightgbm()
        for point in _first_points(variant, grid):
            assert variant.config is not None
            try:
                model = tuned(variant.config, point).model
                model.check(manifest.spec, num_items=manifest.counts.items)
            except ValueError as problem:
                raise DataError(f"study {study.name}, {variant.name}: model.{problem}") from None


def _first_points(variant: Variant, grid: Grid) -> list[Point]:
    """The start of the variant's grid, and every other value of one axis with the rest of the start."""
    if variant.config is None:
        return []
    own = grid.of(variant.config, variant.axes)
    start = own.start
    return [start] + [
        (*start[:place], f"{path}={value}", *start[place + 1 :])
        for place, (path, values) in enumerate(own.values.items())
        for value in values[1:]
    ]


def _num_cells(study: Study, grid: Grid, options: StudyOptions) -> int:
    """The largest possible number of cells: tuning ends earlier if every ranker's optimum is interior."""
    tables = sum(len(_seeds_of(variant, range(options.seeds))) for variant in study.variants)
    tables += len(COUNT_BASED) if study.metrics == RANKING else 0
    return tables + options.trials * sum(_is_tuned(variant, grid) for variant in study.variants)


def _is_tuned(variant: Variant, grid: Grid) -> bool:
    return variant.config is not None and not variant.tuned_as and grid.is_tuned


def _tune(
    study: Study, grid: Grid, data_hash: str, trials: int, schedule: Schedule, progress: StudyProgress
) -> dict[str, Choice]:
    """Tune all rankers. A round that the budget cuts short is dropped, so that all have the same number of trials."""
    searches = [
        TuningSearch.of(variant.name, variant.config, grid.of(variant.config, variant.axes))
        for variant in study.variants
        if variant.config is not None and _is_tuned(variant, grid)
    ]
    if not searches:
        return {
            v.name: Choice(variant=v.name, tried={}, best=grid.of(v.config, {}).start)
            for v in study.variants
            if v.config is not None and not v.tuned_as
        }
    spent = 0
    for proposed in in_turn(searches, trials):
        cells = [Cell(data=data_hash, seed=SEED, config=tuned(search.config, point)) for search, point in proposed]
        names = [f"{search.variant}, {' '.join(point)}" for search, point in proposed]
        results = schedule.run(list(zip(names, cells, strict=True)), progress)
        spent += len(proposed)
        if any(cell.identity not in results for cell in cells):
            break
        for (search, point), cell in zip(proposed, cells, strict=True):
            found = results[cell.identity]
            search.tried[point] = None if found.failed else found.figures["valid"][study.metrics[0]]
    progress.known(trials * len(searches) - spent)
    choices = [search.choice(study.metrics[0]) for search in searches]
    return {choice.variant: choice for choice in choices if choice is not None}


def _baselines(study: Study, data_hash: str) -> dict[str, Cell]:
    """Cells of the count-based baselines, which show whether a ranker has learned anything; none for retrieval."""
    if study.metrics != RANKING:
        return {}
    return {name: Cell(data=data_hash, seed=-1, classical=name) for name in COUNT_BASED}


def _computed_baselines(
    baselines: Mapping[str, Cell], schedule: Schedule, progress: StudyProgress
) -> dict[str, CellResult]:
    results = schedule.run(list(baselines.items()), progress)
    return {name: results[cell.identity] for name, cell in baselines.items() if cell.identity in results}


def _cells(
    study: Study, choices: Mapping[str, Choice], seeds: Sequence[int], data_hash: str
) -> dict[tuple[str, int], Cell]:
    """(variant, seed) -> cell, seed by seed, so that a study that runs out of time has full tables of fewer seeds."""
    cells = {}
    for seed in [-1, *seeds]:
        for variant in study.variants:
            config = _chosen(study, variant, choices)
            if seed in _seeds_of(variant, seeds) and (config is not None or variant.classical):
                cells[variant.name, seed] = Cell(data=data_hash, seed=seed, config=config, classical=variant.classical)
    return cells


def _computed(
    study: Study, cells: Mapping[tuple[str, int], Cell], schedule: Schedule, progress: StudyProgress
) -> dict[str, dict[int, CellResult]]:
    results = schedule.run([(name, cell) for (name, _), cell in cells.items()], progress)
    table: dict[str, dict[int, CellResult]] = {variant.name: {} for variant in study.variants}
    for (name, seed), cell in cells.items():
        if cell.identity in results:
            table[name][seed] = results[cell.identity]
    return table


def _identities(cells: Mapping[tuple[str, int], Cell], results: Results) -> dict[str, dict[str, str]]:
    """The cells that hold the figures: variant -> seed -> identity."""
    return {name: {str(seed): cells[name, seed].identity for seed in by_seed} for name, by_seed in results.items()}


def _seeds_of(variant: Variant, seeds: Sequence[int]) -> Sequence[int]:
    return [-1] if variant.classical not in (None, "trees") else seeds  # count-based baselines have no seed


def _chosen(study: Study, variant: Variant, choices: Mapping[str, Choice]) -> Any:
    if variant.config is None:
        return None
    choice = choices.get(study.tuner(variant.name))
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


def leaks(manifest: Manifest) -> list[str]:
    """The leakage warnings of preparation."""
    return [found.message for found in manifest.warnings if found.kind == "leakage"]


def _about(manifest: Manifest, data_hash: str) -> dict[str, Any]:
    counts = manifest.counts
    return {
        "name": manifest.schema.name,
        "hash": data_hash,
        "users": counts.users,
        "items": counts.items,
        "exposures": counts.exposures,
        "test_exposures": counts.test.exposures,
        "leaks": leaks(manifest),
        "task": next((task.name for task in manifest.spec.tasks if task.kind == "binary"), ""),
    }
