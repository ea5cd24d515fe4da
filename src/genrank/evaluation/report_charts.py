"""The report's charts: matplotlib drawings as inline SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrank.evaluation import metrics as m
from genrank.evaluation.predictions import Predictions

# Colours of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE, GREY, GREEN = "#0072b2", "#e69f00", "#8a8f98", "#009e73"
INK = "#7b828c"  # readable on white and on black

STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "genrank",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8a8f98",
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def training(rows: Sequence[Mapping[str, Any]], task: str) -> str:
    """Loss and AUC over the run, training and validation."""
    with draw(1, 2, (8.4, 2.7)) as (figure, axes):
        for axis, name, label in ((axes[0], f"loss/{task}", "loss"), (axes[1], f"auc/{task}", "AUC")):
            for kind, colour, style in (("train", BLUE, "-"), ("valid", ORANGE, "o-")):
                points = [(r["exposures"], r[name]) for r in rows if r["kind"] == kind and name in r]
                if points:
                    x, y = zip(*points, strict=True)
                    axis.plot(x, y, style, color=colour, label=kind, linewidth=1.6, markersize=4)
            axis.set_xlabel("exposures seen")
            axis.set_title(f"{task}: {label}", loc="left", fontsize=9.5)
            axis.xaxis.set_major_formatter(_thousands)
        axes[0].legend()
        return svg(figure)


def calibration(p: Predictions, task: str) -> str:
    """Observed against predicted rate in bins of equal mass; below it the distribution of predictions."""
    known = ~np.isnan(p.labels[task])
    score, label = p.scores[task][known], p.labels[task][known]
    bins = m.calibration(score, label, weights=p.weights_of(task, known))
    top = float(max(bins.predicted.max(), bins.observed.max())) * 1.05 or 1.0
    with draw(2, 1, (4.1, 3.6), height_ratios=(3, 1), sharex=True) as (figure, axes):
        axes[0].plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--")
        axes[0].plot(bins.predicted, bins.observed, "o-", color=BLUE, markersize=3.5, linewidth=1.4)
        axes[0].set_ylabel("observed rate")
        axes[0].set_title(f"{task}: calibration", loc="left", fontsize=9.5)
        axes[1].hist(score, bins=40, range=(0, top), color=BLUE, alpha=0.6)
        axes[1].set_yticks([])
        axes[1].set_xlabel("predicted probability")
        return svg(figure)


def durations(p: Predictions, task: str) -> str:
    """Mean true duration against mean predicted one, in bins of equal mass."""
    known = ~np.isnan(p.labels[task]) & ~p.censored[task]
    bins = m.calibration(p.scores[task][known], p.labels[task][known], weights=p.weights_of(task, known))
    top = float(max(bins.predicted.max(), bins.observed.max())) * 1.05
    with draw(1, 1, (4.1, 3.6)) as (figure, axis):
        axis.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--")
        axis.plot(bins.predicted, bins.observed, "o-", color=GREEN, markersize=3.5, linewidth=1.4)
        axis.set(xlabel="predicted seconds", ylabel="observed seconds")
        axis.set_title(f"{task}: predicted and observed", loc="left", fontsize=9.5)
        return svg(figure)


def slices(cut: Mapping[str, Mapping[str, Mapping[str, Any]]], task: str, overall: float) -> str:
    """AUC with its interval per slice, grouped; the line is the AUC over all."""
    rows = [
        (f"{group}: {name}", values[task])
        for group, parts in cut.items()
        for name, values in parts.items()
        if values.get(task, {}).get("auc") is not None
    ]
    with draw(1, 1, (8.4, 0.6 + 0.24 * len(rows))) as (figure, axis):
        axis.axvline(overall, color=GREY, linewidth=1, linestyle="--")
        for place, (_, row) in enumerate(rows):
            low, high = row["auc_ci"] or (row["auc"], row["auc"])
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2, alpha=0.5)
            axis.plot(row["auc"], place, "o", color=BLUE, markersize=4.5)
        axis.set_yticks(range(len(rows)), [f"{name}  ({row['num_exposures']:,})" for name, row in rows])
        axis.invert_yaxis()
        axis.set_xlabel(f"{task} AUC, 95 % interval over users; dashed: all exposures")
        return svg(figure)


class draw:  # noqa: N801
    """A styled figure that is closed at the end."""

    def __init__(self, rows: int, columns: int, size: tuple[float, float], **options: Any):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self.context = rc_context(STYLE)
        self.size = size
        self.make: Any = Figure
        ratios = options.pop("height_ratios", None)
        self.grid = {"nrows": rows, "ncols": columns, "height_ratios": ratios, **options}

    def __enter__(self) -> tuple[Any, Any]:
        self.context.__enter__()
        figure = self.make(figsize=self.size, layout="constrained")
        return figure, figure.subplots(**self.grid)

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(None, None, None)


def _thousands(value: float, place: int) -> str:
    del place
    return f"{value / 1e6:g}M" if value >= 1e6 else (f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}")


def svg(figure: Any) -> str:
    """The drawing as an SVG element, the same bytes for the same figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
