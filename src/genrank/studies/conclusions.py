"""Conclusions from the finished cells of a study: rows, findings with verdicts, fits, the result of an A/A study."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genrank.studies.cells import CellResult
from genrank.studies.comparable import Comparability, best_baseline_auc, doubts, standings
from genrank.studies.contrasts import (
    Contrast,
    VariantFigure,
    contrast,
    joint,
    less,
    measured,
    relative,
    speed_verdict,
    verdict,
)
from genrank.studies.judging import ALL
from genrank.studies.sanity import compare_with_itself
from genrank.studies.scaling import power_law
from genrank.studies.study import Finding, Study, Variant
from genrank.studies.tuning import Choice

NUM_TESTED = 2  # a claim is tested on a study's first two figures, and must hold for both
Results = Mapping[str, Mapping[int, CellResult]]  # variant -> seed -> cell; seed -1: the cell doesn't depend on a seed


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All results of a study's cells. baselines: the count-based baselines' cells by name; none for retrieval.

    leaks: the data's leakage warnings, which make its findings not comparable. slices: the order in which they are
    shown, if known: packed cells don't keep it.
    """

    results: Results
    seeds: Sequence[int]
    baselines: Mapping[str, CellResult]
    choices: Mapping[str, Choice]
    speed: Mapping[str, Any]
    leaks: Sequence[str] = ()
    slices: Sequence[str] = ()


def conclude(study: Study, evidence: Evidence) -> dict[str, Any]:
    """Rows, findings, fits and the A/A check, from the cells that exist."""
    results, seeds = evidence.results, evidence.seeds
    parts = _parts(results, evidence.slices) if study.slices else [ALL]
    baseline_auc = best_baseline_auc(evidence.baselines)
    standing = standings(study, results, baseline_auc)
    rows = [_row(study, variant, evidence, parts, standing[variant.name]) for variant in study.variants]
    concluded: dict[str, Any] = {
        "baseline": study.baseline,
        "metrics": list(study.metrics),
        "slices": parts,
        "counting": baseline_auc,
        "rows": rows,
        "findings": [_finding(study, finding, evidence, standing) for finding in study.findings],
    }
    if study.axes:
        concluded["axes"] = {axis: dict(points) for axis, points in study.axes.items()}
        concluded["fits"] = _fits(study, results, seeds)
    if study.name == "a-a":
        found = _figures(results, [study.baseline], seeds, "auc", ALL)
        concluded["sanity"] = found and compare_with_itself(
            found[0][study.baseline].value_S, found[0][study.baseline].users_SR
        )
    return concluded


def _parts(results: Results, order: Sequence[str]) -> list[str]:
    first = next((c for cells in results.values() for c in cells.values() if not c.failed), None)
    found = list(first.figures["test"]) if first else [ALL]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _figures(
    results: Results, names: Sequence[str], seeds: Sequence[int], metric: str, part: str
) -> tuple[dict[str, VariantFigure], list[int]] | None:
    """Figures of the variants under the seeds that all of them have, and these seeds; None without any."""
    common = [
        seed
        for seed in seeds
        if all(any(s in results[n] and not results[n][s].failed for s in (seed, -1)) for n in names)
    ]
    if not common:
        return None
    found = {name: measured(results[name], common, metric=metric, part=part) for name in names}
    if any(value is None for value in found.values()):
        return None
    return {name: value for name, value in found.items() if value is not None}, common


def _row(
    study: Study, variant: Variant, evidence: Evidence, parts: Sequence[str], standing: Comparability
) -> dict[str, Any]:
    results, seeds, speed = evidence.results, evidence.seeds, evidence.speed
    cells = results[variant.name]
    done = [cell for cell in cells.values() if not cell.failed]
    row: dict[str, Any] = {
        "variant": variant.name,
        "tuned_as": variant.tuned_as,
        "yardstick": variant.classical,
        "weakness": variant.weakness,
        "seeds": len(done),
        "errors": sorted({cell.error for cell in cells.values() if cell.failed}),
        "not_comparable": standing.why,
        "unchecked": list(standing.unchecked),
        "parameters": done[0].figures.get("parameters") if done else None,
        "seconds": float(np.median([cell.figures["seconds"] for cell in done])) if done else None,
        "speed": {
            regime: figures["figures"][variant.name]
            for regime, figures in speed.items()
            if variant.name in figures["figures"]
        },
        "parts": {},
    }
    for part in parts:
        figures: dict[str, Any] = {}
        for metric in study.metrics:
            own = _figures(results, [variant.name], seeds, metric, part)
            if own is None:
                continue
            value_S = own[0][variant.name].value_S
            figures[metric] = {
                "mean": float(value_S.mean()),
                "deviation": float(value_S.std(ddof=1)) if len(value_S) > 1 else None,
                "values": [float(value) for value in value_S],
            }
            if variant.name != study.baseline:
                against = _figures(results, [variant.name, study.baseline], seeds, metric, part)
                if against is not None:
                    figures[metric]["difference"] = _plain(
                        contrast({variant.name: 1.0, study.baseline: -1.0}, against[0])
                    )
        if done and part in done[0].figures["test"]:
            figures["num_exposures"] = done[0].figures["test"][part]["num_exposures"]
        row["parts"][part] = figures
    return row


def _finding(
    study: Study, finding: Finding, evidence: Evidence, standing: Mapping[str, Comparability]
) -> dict[str, Any]:
    """The finding, what was measured per figure, and its verdict. why: reasons for a weaker verdict than by figures."""
    about: dict[str, Any] = {**asdict(finding), "weights": dict(finding.contrast)}
    del about["contrast"]
    if finding.kind == "faster":
        ratio = _ratio(finding, evidence.speed)
        return about | {"ratio": ratio, "verdict": speed_verdict(ratio), "why": ""}
    found: dict[str, Contrast | None] = {}
    seeds: list[int] = []
    for metric in study.metrics[:NUM_TESTED]:
        found[metric], common = _contrast(finding, evidence.results, evidence.seeds, metric)
        seeds = seeds or common
    verdicts = [
        verdict(finding, contrast, size=None if place else finding.size)
        for place, contrast in enumerate(found.values())
    ]
    said = joint(verdicts)
    why = [f"the data leaks: {message}" for message in evidence.leaks]
    why += [standing[name].why for name in finding.contrast if standing[name].why]
    if why and said != "not measured":
        said = "not comparable"
    elif said == "confirmed" and (why := doubts(study, finding, evidence.choices)):
        said = "undecided"
    unchecked = {text for name in finding.contrast for text in standing[name].unchecked}
    return about | {
        "contrast": _plain(found[study.metrics[0]]),
        "contrasts": {metric: _plain(contrast) for metric, contrast in found.items()},
        "seeds": len(seeds),
        "verdict": said,
        "verdicts": dict(zip(found, verdicts, strict=True)),
        "why": "; ".join(why),
        "unchecked": sorted(unchecked),
    }


def _contrast(
    finding: Finding, results: Results, seeds: Sequence[int], metric: str
) -> tuple[Contrast | None, list[int]]:
    """The finding's contrast of one figure, and the seeds that it uses."""
    sides = []
    for part in (finding.slice or ALL, *([finding.than] if finding.than else [])):
        found = _figures(results, list(finding.contrast), seeds, metric, part)
        if found is None:
            return None, []
        figures, common = found
        if finding.relative:
            shares = {name: relative(value, metric) for name, value in figures.items()}
            figures = {name: value for name, value in shares.items() if value is not None}
            if len(figures) < len(shares):
                return None, common
        sides.append(figures)
    if finding.than:
        sides[0] = {name: less(value, sides[1][name]) for name, value in sides[0].items()}
    return contrast(finding.contrast, sides[0]), common


def _ratio(finding: Finding, speed: Mapping[str, Any]) -> dict[str, float] | None:
    """Throughput of the first variant over the second's, which is the study's baseline."""
    figures = speed.get(finding.regime, {}).get("figures", {}).get(next(iter(finding.contrast)))
    return None if figures is None else dict(figures["over_baseline"])


def _fits(study: Study, results: Results, seeds: Sequence[int]) -> list[dict[str, Any]]:
    fits = []
    for axis, points in study.axes.items():
        done = {n: x for n, x in points.items() if results[n] and not any(c.failed for c in results[n].values())}
        found = _figures(results, list(done), seeds, "neg_logloss", ALL) if done else None
        if found is None:
            continue
        xs = {n: x or float(next(iter(results[n].values())).figures["parameters"]) for n, x in done.items()}
        names = sorted(xs, key=lambda name: xs[name])
        loss_SX = -np.stack([found[0][name].value_S for name in names], axis=1)
        aucs = _figures(results, names, seeds, "auc", ALL)
        fits.append(
            {
                "axis": axis,
                "x": [xs[name] for name in names],
                "variants": names,
                "logloss": [float(value) for value in loss_SX.mean(0)],
                "auc": [float(aucs[0][name].value_S.mean()) for name in names] if aucs else None,
                "fit": power_law([xs[name] for name in names], loss_SX),
            }
        )
    return fits


def _plain(found: Contrast | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "mean": found.mean,
        "deviation": found.deviation,
        "per_seed": list(found.per_seed),
        "interval": None if found.interval is None else list(found.interval),
        "user_interval": None if found.user_interval is None else list(found.user_interval),
        "p_value": found.p_value,
    }
