"""report.html: one self-contained page on a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrank.evaluation.page import render, require
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.ranking_evaluation import Evaluation
from genrank.folders import replace_text


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """What the page says of the run itself. `training`: rows of metrics.jsonl; `manifest`: of the prepared folder."""

    name: str
    recipe: str
    part: str
    num_parameters: int
    config: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: Sequence[str] = ()  # of the run itself


def write_report(path: Path, *, evaluation: Evaluation, predictions: Predictions, run: ReportRun) -> None:
    """Write the page. Raises MissingExtraError without Jinja2 and matplotlib, OutputError where it can't be written."""
    require(extra="report")
    page = render(
        "genrank.evaluation",
        "report.html",
        filters={"date": _date, "figure": _figure, "words": lambda name: str(name).replace("_", " ")},
        run=run,
        evaluation=evaluation,
        split=run.manifest["split"],
        counts=run.manifest["counts"],
        settings=sorted(_flat(run.config).items()),
        charts=_charts(evaluation, predictions, run),
    )
    replace_text(path, page)


def _charts(evaluation: Evaluation, predictions: Predictions, run: ReportRun) -> dict[str, list[Any]]:
    from markupsafe import Markup

    from genrank.evaluation import report_charts as charts

    drawn: dict[str, list[Any]] = {"training": [], "calibration": [], "slices": []}
    for task, row in evaluation.tasks.items():
        if not row["num_exposures"]:
            continue
        if "auc" not in row:
            drawn["calibration"].append(Markup(charts.durations(predictions, task)))
            continue
        if run.training:
            drawn["training"].append(Markup(charts.training(run.training, task)))
        drawn["calibration"].append(Markup(charts.calibration(predictions, task)))
        if row["auc"] is not None:
            drawn["slices"].append(Markup(charts.slices(evaluation.slices, task, row["auc"])))
    return drawn


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _date(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _figure(value: Any, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"
