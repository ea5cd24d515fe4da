"""A study's result as Markdown, CSV, JSON and one self-contained HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

from genrank.evaluation.page import render, require
from genrank.finite_json import json_text
from genrank.folders import replace_text
from genrank.studies.study_tables import (
    Result,
    about,
    age,
    cost_table,
    failures,
    findings,
    fits,
    is_older,
    metrics_of,
    sanity,
    slice_heading,
    slice_table,
    standing,
    table,
    tuning,
)
from genrank.text_table import TextTable, to_csv, to_html, to_markdown, to_rich

if TYPE_CHECKING:
    from rich.table import Table

CLASSES = {"claim": "claim", "verdict": "verdict {}"}  # column of the findings → class of its cells in study.html


def write_pages(out: Path, result: Result) -> list[Path]:
    """NAME.json, .md, .csv and .html in `out`; MissingExtraError without Jinja2 and matplotlib."""
    require(extra="studies")
    from markupsafe import Markup

    from genrank.studies import study_charts as charts

    name, drawn = result["study"], [Markup(chart) for chart in charts.drawn(result)]
    page = render(
        "genrank.studies",
        "study.html",
        result=result,
        about=about(result),
        age=age(result),
        charts=drawn,
        variants=Markup(to_html(table(result))),
        costs=Markup(to_html(cost_table(result))) if cost_table(result).rows else "",
        slices=Markup(to_html(slice_table(result))),
        slice_heading=slice_heading(result),
        findings=Markup(to_html(findings(result), classes=CLASSES)),
        tuning=Markup(to_html(tuning(result))) if tuning(result).rows else "",
        sanity=sanity(result),
        fits=fits(result),
        standing=standing(result),
        failures=failures(result),
        reading=READING,
    )
    texts = {"json": json_text(result, indent=1), "md": markdown(result), "csv": as_csv(result), "html": page}
    out.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        replace_text(out / f"{name}.{suffix}", text)
    return [out / f"{name}.{suffix}" for suffix in texts]


def markdown(result: Result, *, level: int = 1) -> str:
    """The page as Markdown."""
    mark = "#" * level
    lines = [f"{mark} {result['title']}", "", result["question"], "", about(result), ""]
    lines += [f"**{age(result)}**", ""] if is_older(result) else []
    if result["findings"]:
        lines += [f"{mark}# Findings", "", *to_markdown(findings(result)), ""]
    lines += [f"{mark}# Variants", "", *to_markdown(table(result)), ""]
    if cost_table(result).rows:
        lines += [*to_markdown(cost_table(result)), ""]
    if result["slices"] != ["all"]:
        lines += [
            f"{mark}# {slice_heading(result)}",
            "",
            *to_markdown(slice_table(result)),
            "",
        ]
    sentences = [*standing(result), *fits(result), *sanity(result)]
    lines += [*(f"- {sentence}" for sentence in sentences), *([""] if sentences else [])]
    if tuning(result).rows:
        lines += [f"{mark}# Tuning", "", *to_markdown(tuning(result)), ""]
    lines += [*(f"- {note}" for note in [*result["notes"], *READING, *failures(result)]), ""]
    return "\n".join(lines)


READING = (
    "± is the standard deviation over seeds. Differences are paired by seed; their 95 % intervals cover seeds and "
    "users, and p is that of the paired t-test over seeds. Neither is corrected for the number of comparisons.",
    "Confirmed: the intervals of both figures lie on the claimed side (beyond the margin where one is given); the "
    "effect may be smaller than the paper's. Not confirmed: one interval lies on the other side, or the first below "
    "half of the paper's figure. Undecided: neither of these; or the losing side was not tuned to an interior optimum, "
    "or its main input was switched off.",
    "Not comparable: a variant is within 0.03 AUC of the count-based baseline, or its validation AUC still rose by "
    "more than 0.001 over the last tenth of its training: it has hardly learned. Also not comparable: all findings on "
    "data with a leakage warning.",
    "Every ranker is tuned on the validation part under seed 0, with the same number of trials; a grid whose best "
    "point is at an edge is extended there. Differences in % are relative: they are of log(AUC - 0.5).",
)


def summary(result: Result) -> "list[Table]":
    """Tables for a terminal: the findings, and the columns of the variants that fit."""
    judged = [findings(result).only([0, 3, 4, -2])] if result["findings"] else []
    variants = table(result).only([0, 1, 2, 4, -1])  # variant, main figure, its difference, the second figure, seeds
    return [to_rich(shown, framed=False) for shown in (*judged, variants)]


def as_csv(result: Result) -> str:
    """A line per variant, slice, metric and seed."""
    rows = []
    for row in result["rows"]:
        for part, figures in row["parts"].items():
            for metric in metrics_of(result):
                for seed, value in enumerate(figures.get(metric, {}).get("values", ())):
                    rows.append([result["study"], row["variant"], part, metric, str(seed), f"{value:.7f}"])
    return to_csv(TextTable(head=["study", "variant", "slice", "metric", "seed", "value"], rows=rows))
