"""The evaluation of one set of predictions: metrics per task, intervals, slices, baselines beside the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrank.config import to_dict
from genrank.data.manifest import DataWarning
from genrank.evaluation import metrics as m
from genrank.evaluation.bootstrap import (
    auc_intervals,
    calibration_intervals,
    difference,
    gauc_replicates,
    interval,
    mean_interval,
)
from genrank.evaluation.predictions import Predictions
from genrank.evaluation.slices import slices

Baselines = Mapping[str, Mapping[str, m.Floats]]  # task -> baseline -> scores


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Nested plain values, as `genrank evaluate --json` prints them; what is undefined is None."""

    tasks: dict[str, dict[str, Any]]
    slices: dict[str, dict[str, dict[str, Any]]]
    baselines: dict[str, dict[str, dict[str, Any]]]
    verdicts: list[str] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)  # of the data: kind and message

    def to_json(self) -> dict[str, Any]:
        """The document that `genrank evaluate --json` prints."""
        return {
            "tasks": self.tasks,
            "slices": self.slices,
            "baselines": self.baselines,
            "verdicts": self.verdicts,
            "warnings": self.warnings,
        }


def evaluate(
    p: Predictions,
    baselines: Baselines,
    *,
    warnings: Sequence[DataWarning] = (),
    num_bootstrap: int = 200,
    seed: int = 0,
) -> Evaluation:
    """Evaluate predictions. Intervals are 95 %, by bootstrap over users, paired where model and baseline are compared.

    warnings: of the data, copied into the evaluation; after a leakage warning no verdict claims a win of the model.
    """
    leaks = any(warning.kind == "leakage" for warning in warnings)
    tasks, beside, verdicts = {}, {}, []
    for task, score in p.scores.items():
        known = ~np.isnan(p.labels[task])
        label, users, weights = p.labels[task][known].astype(np.float64), p.user[known], p.weights_of(task, known)
        others = {name: values[known] for name, values in baselines.get(task, {}).items()}
        if task in p.censored:
            ended = ~p.censored[task][known]
            label, weights = label[ended], None if weights is None else weights[ended]
            tasks[task] = _duration(score[known][ended], label, weights)
            tasks[task]["mae_ci"] = _list(
                mean_interval(
                    np.abs(score[known][ended] - label),
                    users[ended],
                    num_replicates=num_bootstrap,
                    seed=seed,
                    weights=weights,
                )
            )
            beside[task] = {name: _duration(values[ended], label, weights) for name, values in others.items()}
            continue
        if task in p.oracle:
            others["oracle"] = p.oracle[task][known].astype(np.float64)
        columns = {"model": score[known], **others}
        rows = _binary_rows(columns, label, users, num_bootstrap=num_bootstrap, seed=seed, weights=weights)
        tasks[task], beside[task] = rows.pop("model"), rows
        verdicts += _verdicts(task, tasks[task], rows, leaks=leaks)
    cut = {
        group: {name: _slice(p, mask, num_bootstrap, seed) for name, mask in masks.items()}
        for group, masks in slices(p).items()
    }
    return Evaluation(
        tasks=tasks, slices=cut, baselines=beside, verdicts=verdicts, warnings=[to_dict(found) for found in warnings]
    )


def _binary_rows(
    columns: dict[str, m.Floats],
    label: m.Floats,
    users: m.Floats,
    *,
    num_bootstrap: int,
    seed: int,
    weights: m.Floats | None,
) -> dict[str, dict[str, Any]]:
    drawn: Any = {"num_replicates": num_bootstrap, "seed": seed, "weights": weights}
    intervals, replicates = auc_intervals(columns, label, users, **drawn)
    gaucs = gauc_replicates(columns, label, users, **drawn)
    rows = {name: _binary(score, label, users, weights) for name, score in columns.items()}
    for name, row in rows.items():
        row["auc_ci"] = _list(intervals[name])
        row["gauc_ci"] = _list(interval(gaucs[name]))
        calibrated = calibration_intervals(columns[name], label, users, **drawn)
        row |= {f"{metric}_ci": _list(bounds) for metric, bounds in calibrated.items()}
        if name != "model":
            row["model_minus_this_auc_ci"] = _list(difference(replicates["model"], replicates[name]))
            row["model_minus_this_gauc_ci"] = _list(difference(gaucs["model"], gaucs[name]))
    oracle, rates = rows.get("oracle"), rows.get("item_user_rate")
    if oracle and rates and oracle["auc"] and oracle["auc"] > max(rates["auc"], 0.51):  # otherwise the gap is tiny
        rows["model"]["gap_closed"] = (rows["model"]["auc"] - rates["auc"]) / (oracle["auc"] - rates["auc"])
        rates["gap_closed_from_half"] = (rates["auc"] - 0.5) / (oracle["auc"] - 0.5)
    return rows


def _binary(score: m.Floats, label: m.Floats, users: m.Floats, weights: m.Floats | None) -> dict[str, Any]:
    within = m.gauc(score, label, users, weights)
    return {
        "auc": m.auc(score, label, weights),
        "gauc": within.value,
        "gauc_unweighted": within.unweighted,
        "gauc_coverage": within.coverage,
        "logloss": m.logloss(score, label, weights),
        "ne": m.normalized_entropy(score, label, weights),
        "pcoc": m.pcoc(score, label, weights),
        "ece": m.ece(score, label, weights=weights),
        "num_exposures": len(label),
        "num_positives": int(label.sum()),
        **({} if weights is None else {"weight": float(weights.sum())}),
    }


def _duration(score: m.Floats, label: m.Floats, weights: m.Floats | None) -> dict[str, Any]:
    return {
        "mae": m.mae(score, label, weights),
        "xauc": m.xauc(score, label, weights),
        "num_exposures": len(label),
        **({} if weights is None else {"weight": float(weights.sum())}),
    }


def _slice(p: Predictions, mask: m.Floats, num_bootstrap: int, seed: int) -> dict[str, Any]:
    figures = {}
    for task, score in p.scores.items():
        chosen = mask & ~np.isnan(p.labels[task])
        label, users, weights = p.labels[task][chosen].astype(np.float64), p.user[chosen], p.weights_of(task, chosen)
        if task in p.censored:
            figures[task] = _duration(score[chosen], label, weights)
            continue
        drawn: Any = {"num_replicates": min(num_bootstrap, 100), "seed": seed, "weights": weights}
        intervals, _ = auc_intervals({"model": score[chosen]}, label, users, **drawn)
        figures[task] = {
            "auc": m.auc(score[chosen], label, weights),
            "auc_ci": _list(intervals["model"]),
            "gauc": m.gauc(score[chosen], label, users, weights).value,
            "logloss": m.logloss(score[chosen], label, weights),
            "num_exposures": len(label),
        }
    return figures


def _verdicts(task: str, model: dict[str, Any], rows: dict[str, dict[str, Any]], *, leaks: bool) -> list[str]:
    if model["auc"] is None:
        return [f"{task}: only one class among the evaluated exposures, so AUC is not defined."]
    said = []
    for metric in ("auc", "gauc"):
        best = max((n for n in rows if n != "oracle" and rows[n][metric]), key=lambda n: rows[n][metric], default=None)
        if best and model[metric] is not None:
            against = _against(task, metric.upper(), model[metric], rows[best][metric], best, rows[best])
            said.append(_distrusted(against) if leaks else against)
    low, high = model["auc_ci"] or (0.0, 0.0)
    if high - low > 0.02:
        said.append(
            f"{task}: the AUC's interval is {high - low:.3f} wide; smaller differences are not significant here."
        )
    if model["gauc_coverage"] < 0.5:
        said.append(f"{task}: GAUC covers only {model['gauc_coverage']:.0%} of the exposures.")
    return said


def _against(task: str, metric: str, mine: float, theirs: float, name: str, row: dict[str, Any]) -> str:
    interval = row[f"model_minus_this_{metric.lower()}_ci"]
    low, high = interval or (-1.0, 1.0)
    baseline = "gradient-boosted trees" if name == "trees" else f"the baseline {name.replace('_', ' ')}"
    if low > 0:
        verb = "beats"
    elif high < 0:
        verb = "LOSES TO"
    else:
        verb = "does not differ significantly from"
    margin = f"{mine - theirs:+.4f}" + (f", 95 % interval {low:+.4f} to {high:+.4f}" if interval else "")
    return f"{task}: the model {verb} {baseline} on {metric}: {mine:.4f} against {theirs:.4f} ({margin})."


def _distrusted(verdict: str) -> str:
    return verdict.replace(" beats ", " is above ") + " Not comparable: the data has a warning of leakage."


def _list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)
