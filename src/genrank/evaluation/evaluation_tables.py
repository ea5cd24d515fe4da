"""Evaluations of rankers and retrievers as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from genrank.evaluation.ranking_evaluation import Evaluation
from genrank.evaluation.retrieval_metrics import HEADLINES
from genrank.text_table import TextTable, to_rich

BINARY = ("auc", "gauc", "logloss", "ne", "pcoc", "ece")
WIDE = ("ne_ci", "pcoc_ci", "mae_ci")  # intervals for which the table has no room


def as_tables(evaluation: Evaluation) -> RenderableType:
    """A table per task with the model, the baselines and, if known, the oracle; then verdicts and data warnings."""
    parts: list[RenderableType] = [to_rich(task_table(evaluation, task)) for task in evaluation.tasks]
    parts += [Text("• " + sentence) for sentence in evaluation.verdicts]
    parts += [warning_text(found) for found in evaluation.warnings]
    return Group(*parts)


def task_table(evaluation: Evaluation, task: str, *, bounds: bool = False) -> TextTable:
    """The metrics of a task: the model in the first row, below it the baselines.

    bounds: write intervals by their two ends, in wider cells, instead of as ± half of their width.
    """
    model = evaluation.tasks[task]
    shown = {"model": model, **evaluation.baselines.get(task, {})}
    narrow = {name: {k: v for k, v in row.items() if k not in WIDE} for name, row in shown.items()}
    columns = BINARY if "auc" in model else ("mae", "xauc")
    return TextTable(
        head=["", *map(_heading, columns)],
        rows=[
            [name.replace("_", " "), *(_cell(row, column, bounds=bounds) for column in columns)]
            for name, row in narrow.items()
        ],
        title=f"{task}  ({model['num_exposures']:,} exposures)",
        numeric=range(1, len(columns) + 1),
        main_row=0,
    )


def as_retrieval_tables(judged: Mapping[str, Any]) -> RenderableType:
    """An evaluation of retrieval: the stages side by side, then slices, then the composition of the lists."""
    lists = judged["lists"]
    return Group(
        to_rich(stages_table(judged)),
        to_rich(slices_table(judged)),
        Text(
            f"• lists of {lists['k']}: {lists['coverage']:.1%} of the catalogue, mean popularity percentile "
            f"{lists['mean_popularity_percentile']:.0%}, Gini {lists['gini']:.2f}; "
            f"{judged['repeated_targets']:.1%} of the targets are items that the user had before"
        ),
        *(warning_text(found) for found in judged.get("warnings", [])),
    )


def stages_table(judged: Mapping[str, Any]) -> TextTable:
    """The metrics of retrieval's stages; the last one has intervals."""
    found, columns = judged["retrieval"], (*HEADLINES, "mrr")
    *earlier, last = judged["stages"].items()
    with_intervals = (last[0], last[1] | {name: value for name, value in found.items() if name.endswith("_ci")})
    return TextTable(
        head=["", *(name.upper() for name in columns)],
        rows=[[stage, *(_cell(row, name) for name in columns)] for stage, row in (*earlier, with_intervals)],
        title=f"retrieval  ({found['num_targets']:,} targets of {found['num_requests']:,} requests, full catalogue)",
        numeric=range(1, len(columns) + 1),
        main_row=len(earlier),
    )


def slices_table(judged: Mapping[str, Any]) -> TextTable:
    """The metrics of retrieval by the items' age and popularity."""
    return TextTable(
        head=["", *(name.upper() for name in HEADLINES), "targets"],
        rows=[
            [f"{group}: {name}", *(f"{row[metric]:.4f}" for metric in HEADLINES), f"{row['num_targets']:,}"]
            for group, slices in judged["slices"].items()
            for name, row in slices.items()
        ],
        title="slices",
        numeric=range(1, len(HEADLINES) + 2),
    )


def warning_text(found: Mapping[str, str]) -> Text:
    """A warning about the data in one line."""
    return Text(f"! {found['kind']}: {found['message']}", style="red" if found["kind"] == "leakage" else "yellow")


def _heading(column: str) -> str:
    return {"mae": "MAE (s)", "logloss": "log loss"}.get(column, column.upper())


def _cell(row: Mapping[str, Any], column: str, *, bounds: bool = False) -> str:
    value, ends = row.get(column), row.get(f"{column}_ci")
    if value is None:
        return "–"
    if not ends:
        return f"{value:.4f}"
    return f"{value:.4f} ({ends[0]:.4f}–{ends[1]:.4f})" if bounds else f"{value:.4f} ±{(ends[1] - ends[0]) / 2:.4f}"
