"""A walk forward as tables and a chart: the figures of each judged day, task by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrank.evaluation.report_charts import BLUE, GREEN, GREY, ORANGE, draw, svg
from genrank.text_table import TextTable

Rows = Sequence[Mapping[str, Any]]  # judged: a date; tasks: figures by task
BINARY, DURATION = ("auc", "gauc", "ne", "pcoc"), ("mae", "xauc")


def walk_table(rows: Rows, task: str) -> TextTable:
    """A row per judged day, and the mean over the days in which a figure is defined."""
    names = BINARY if "auc" in rows[0]["tasks"][task] else DURATION
    figures = [row["tasks"][task] for row in rows]
    days = [
        [row["judged"], f"{each['num_exposures']:,}", *_cells(each, names)]
        for row, each in zip(rows, figures, strict=True)
    ]
    means = {name: _mean([each[name] for each in figures]) for name in names}
    return TextTable(
        title=task,
        head=["judged", "exposures", *map(str.upper, names)],
        rows=[*days, ["mean of days", "", *_cells(means, names)]],
        numeric=range(1, len(names) + 2),
    )


def walk_chart(rows: Rows) -> str:
    """AUC and GAUC, normalised entropy, and PCOC by day, a row of axes per binary task; SVG."""
    tasks = [task for task, figures in rows[0]["tasks"].items() if "auc" in figures]
    panels = ((("auc", BLUE), ("gauc", ORANGE)), (("ne", GREEN),), (("pcoc", BLUE),))
    with draw(max(len(tasks), 1), 3, (9.6, 2.4 * max(len(tasks), 1)), squeeze=False) as (figure, axes):
        for task, across in zip(tasks, axes, strict=False):
            for axis, lines in zip(across, panels, strict=True):
                for name, colour in lines:
                    values = [np.nan if row["tasks"][task][name] is None else row["tasks"][task][name] for row in rows]
                    axis.plot(range(len(rows)), values, "o-", color=colour, label=name.upper(), markersize=3.5)
                axis.set_title(f"{task}: {', '.join(name.upper() for name, _ in lines)}", loc="left", fontsize=9.5)
                axis.set_xticks(range(len(rows)), [row["judged"][5:] for row in rows], rotation=60)
            across[0].legend()
            across[2].axhline(1.0, color=GREY, linewidth=1, linestyle="--")
        return svg(figure)


def _cells(figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return ["–" if figures[name] is None else f"{figures[name]:.4f}" for name in names]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
