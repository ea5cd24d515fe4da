"""Computes one cell: trains and evaluates a run, or evaluates a classical baseline."""

import io
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from genrank.artifacts.bundle import load_bundle
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.pools import StoredData
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.documents import read_json_lines
from genrank.errors import BundleError, GenRankError, InputError, Interrupted
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.trees import tree_baseline
from genrank.models.ranker import Ranker
from genrank.retrieval.retriever import Retriever
from genrank.runs.evaluate_ranking import count_baselines, evaluation_sequence
from genrank.runs.evaluate_retrieval import located
from genrank.runs.predict import predict, predictions_of
from genrank.runs.run_config import RunConfig
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
    if config.model.retrieves:
        model, stored = bundle.retriever(device), StoredData.open(data, days=config.days)
        judged = {
            "test": judge_retrieval(located(model, stored, config, "test")[0]),
            "valid": _best(workplace, config, stored.manifest.spec),
        }
        curve = _curve(workplace, {RETRIEVAL[0]: RETRIEVAL[0]})
    else:
        prepared = PreparedData.load(data, config.days).at_once(config.evaluation_leaks)
        model, task = bundle.model(device), first_binary(prepared)
        predictions = _predict(model, prepared, config)
        judged = {
            "test": judge(predictions, task, predictions.scores[task]),
            "valid": _validation(workplace, task, config, prepared.manifest.spec),
        }
        curve = _curve(workplace, {"auc": f"auc/{task}"})
    return {
        **judged,
        "curve": curve,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 2),
        "threads": threads,
    }


def _predict(model: Ranker, data: PreparedData, config: RunConfig) -> Predictions:
    builder = data.builder(evaluation_sequence(config), config.model.search)
    loading = LoaderConfig(batch_tokens=config.evaluation.batch_tokens, shuffle=False)
    return predict(model, Loader(builder, data.part(builder, "test"), loading), data)


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
    prepared = PreparedData.load(data)
    builder = prepared.builder(SequenceConfig(grouping="user"))
    predictions, task = _empty(builder, prepared), first_binary(prepared)
    if cell.classical == "trees":
        spec = next(each for each in prepared.manifest.spec.tasks if each.name == task)
        found = tree_baseline(prepared, builder, spec, rows=predictions.exposure, seed=cell.seed)
        if found is None:
            raise GenRankError(f"{task} has one class only in the training or the validation part")
        scores, about = found.scores, {"leaves": found.num_leaves, "trees": found.num_trees}
    else:
        assert cell.classical is not None
        scores, about = count_baselines(prepared, builder, predictions)[task][cell.classical], {}
    return {"test": judge(predictions, task, scores), "seconds": round(time.monotonic() - began, 2), **about}


def _empty(builder: SequenceBuilder, data: PreparedData) -> Predictions:
    """The test part without any model's scores."""
    return predictions_of(np.sort(data.part(builder, "test").candidates), {}, builder, data)


def first_binary(data: PreparedData) -> str:
    """The task by which studies compare rankers."""
    return next(task.name for task in data.manifest.spec.tasks if task.kind == "binary")
