"""Computes one cell: trains and evaluates a run, or evaluates a classical baseline."""

import io
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from genrank.artifacts.bundle import load_bundle
from genrank.data.loader import LoaderConfig
from genrank.data.manifest import Manifest
from genrank.data.pools import StoredData, StoredPart
from genrank.data.sequence import SequenceConfig
from genrank.documents import read_json_lines
from genrank.errors import BundleError, GenRankError, InputError, Interrupted
from genrank.models.ranker import Ranker
from genrank.retrieval.retriever import Retriever
from genrank.runs.evaluate_ranking import add_trees, evaluation_sequence, predicted_with_baselines
from genrank.runs.evaluate_retrieval import located
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import evaluation_loading
from genrank.runs.selection import Figure
from genrank.runs.selection import choices as selections
from genrank.runs.train import configure_torch, start_run, train
from genrank.schema import DataSpec
from genrank.studies.cells import Cell, CellResult
from genrank.studies.judging import judge, judge_retrieval
from genrank.studies.study import RETRIEVAL


def compute(cell: Cell, data: Path, workplace: Path, *, threads: int) -> CellResult:
    """The cell's result. A failure that a retry would repeat is a result with its error.

    workplace: temporary folder of the run, removed at the end. Raises Interrupted, and InputError for bad input.
    """
    torch.set_num_threads(threads)
    try:
        figures = _run(cell, data, workplace, threads) if cell.config else _classical(cell, data)
    except (Interrupted, InputError):
        raise
    except GenRankError as problem:
        return CellResult(figures={}, error=str(problem))
    except Exception as problem:  # noqa: BLE001 - a bug in one cell must not end the study; the page shows it
        place = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return CellResult(figures={}, error=f"{type(problem).__name__} at {where}: {problem}")
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return CellResult(figures=figures)


def _run(cell: Cell, data: Path, workplace: Path, threads: int) -> dict[str, Any]:
    assert cell.config is not None
    config = replace(cell.config, seed=cell.seed, threads=threads)
    shutil.rmtree(workplace, ignore_errors=True)
    start_run(data, config, workplace)
    began = time.monotonic()
    train(workplace, Console(file=io.StringIO()), displays=False)
    seconds = time.monotonic() - began
    bundle, device = load_bundle(workplace), configure_torch(config)
    model: Ranker | Retriever
    stored = StoredData.open(data, days=config.days, at_once=config.evaluation_leaks and not config.model.retrieves)
    if config.model.retrieves:
        model = bundle.retriever(device)
        judged = {
            "test": judge_retrieval(located(model, stored, config, "test")[0]),
            "valid": _best(workplace, config, stored.manifest.spec),
        }
        curve = _curve(workplace, {RETRIEVAL[0]: RETRIEVAL[0]})
    else:
        model, task = bundle.model(device), first_binary(stored.manifest)
        part = _test_part(stored, config, evaluation_sequence(config))
        predictions, _ = predicted_with_baselines(model, part)
        judged = {
            "test": judge(predictions, task, predictions.scores[task]),
            "valid": _validation(workplace, task, config, stored.manifest.spec),
        }
        curve = _curve(workplace, {"auc": f"auc/{task}"})
    return {
        **judged,
        "curve": curve,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 2),
        "threads": threads,
    }


def _test_part(stored: StoredData, config: RunConfig, sequence: SequenceConfig) -> StoredPart:
    return StoredPart(
        data=stored, part="test", sequence=sequence, search=config.model.search, loading=evaluation_loading(config)
    )


def _validation(run: Path, task: str, config: RunConfig, spec: DataSpec) -> dict[str, float | None]:
    """Validation figures of the weights that were kept."""
    kept = _kept(run, config, spec, ("loss", -1))
    loss = kept.get(f"loss/{task}")
    return {
        "auc": kept.get(f"auc/{task}"),
        "gauc": kept.get(f"gauc/{task}"),
        "neg_logloss": None if loss is None else -loss,
        "exposures": kept["exposures"],
    }


def _best(run: Path, config: RunConfig, spec: DataSpec) -> dict[str, float]:
    """Validation figures of the retriever's weights that were kept."""
    kept = _kept(run, config, spec, ("ndcg@10", 1))
    return {metric: kept[metric] for metric in RETRIEVAL}


def _kept(run: Path, config: RunConfig, spec: DataSpec, default: Figure) -> dict[str, Any]:
    """The validation whose weights were kept: see runs/selection.py."""
    select = config.training.select
    figure, sign = selections(config, spec)[select] if select else default
    return max(_validations(run), key=lambda row: sign * row[figure])


def _curve(run: Path, names: Mapping[str, str]) -> list[dict[str, float | None]]:
    """The main figure of every validation, by exposures trained on. names: figure -> its name in metrics.jsonl."""
    return [
        {"exposures": row["exposures"], **{name: row.get(key) for name, key in names.items()}}
        for row in _validations(run)
    ]


def _validations(run: Path) -> list[dict[str, Any]]:
    rows = read_json_lines(run / "metrics.jsonl", error=BundleError, remedy="run the study again")
    return [row for row in rows if row["kind"] == "valid"]


def _classical(cell: Cell, data: Path) -> dict[str, Any]:
    """Figures of trees or of a count-based baseline, on the same exposures as those of the runs."""
    began = time.monotonic()
    stored = StoredData.open(data)
    part = StoredPart(data=stored, part="test", sequence=SequenceConfig(grouping="user"), loading=LoaderConfig())
    predictions, baselines = predicted_with_baselines(None, part)
    task = first_binary(stored.manifest)
    assert cell.classical is not None
    about: dict[str, Any] = {}
    if cell.classical == "trees":
        trees = add_trees(baselines, part, cell.seed)
        if task not in trees.models:
            raise GenRankError(f"{task} has one class only in the training or the validation part")
        model = trees.models[task]
        about = {"leaves": model.params["num_leaves"], "trees": model.best_iteration}
        if trees.sampled:
            about["sampled"] = trees.sampled
    scores = baselines[task][cell.classical]
    return {"test": judge(predictions, task, scores), "seconds": round(time.monotonic() - began, 2), **about}


def first_binary(manifest: Manifest) -> str:
    """The task by which studies compare rankers."""
    return next(task.name for task in manifest.spec.tasks if task.kind == "binary")
