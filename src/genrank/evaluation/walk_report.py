"""A walk forward as tables and a chart: the figures of each judged day with their intervals, of a ranker by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrank.evaluation.report_charts import BLUE, GREEN, GREY, ORANGE, draw, svg
from genrank.evaluation.retrieval_metrics import HEADLINES
from genrank.text_table import TextTable

Rows = Sequence[Mapping[str, Any]]  # judged: a date; tasks: figures by task, or retrieval: figures
MAX_TICKS = 14
BINARY, DURATION = ("auc", "gauc", "ne", "pcoc"), ("mae", "xauc")


def walk_tables(rows: Rows) -> list[TextTable]:
    """A table per task, or the one of a retriever."""
    if "retrieval" in rows[0]:
        return [_table(rows, [row["retrieval"] for row in rows], "retrieval", HEADLINES, counted="targets")]
    return [walk_table(rows, task) for task in rows[0]["tasks"]]


def walk_table(rows: Rows, task: str) -> TextTable:
    """The table of a ranker's task."""
    names = BINARY if "auc" in rows[0]["tasks"][task] else DURATION
    return _table(rows, [row["tasks"][task] for row in rows], task, names, counted="exposures")


def _table(
    rows: Rows, figures: Sequence[Mapping[str, Any]], title: str, names: Sequence[str], *, counted: str
) -> TextTable:
    """A row per judged day, ± half of the width of the 95 % intervals; and the mean over days with a figure."""
    days = [
        [row["judged"], f"{each[f'num_{counted}']:,}", *_cells(each, names)]
        for row, each in zip(rows, figures, strict=True)
    ]
    means = {name: _mean([each[name] for each in figures]) for name in names}
    return TextTable(
        title=title,
        head=["judged", counted, *map(str.upper, names)],
        rows=[*days, ["mean of days", "", *_cells(means, names)]],
        numeric=range(1, len(names) + 2),
        unbroken=(0,),
    )


def walk_chart(rows: Rows) -> str:
    """Figures by day with 95 % bands, as SVG: of a retriever HR and NDCG, and recall.

    Of a ranker AUC and GAUC, normalised entropy, and PCOC, a row of axes per binary task.
    """
    if "retrieval" in rows[0]:
        return _retrieval_chart(rows)
    tasks = [task for task, figures in rows[0]["tasks"].items() if "auc" in figures]
    panels = ((("auc", BLUE), ("gauc", ORANGE)), (("ne", GREEN),), (("pcoc", BLUE),))
    with draw(max(len(tasks), 1), 3, (9.6, 2.4 * max(len(tasks), 1)), squeeze=False) as (figure, axes):
        for task, across in zip(tasks, axes, strict=False):
            for axis, lines in zip(across, panels, strict=True):
                for name, colour in lines:
                    _line(axis, [row["tasks"][task] for row in rows], name, colour)
                axis.set_title(f"{task}: {', '.join(name.upper() for name, _ in lines)}", loc="left", fontsize=9.5)
                _days(axis, [row["judged"] for row in rows])
            across[0].legend()
            across[2].axhline(1.0, color=GREY, linewidth=1, linestyle="--")
        return svg(figure)


def _retrieval_chart(rows: Rows) -> str:
    panels = ((("hr@10", BLUE), ("ndcg@10", ORANGE)), (("recall@50", BLUE), ("recall@500", ORANGE)))
    with draw(1, 2, (9.6, 2.4)) as (figure, axes):
        for axis, lines in zip(axes, panels, strict=True):
            for name, colour in lines:
                _line(axis, [row["retrieval"] for row in rows], name, colour)
            axis.set_title(", ".join(name.upper() for name, _ in lines), loc="left", fontsize=9.5)
            axis.legend()
            _days(axis, [row["judged"] for row in rows])
        return svg(figure)


def _line(axis: Any, figures: Sequence[Mapping[str, Any]], name: str, colour: str) -> None:
    """A figure by day, over the band of its 95 % intervals."""
    values = [np.nan if each[name] is None else each[name] for each in figures]
    bounds = [each.get(f"{name}_ci") or (np.nan, np.nan) for each in figures]
    low, high = np.array(bounds, float).T
    axis.fill_between(range(len(values)), low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(range(len(values)), values, "o-", color=colour, label=name.upper(), markersize=3.5)


def _days(axis: Any, days: Sequence[str]) -> None:
    """At most MAX_TICKS dates on the axis."""
    step = -(-len(days) // MAX_TICKS)
    axis.set_xticks(range(0, len(days), step), [day[5:] for day in days[::step]], rotation=60)


def _cells(figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_cell(figures[name], figures.get(f"{name}_ci")) for name in names]


def _cell(value: float | None, bounds: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" + (f" ±{(bounds[1] - bounds[0]) / 2:.4f}" if bounds else "")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
