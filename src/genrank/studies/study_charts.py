"""A study's charts: matplotlib drawings as inline SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from genrank.evaluation.report_charts import BLUE, GREY, ORANGE, draw, svg
from genrank.studies.study import AS_TRAINED
from genrank.studies.study_tables import METRIC_NAMES, metrics_of, of_retrieval

Result = Mapping[str, Any]


def drawn(result: Result) -> list[str]:
    """All charts that the result has figures for."""
    made = []
    main = metrics_of(result)[0]
    rows = [row for row in result["rows"] if row["parts"].get("all", {}).get(main)]
    if len(rows) > 1:
        made.append(differences(result, rows))
    if any(row["speed"].get(AS_TRAINED) for row in rows) and len(rows) > 1:
        made.append(speed_and_accuracy(rows))
    if result["slices"] != ["all"]:
        made.append(by_slice(result, rows))
    made += [curve(fit) for fit in result.get("fits", ())]
    return made


def differences(result: Result, rows: Sequence[Mapping[str, Any]]) -> str:
    """The main figure minus the baseline's, with the interval of seeds and users; a bar per seed."""
    main = metrics_of(result)[0]
    others = [row for row in rows if row["parts"]["all"][main].get("difference")]
    with draw(1, 1, (8.4, 0.9 + 0.3 * len(others))) as (figure, axis):
        axis.axvline(0, color=GREY, linewidth=1, linestyle="--")
        for place, row in enumerate(others):
            found = row["parts"]["all"][main]["difference"]
            bounds = found["interval"] or found["user_interval"]
            if bounds:
                axis.plot(bounds, [place, place], color=BLUE, linewidth=2.5, alpha=0.5)
            axis.plot(found["per_seed"], [place] * len(found["per_seed"]), "|", color=GREY, markersize=7)
            axis.plot(found["mean"], place, "o", color=BLUE, markersize=5)
        axis.set_yticks(range(len(others)), [row["variant"] for row in others])
        axis.set_ylim(len(others) - 0.5, -0.5)
        axis.set_xlabel(
            f"{METRIC_NAMES[main]} minus that of {result['baseline']}; 95 % interval of seeds and users, a bar per seed"
        )
        return svg(figure)


def speed_and_accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    """AUC against training throughput."""
    with draw(1, 1, (8.4, 3.4)) as (figure, axis):
        for row in rows:
            if AS_TRAINED not in row["speed"]:
                continue
            rate, auc = row["speed"][AS_TRAINED]["exposures_per_second"], row["parts"]["all"]["auc"]
            axis.errorbar(
                rate["value"], auc["mean"], xerr=[[rate["value"] - rate["low"]], [rate["high"] - rate["value"]]],
                yerr=auc["deviation"] or 0, fmt="o", color=BLUE, ecolor=GREY, markersize=5,
            )  # fmt: skip
            axis.annotate(row["variant"], (rate["value"], auc["mean"]), (6, 4), textcoords="offset points", fontsize=8)
        axis.margins(x=0.2, y=0.15)
        axis.set(xlabel="exposures a second in training, measured interleaved", ylabel="AUC")
        return svg(figure)


def by_slice(result: Result, rows: Sequence[Mapping[str, Any]]) -> str:
    """The main figure of every variant over the slices."""
    main = metrics_of(result)[0]
    parts = [part for part in result["slices"] if part != "all"]
    with draw(1, 1, (8.4, 3.4)) as (figure, axis):
        for row in rows:
            reached = [(part, row["parts"][part][main]) for part in parts if row["parts"].get(part, {}).get(main)]
            axis.errorbar(
                [part for part, _ in reached], [auc["mean"] for _, auc in reached],
                yerr=[auc["deviation"] or 0 for _, auc in reached], marker="o", markersize=4, label=row["variant"],
            )  # fmt: skip
        axis.set(
            xlabel="slice" if of_retrieval(result) else "age of the item at the exposure", ylabel=METRIC_NAMES[main]
        )
        axis.legend()
        return svg(figure)


def curve(fit: Mapping[str, Any]) -> str:
    """Log loss and AUC along an axis, and the fitted power law."""
    with draw(1, 2, (8.4, 2.9)) as (figure, axes):
        axes[0].plot(fit["x"], fit["logloss"], "o", color=BLUE, markersize=5)
        law = fit["fit"]
        if law:
            low, high = min(fit["x"]), max(fit["x"])
            xs = [low * (high / low) ** (step / 60) for step in range(61)]
            axes[0].plot(xs, [law["floor"] + law["scale"] * x ** -law["exponent"] for x in xs], color=ORANGE)
        axes[0].set_title("log loss", loc="left", fontsize=9.5)
        if fit["auc"]:
            axes[1].plot(fit["x"], fit["auc"], "o-", color=BLUE, markersize=5)
        axes[1].set_title("AUC", loc="left", fontsize=9.5)
        for axis in axes:
            axis.set_xscale("log")
            axis.set_xlabel(fit["axis"])
        return svg(figure)
