"""The evaluation of a run: predictions of a part, metrics of the model and the baselines, report.html."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from genrank.artifacts.bundle import load_bundle, require_same_statistics
from genrank.config import to_dict
from genrank.data.pools import StoredData, StoredPart
from genrank.data.prepared import Part, PreparedData
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.documents import read_json, read_json_lines
from genrank.errors import BundleError
from genrank.evaluation.baselines import CountBaselines, baselines_of
from genrank.evaluation.predictions import Predictions, joined_predictions
from genrank.evaluation.ranking_evaluation import Evaluation, evaluate
from genrank.evaluation.report import ReportRun, write_report
from genrank.evaluation.trees import import_lightgbm, tree_baseline
from genrank.finite_json import json_text
from genrank.models.ranker import Ranker
from genrank.runs.judged_data import judged_stored
from genrank.runs.predict import predict
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
    loading = evaluation_loading(config)
    if trees:  # learn from the whole log
        loading = replace(loading, max_exposures=max(sum(stored.rows), 1))
    stored_part = StoredPart(
        data=stored, part=part, sequence=evaluation_sequence(config), search=config.model.search, loading=loading
    )
    predictions, baselines, builder = predicted_with_baselines(model, stored_part)
    if trees:
        _add_trees(baselines, stored.with_timelines(builder.timelines), builder, predictions, config.seed)
    judged = evaluate(
        predictions,
        baselines,
        warnings=stored.manifest.warnings,
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


def predicted_with_baselines(
    model: Ranker, part: StoredPart
) -> tuple[Predictions, dict[str, dict[str, Any]], SequenceBuilder]:
    """Predictions of a part pool by pool, every task's count-based baselines, and the builder of the last pool."""
    manifest = part.data.manifest
    counts = {task.name: CountBaselines(task, manifest.split.valid_start) for task in manifest.spec.tasks}
    parts, num_rows, num_requests = [], 0, 0
    for loader in part:
        builder, found = loader.builder, predict(model, loader, part.data)
        for baselines in counts.values():
            baselines.add(builder.timelines, rows=found.exposure, visible_end=builder.visible_end)
        parts.append(found.after(num_rows, num_requests))
        num_rows += builder.timelines.num_exposures
        num_requests += builder.num_requests
    return joined_predictions(parts), {name: each.predicted() for name, each in counts.items()}, builder


def count_baselines(data: PreparedData, builder: SequenceBuilder, p: Predictions) -> dict[str, dict[str, Any]]:
    """Every task's count-based baselines for the predicted exposures."""
    start = data.manifest.split.valid_start
    return {
        task.name: baselines_of(
            data.timelines, task, rows=p.exposure, visible_end=builder.visible_end, valid_start=start
        )
        for task in data.manifest.spec.tasks
    }


def _add_trees(
    baselines: dict[str, dict[str, Any]], data: PreparedData, builder: SequenceBuilder, p: Predictions, seed: int
) -> None:
    for task in data.manifest.spec.tasks:
        if task.kind == "binary":
            found = tree_baseline(data, builder, task, rows=p.exposure, seed=seed)
            if found is not None:
                baselines[task.name]["trees"] = found.scores


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
