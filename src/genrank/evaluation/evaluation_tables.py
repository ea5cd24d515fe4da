"""An evaluation as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genrank.evaluation.ranking_evaluation import Evaluation

BINARY = ("auc", "gauc", "logloss", "ne", "pcoc", "ece")


def as_tables(evaluation: Evaluation) -> RenderableType:
    """A table per task of the model, the baselines and, where known, the oracle; then verdicts and data warnings."""
    parts: list[RenderableType] = []
    for task, model in evaluation.tasks.items():
        binary = "auc" in model
        title = f"{task}  ({model['num_exposures']:,} exposures)"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("")
        columns = BINARY if binary else ("mae", "xauc")
        for column in columns:
            table.add_column(_heading(column), justify="right")
        for name, row in {"model": model, **evaluation.baselines.get(task, {})}.items():
            style = "bold" if name == "model" else "dim"
            table.add_row(name.replace("_", " "), *(_cell(row, column) for column in columns), style=style)
        parts.append(table)
    parts += [Text("• " + sentence) for sentence in evaluation.verdicts]
    parts += [warning_text(found) for found in evaluation.warnings]
    return Group(*parts)


def warning_text(found: Mapping[str, str]) -> Text:
    """A warning of the data in one line."""
    return Text(f"! {found['kind']}: {found['message']}", style="red" if found["kind"] == "leakage" else "yellow")


def _heading(column: str) -> str:
    return {"mae": "MAE (s)", "logloss": "log loss"}.get(column, column.upper())


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return "–"
    bounds = row.get(f"{column}_ci")
    half = f" ±{(bounds[1] - bounds[0]) / 2:.4f}" if bounds else ""
    return f"{value:.4f}{half}"
