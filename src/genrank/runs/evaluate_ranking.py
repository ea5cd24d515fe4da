"""The evaluation of a run: predictions of a part, metrics of the model and the baselines, report.html."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from genrank.artifacts.bundle import load_bundle, require_same_statistics
from genrank.config import to_dict
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import Part, PreparedData
from genrank.data.sequence import SequenceBuilder, SequenceConfig
from genrank.documents import read_json, read_json_lines
from genrank.errors import BundleError
from genrank.evaluation.baselines import duration_baselines, rate_baselines
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.ranking_evaluation import Evaluation, evaluate
from genrank.evaluation.report import ReportRun, write_report
from genrank.evaluation.trees import import_lightgbm, tree_baseline
from genrank.finite_json import json_text
from genrank.runs.judged_data import judged_data
from genrank.runs.predict import predict
from genrank.runs.run_config import RunConfig
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
    prepared = judged_data(bundle, data or trained_on, config).at_once(config.evaluation_leaks)
    require_same_statistics(bundle, prepared.folder, prepared.manifest)
    model = bundle.model(on)
    builder = prepared.builder(evaluation_sequence(config), config.model.search)
    loader = Loader(
        builder,
        prepared.part(builder, part),
        LoaderConfig(batch_tokens=config.evaluation.batch_tokens, shuffle=False),
    )
    predictions = predict(model, loader, prepared)
    baselines = count_baselines(prepared, builder, predictions)
    if trees:
        _add_trees(baselines, prepared, builder, predictions, config.seed)
    judged = evaluate(
        predictions,
        baselines,
        warnings=prepared.manifest.warnings,
        num_bootstrap=config.evaluation.num_bootstrap,
        seed=config.evaluation.seed,
    )
    (run / "evaluation.json").write_text(json_text(judged.to_json(), indent=1), encoding="utf-8")
    if report:
        about = _about(run, to_dict(config), part, sum(p.numel() for p in model.parameters()), prepared)
        write_report(run / "report.html", evaluation=judged, predictions=predictions, run=about)
    return judged


def evaluation_sequence(config: RunConfig) -> SequenceConfig:
    """Requests packed per user, for equal scores and one encoding of each history. With a full mask: not packed."""
    return replace(config.sequence, grouping="user" if config.model.packs_requests else "request")


def count_baselines(data: PreparedData, builder: SequenceBuilder, p: Predictions) -> dict[str, dict[str, Any]]:
    """Every task's count-based baselines for the predicted exposures."""
    start = data.manifest.split.valid_start
    return {
        task.name: rate_baselines(
            data.timelines, task, rows=p.exposure, visible_end=builder.visible_end, valid_start=start
        )
        if task.kind == "binary"
        else duration_baselines(data.timelines, task, rows=p.exposure, valid_start=start)
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


def _about(run: Path, config: dict[str, Any], part: str, num_parameters: int, data: PreparedData) -> ReportRun:
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
