"""A training run: from a prepared folder to a run folder with checkpoints, metrics and a model bundle.

run/config.json        the resolved configuration, every default written out
run/data.json          the prepared folder, and hashes of what is learned from it; see data_record.py
run/environment.json   versions, machine, threads, command
run/warnings.json      sentences on how the recipe does not fit the data
run/metrics.jsonl      a row per logged step and validation; equal runs write equal files
run/tensorboard/ checkpoints/ bundle/
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn

from genrank.artifacts.bundle import write_bundle
from genrank.config import build, to_dict
from genrank.data.learned_days import with_learned_days
from genrank.data.manifest import Manifest
from genrank.data.pools import StoredData
from genrank.documents import read_json
from genrank.errors import BundleError, ConfigError, OutputError
from genrank.folders import clear_leftovers, refuse_occupied, replace_text, writing
from genrank.models.ranker import Ranker
from genrank.nn.devices import device_named
from genrank.retrieval.retriever import Retriever
from genrank.runs.data_record import DataRecord, require_same_data
from genrank.runs.fit import Siblings, misfit, unfinished
from genrank.runs.learner import learner_of
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import RunData
from genrank.runs.selection import check_selection, selecting
from genrank.runs.warm_start import checked_start, start_warm
from genrank.training.allocator import keep_freed_memory
from genrank.training.checkpoint import Checkpoints
from genrank.training.progress import MetricsFile, Reporter, TensorBoard
from genrank.training.progress_bar import ProgressBar
from genrank.training.trainer import Trainer

log = logging.getLogger(__name__)
BEGUN = ("data.json", "environment.json")  # the files of a run before it has its configuration


def start_run(data: Path, config: RunConfig, out: Path) -> None:
    """Create the run folder with data.json, environment.json and config.json. OutputError if it is occupied."""
    _refuse_run(out)
    manifest = with_learned_days(Manifest.open(data), data, config.days)
    _check_tasks(data, config, manifest)
    _check_slots(data, config, manifest)
    if config.leak != "none" and not manifest.spec.known_later:
        raise ConfigError(
            f"{data}: leak={config.leak}, and its actions have no times of their own that could be ignored; set "
            "leak=none, or name the times in the log's schema ([columns] known_at, [[tasks]] time, [history] settle)"
        )
    check_selection(config, manifest)
    if config.warm_start.run:
        config = checked_start(config, load_run(Path(config.warm_start.run))[0], data, manifest)
    check_model(data, config, manifest)
    record = DataRecord.of(data, manifest)
    with writing(out):
        _refuse_run(out)  # another process may have been faster
        _write_json(out / "data.json", to_dict(record))
        _write_json(out / "environment.json", environment())
        _write_json(out / "config.json", to_dict(config))  # last: a folder without it is no run


def _refuse_run(out: Path) -> None:
    """OutputError if `out` has other files than those of a run whose start was interrupted."""
    if (out / "config.json").exists():
        raise OutputError(
            f"{out}: the output folder is not empty, it holds a run; go on with --resume or choose another"
        )
    begun = out.is_dir() and all(each.name in BEGUN or each.name.startswith(".") for each in out.iterdir())
    if not begun:
        refuse_occupied(out)


def load_run(out: Path) -> tuple[RunConfig, Path]:
    """(configuration, prepared folder) of a run. BundleError if `out` is no run."""
    path, remedy = out / "config.json", f"start a run with genrank train DATA --out {out}"
    if not path.is_file():
        raise BundleError(f"{out}: no run here (no {path.name}); {remedy}")
    values = read_json(path, error=BundleError, remedy=remedy)
    return build(RunConfig, values, where=str(path), error=BundleError), Path(DataRecord.read(out).folder)


def train(
    out: Path,
    console: Console,
    *,
    resume: bool = False,
    displays: bool = True,
    siblings: Siblings | None = None,
) -> Path:
    """Run or continue the training in the run folder `out`; returns the path of the model bundle.

    displays: a progress bar, and events for TensorBoard. siblings: recipes to name if this one doesn't fit the data.
    OutputError if another process trains there.
    """
    load_run(out)  # a folder that is no run is left as it is
    with writing(out):
        clear_leftovers(out / "checkpoints")
        return _train(out, console, resume=resume, displays=displays, siblings=siblings)


def _train(out: Path, console: Console, *, resume: bool, displays: bool, siblings: Siblings | None) -> Path:
    config, folder = load_run(out)
    device = configure_torch(config)
    learner = learner_of(config.model)
    data = StoredData.open(
        folder, days=config.days, at_once=config.training_leaks, view=lambda spec: learner.view(config, spec)
    )
    require_same_data(out, data, config)
    torch.manual_seed(config.seed)
    spec = data.manifest.spec
    model = config.model.build(spec, max_history=config.sequence.max_history).to(device)
    run_data = RunData.of(data, config, pin=device.type == "cuda")
    loader, held_out = run_data.loader, run_data.held_out
    checkpoints = Checkpoints(out / "checkpoints")
    latest = checkpoints.latest() if resume else None
    metrics = MetricsFile(out / "metrics.jsonl")
    trainer = Trainer(
        model,
        loader,
        config.training,
        checkpoints=checkpoints,
        objective=learner.objective(model, loader, config, device),
        validate=None
        if held_out is None
        else selecting(lambda: learner.validation_figures(model, held_out, config), config, spec),
        reporters=[metrics],
    )
    if latest is not None:
        trainer.restore(latest)
    elif config.warm_start.run:
        start_warm(trainer, config, data.items, spec)
    metrics.rewind(trainer.step)
    _describe(model, trainer, console, begun_from=config.warm_start.run)
    steps = trainer.num_steps
    warnings = [run_data.warning] if run_data.warning else []
    if not config.warm_start.run:  # else what was learned before counts too
        unfit = misfit(model, config, spec, loader.sizes, num_steps=steps, siblings=siblings)
        warnings += [warning for warning in (unfit, unfinished(config, num_steps=steps)) if warning]
    _write_json(out / "warnings.json", warnings)
    for warning in warnings:
        console.print(f"[bold yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    shown = _displays(out, learner.main_figure(spec), console, trainer.step) if displays else []
    trainer.reporters = [metrics, *shown]
    try:
        trainer.fit()
    finally:
        for reporter in trainer.reporters:
            reporter.close()
    value = config.value or {task.name: 1.0 for task in spec.tasks[:1]}
    trained = cast(Ranker | Retriever, model)
    return write_bundle(
        out / "bundle", trained, data=folder, manifest=data.manifest, sequence=config.sequence, value=value
    )


def configure_torch(config: RunConfig) -> torch.device:
    """Set the threads, and return the device of a run. ConfigError if there is no such device."""
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    device = device_named(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # see genrank.nn.devices, `on_device`
    return device


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    packages = ("genrank", "torch", "numpy", "pyarrow", "ibis-framework", "duckdb")
    installed = {name: importlib.metadata.version(name) for name in packages if _is_installed(name)}
    return {
        "versions": {"python": platform.python_version(), **installed},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "command": ["genrank", *sys.argv[1:]],
    }


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _displays(out: Path, main_figure: str, console: Console, step: int) -> list[Reporter]:
    displays: list[Reporter] = [ProgressBar(console, main_figure)]
    if importlib.util.find_spec("tensorboard") is None:
        log.warning("TensorBoard is not installed, so no events are written; pip install 'genrank[report]'")
    else:
        displays.append(TensorBoard(out / "tensorboard", purge_step=step + 1))
    return displays


def _describe(model: nn.Module, trainer: Trainer, console: Console, *, begun_from: str) -> None:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    sizes = trainer.loader.sizes
    console.print(
        f"{num_parameters:,} parameters; {sizes.num_exposures:,} exposures to learn from in {len(sizes):,} "
        f"sequences with {sizes.num_tokens - sizes.num_exposures:,} history tokens; {trainer.num_steps:,} steps"
        + (f"; begun from {begun_from}" if begun_from else "")
        + (f"; resumed at step {trainer.step:,}" if trainer.step else ""),
        highlight=False,
    )


def _check_tasks(data: Path, config: RunConfig, manifest: Manifest) -> None:
    if not manifest.spec.tasks and not config.model.retrieves:
        raise ConfigError(
            f"{data}: has no tasks, so there is nothing to rank by; a retrieval recipe (--recipe grank) can learn from "
            "it, or name an action under [[tasks]] of its schema"
        )
    tasks = {task.name: 1.0 for task in manifest.spec.tasks}
    for setting, weights in (("value", config.value), ("training.task_weights", config.training.task_weights)):
        for task in weights:
            if task not in tasks:
                raise ConfigError(f"{setting}.{task}: the data has no such task; there is: {', '.join(tasks)}")


def check_model(data: Path, config: RunConfig, manifest: Manifest) -> None:
    """ConfigError where the data does not have what the model's settings name."""
    try:
        config.model.check(manifest.spec, num_items=manifest.counts.items)
    except ValueError as problem:
        raise ConfigError(f"{data}: model.{problem}") from None


def _check_slots(data: Path, config: RunConfig, manifest: Manifest) -> None:
    if config.model.position_feature and manifest.schema.columns.position is None:
        raise ConfigError(
            f"{data}: model.position_feature needs the slot of every exposure, and the log's schema names no column "
            "for it; set position under [columns] and prepare again"
        )


def _write_json(path: Path, values: Any) -> None:
    replace_text(path, json.dumps(values, indent=1) + "\n")
