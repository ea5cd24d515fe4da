"""report.html: one self-contained page on a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrank.evaluation.evaluation_tables import task_table
from genrank.evaluation.page import render, require
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.ranking_evaluation import Evaluation
from genrank.folders import replace_text
from genrank.text_table import TextTable, to_html

NUM_FILES = 12  # files of the prepared folder whose digests are shown


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """What the page shows of the run. training: rows of metrics.jsonl; manifest: that of the prepared folder."""

    name: str
    recipe: str
    part: str
    num_parameters: int
    config: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: Sequence[str] = ()  # about the run, not the data


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
        tables=_tables(evaluation, run),
        charts=_charts(evaluation, predictions, run),
    )
    replace_text(path, page)


def _tables(evaluation: Evaluation, run: ReportRun) -> dict[str, Any]:
    """HTML elements: `metrics` by task, `parts` of the data, `settings` and `lineage`."""
    from markupsafe import Markup

    return {
        "metrics": {task: Markup(to_html(task_table(evaluation, task, bounds=True))) for task in evaluation.tasks},
        "parts": Markup(to_html(_parts_table(run.manifest))),
        "settings": Markup(to_html(_named_values(sorted(_flat(run.config).items())), classes={"value": "text"})),
        "lineage": Markup(to_html(_named_values(_lineage(run)), classes={"value": "text"})),
    }


def _parts_table(manifest: Mapping[str, Any]) -> TextTable:
    counts, split = manifest["counts"], manifest["split"]
    first = split["first_time"] if split["train_start"] is None else split["train_start"]
    begins = {"train": first, "valid": split["valid_start"], "test": split["test_start"]}
    return TextTable(
        head=["part", "from", "exposures", "requests", *counts["train"]["positives"]],
        rows=[
            [
                part,
                _date(begin),
                *(_figure(counts[part][name]) for name in ("exposures", "requests")),
                *map(_figure, counts[part]["positives"].values()),
            ]
            for part, begin in begins.items()
        ],
    )


def _lineage(run: ReportRun) -> list[tuple[str, Any]]:
    """The environment, where the data came from, and the digests of the first of its files."""
    source = [(f"source: {name}", value) for name, value in run.manifest["source"].items()]
    hashes = [(name, f"{digest[:16]}…") for name, digest in list(run.manifest["files"].items())[:NUM_FILES]]
    return [*run.environment.items(), *source, *hashes]


def _named_values(values: Iterable[tuple[str, Any]]) -> TextTable:
    return TextTable(head=["name", "value"], rows=[[name, str(value)] for name, value in values])


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
