"""The evaluation of a run: predictions of a part, metrics of the model and the baselines, report.html."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts.bundle import load_bundle, require_same_statistics
from genrank.config import to_dict
from genrank.data.loader import Loader
from genrank.data.manifest import DataWarning
from genrank.data.pools import StoredData, StoredPart
from genrank.data.prepared import Part
from genrank.data.sequence import SequenceConfig
from genrank.documents import read_json, read_json_lines
from genrank.errors import BundleError
from genrank.evaluation.baselines import CountBaselines
from genrank.evaluation.predictions import Predictions, joined_predictions
from genrank.evaluation.ranking_evaluation import Evaluation, evaluate
from genrank.evaluation.report import ReportRun, write_report
from genrank.evaluation.trees import TreeBaselines, import_lightgbm
from genrank.finite_json import json_text
from genrank.models.ranker import Ranker
from genrank.runs.judged_data import judged_stored
from genrank.runs.predict import predict, predictions_of
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import evaluation_loading
from genrank.runs.train import configure_torch, load_run

REMEDY = "evaluate a run as genrank train left it"


def evaluate_run(
    run: Path,
    *,
    data: Path | None = None,
    part: Part = "test",
    report: bool = True,
    trees: bool = False,
    device: str | None = None,
) -> Evaluation:
    """Evaluate the newest bundle of `run` on a part of its data, or of `data`; writes report.html and evaluation.json.

    device: None: the run's. trees: also train gradient-boosted trees, as a baseline. Raises MissingExtraError if
    LightGBM is not installed.
    """
    if trees:
        import_lightgbm()  # fails before the model is evaluated, which takes minutes
    config, trained_on = load_run(run)
    on = configure_torch(replace(config, device=device or config.device))
    bundle = load_bundle(run)
    stored = judged_stored(bundle, data or trained_on, config, at_once=config.evaluation_leaks)
    require_same_statistics(bundle, stored.folder, stored.manifest)
    model = bundle.model(on)
    stored_part = StoredPart(
        data=stored,
        part=part,
        sequence=evaluation_sequence(config),
        search=config.model.search,
        loading=evaluation_loading(config),
    )
    predictions, baselines = predicted_with_baselines(model, stored_part)
    warnings = list(stored.manifest.warnings)
    if trees and (sampled := add_trees(baselines, stored_part, config.seed).sampled):
        warnings.append(DataWarning(kind="values", message=sampled))
    judged = evaluate(
        predictions,
        baselines,
        warnings=warnings,
        num_bootstrap=config.evaluation.num_bootstrap,
        seed=config.evaluation.seed,
    )
    (run / "evaluation.json").write_text(json_text(judged.to_json(), indent=1), encoding="utf-8")
    if report:
        about = _about(run, to_dict(config), part, sum(p.numel() for p in model.parameters()), stored)
        write_report(run / "report.html", evaluation=judged, predictions=predictions, run=about)
    return judged


def evaluation_sequence(config: RunConfig) -> SequenceConfig:
    """Requests packed per user, for equal scores and one encoding of each history. With a full mask: not packed."""
    return replace(config.sequence, grouping="user" if config.model.packs_requests else "request")


def predicted_with_baselines(model: Ranker | None, part: StoredPart) -> tuple[Predictions, dict[str, dict[str, Any]]]:
    """Predictions of a part pool by pool, without scores if there is no model; every task's count-based baselines."""
    manifest = part.data.manifest
    counts = {task.name: CountBaselines(task, manifest.split.valid_start) for task in manifest.spec.tasks}
    parts, num_rows, num_requests = [], 0, 0
    for loader in part:
        builder = loader.builder
        if model is None:
            found = predictions_of(np.sort(loader.samples.candidates), {}, builder, part.data)
        else:
            found = predict(model, loader, part.data)
        for baselines in counts.values():
            baselines.add(builder.timelines, rows=found.exposure, visible_end=builder.visible_end)
        parts.append(found.after(num_rows, num_requests))
        num_rows += builder.timelines.num_exposures
        num_requests += builder.num_requests
    return joined_predictions(parts), {name: each.predicted() for name, each in counts.items()}


def add_trees(baselines: dict[str, dict[str, Any]], part: StoredPart, seed: int) -> TreeBaselines:
    """Trees that learn from the training part, pool by pool; their scores are added to the baselines of the tasks."""
    trees = TreeBaselines(part.data.manifest, seed=seed)
    pools = [next(iter(part))] if len(part.data.pools(part.loading.max_exposures)) == 1 else part
    for loader in pools:
        trees.add(part.data.with_timelines(loader.builder.timelines), loader.builder)
    trees.fit()
    found = [_tree_scores(trees, part.data, loader) for loader in pools]
    for name in trees.models:
        baselines[name]["trees"] = np.concatenate([scores[name] for scores in found])
    return trees


def _tree_scores(trees: TreeBaselines, data: StoredData, loader: Loader) -> dict[str, Any]:
    """Of the exposures of a pool's samples, in order of timelines, as predictions are."""
    builder = loader.builder
    return trees.scores(data.with_timelines(builder.timelines), builder, np.sort(loader.samples.candidates))


def _about(run: Path, config: dict[str, Any], part: str, num_parameters: int, data: StoredData) -> ReportRun:
    metrics, warnings = run / "metrics.jsonl", run / "warnings.json"
    return ReportRun(
        name=run.resolve().name,
        recipe=config["recipe"],
        part=part,
        num_parameters=num_parameters,
        config=config,
        training=read_json_lines(metrics, error=BundleError, remedy=REMEDY) if metrics.exists() else [],
        manifest=to_dict(data.manifest),
        environment=read_json(run / "environment.json", error=BundleError, remedy=REMEDY),
        warnings=read_json(warnings, error=BundleError, remedy=REMEDY, kind=list) if warnings.exists() else [],
    )
