"""What the finished cells of a study say: rows, findings with verdicts, fits, the machinery's own sanity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrank.studies.cells import CellResult
from genrank.studies.inference import Contrast, Measured, contrast, measured, speed_verdict, verdict
from genrank.studies.judging import ALL
from genrank.studies.sanity import compare_with_itself
from genrank.studies.scaling import power_law
from genrank.studies.study import Finding, Study, Variant

Results = Mapping[str, Mapping[int, CellResult]]  # variant -> seed -> cell; seed -1: the same for any


def conclude(study: Study, results: Results, seeds: Sequence[int], speed: Mapping[str, Any]) -> dict[str, Any]:
    """Rows, findings, fits and sanity from whatever cells there are."""
    parts = _parts(results) if study.slices else [ALL]
    rows = [_row(study, variant, results, seeds, parts, speed) for variant in study.variants]
    concluded: dict[str, Any] = {
        "baseline": study.baseline,
        "metrics": list(study.metrics),
        "slices": parts,
        "rows": rows,
        "findings": [_finding(finding, results, seeds, speed) for finding in study.findings],
    }
    if study.axes:
        concluded["fits"] = _fits(study, results, seeds)
    if study.name == "a-a":
        found = _figures(results, [study.baseline], seeds, "auc", ALL)
        concluded["sanity"] = found and compare_with_itself(
            found[0][study.baseline].value_S, found[0][study.baseline].users_SR
        )
    return concluded


def _parts(results: Results) -> list[str]:
    first = next((c for cells in results.values() for c in cells.values() if not c.failed), None)
    return list(first.figures["test"]) if first else [ALL]


def _figures(
    results: Results, names: Sequence[str], seeds: Sequence[int], metric: str, part: str
) -> tuple[dict[str, Measured], list[int]] | None:
    """Figures of the variants under the seeds that all of them have; None without any."""
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
    study: Study,
    variant: Variant,
    results: Results,
    seeds: Sequence[int],
    parts: Sequence[str],
    speed: Mapping[str, Any],
) -> dict[str, Any]:
    cells = results[variant.name]
    done = [cell for cell in cells.values() if not cell.failed]
    row: dict[str, Any] = {
        "variant": variant.name,
        "seeds": len(done),
        "errors": sorted({cell.error for cell in cells.values() if cell.failed}),
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


def _finding(finding: Finding, results: Results, seeds: Sequence[int], speed: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "claim": finding.claim,
        "kind": finding.kind,
        "metric": finding.metric,
        "slice": finding.slice,
        "paper": finding.paper,
        "size": finding.size,
        "margin": finding.margin if finding.kind in ("parity", "not_below", "at_most") else None,
    }
    if finding.kind == "faster":
        ratio = _ratio(finding, speed)
        return about | {"ratio": ratio, "verdict": speed_verdict(ratio)}
    found = _figures(results, list(finding.contrast), seeds, finding.metric, finding.slice or ALL)
    result = None if found is None else contrast(finding.contrast, found[0])
    return about | {
        "contrast": None if result is None else _plain(result),
        "seeds": 0 if found is None else len(found[1]),
        "verdict": verdict(finding, result),
    }


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


def _plain(found: Contrast) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "deviation": found.deviation,
        "per_seed": list(found.per_seed),
        "interval": None if found.interval is None else list(found.interval),
        "user_interval": None if found.user_interval is None else list(found.user_interval),
        "p_value": found.p_value,
    }
