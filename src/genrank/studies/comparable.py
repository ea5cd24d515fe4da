"""Whether variants can be compared: were they trained enough, and did the losing side have tuning and its main inputs?

A model that has hardly learned loses to any other, which says nothing about its design. So a contrast is *not
comparable* where one of its variants is within `NEAR` of the count-based baseline's AUC, or was still improving when
its training ended. A win over a side that was not tuned to an interior optimum, or lacks a main input, is *undecided*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrank.studies.cells import CellResult
from genrank.studies.judging import ALL
from genrank.studies.study import COUNT_BASED, MARGIN, RANKING, Finding, Study, Variant
from genrank.studies.tuning import Choice

NEAR = 0.03  # AUC
LAST = 0.1  # share of the exposures trained on


@dataclass(frozen=True, kw_only=True)
class Comparability:
    """Whether a variant can be compared. why: the reason against it, or empty; unchecked: data that checks lacked."""

    why: str = ""
    unchecked: tuple[str, ...] = ()


def best_baseline_auc(cells: Mapping[str, CellResult]) -> float | None:
    """AUC of the best count-based baseline, from the cells by baseline; None if there are none."""
    figures = [cell.figures["test"][ALL]["auc"] for cell in cells.values() if not cell.failed]
    return max((value for value in figures if value is not None), default=None)


def standing(variant: Variant, cells: Mapping[int, CellResult], baseline_auc: float | None) -> Comparability:
    """Comparability of a ranker, by its finished cells. baseline_auc: of the best count-based baseline."""
    figures = [cell.figures for cell in cells.values() if not cell.failed]
    if variant.classical in COUNT_BASED or not figures:
        return Comparability()
    aucs = [found["test"][ALL].get("auc") for found in figures]
    if None in aucs:
        return Comparability()
    unchecked = []
    if baseline_auc is None:
        unchecked.append("no count-based baseline")
    elif (above := float(np.mean(aucs)) - baseline_auc) < NEAR:
        return Comparability(why=f"{variant.name} is {_apart(above)} the count-based baseline")
    if variant.classical is None:
        rises = [last_rise(found.get("curve", ()), "auc") for found in figures]
        known = [rise for rise in rises if rise is not None]
        if len(known) < len(rises):
            unchecked.append("no validation curve")
        elif (rise := float(np.mean(known))) > MARGIN:
            return Comparability(
                why=f"{variant.name} was still rising by {rise:.4f} AUC over the last tenth of its training"
            )
    return Comparability(unchecked=tuple(unchecked))


def last_rise(curve: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """The figure's rise over the last tenth of the run, interpolated between validations; None without a curve."""
    points = [(point["exposures"], point[metric]) for point in curve if point[metric] is not None]
    if len(points) < 2:
        return None
    exposures, values = np.array(points, np.float64).T
    return float(values[-1] - np.interp((1 - LAST) * exposures[-1], exposures, values))


def standings(
    study: Study, results: Mapping[str, Mapping[int, CellResult]], baseline_auc: float | None
) -> dict[str, Comparability]:
    """Comparability of every variant. Retrievers have no count-based baseline and are always comparable."""
    if study.metrics != RANKING:
        return {variant.name: Comparability() for variant in study.variants}
    return {variant.name: standing(variant, results[variant.name], baseline_auc) for variant in study.variants}


def doubts(study: Study, finding: Finding, choices: Mapping[str, Choice]) -> list[str]:
    """Why the finding can't be confirmed, whatever its figures: the losing side lacks tuning or an input."""
    said = []
    for name in losing(study, finding):
        variant, tuner = study.variant(name), study.tuner(name)
        if variant.weakness:
            said.append(f"{name}: {variant.weakness}")
        if variant.classical is None:
            choice = choices.get(tuner)
            if choice is None or len(choice.tried) < 2:
                said.append(f"{tuner} was not tuned")
            elif choice.edges:
                said.append(f"{tuner}'s best setting is at the edge of its grid ({', '.join(choice.edges)})")
    return list(dict.fromkeys(said))


def losing(study: Study, finding: Finding) -> list[str]:
    """The variants that lose if the claim is true. A contrast of variants with the same tuned settings has none."""
    by_tuner: dict[str, float] = {}
    for name, weight in finding.contrast.items():
        by_tuner[study.tuner(name)] = by_tuner.get(study.tuner(name), 0.0) + weight
    signs = {"above": (-1,), "not_below": (-1,), "at_most": (1,), "parity": (-1, 1)}[finding.kind]
    lost = {tuner for tuner, weight in by_tuner.items() if abs(weight) > 1e-9 and np.sign(weight) in signs}
    return [name for name in finding.contrast if study.tuner(name) in lost]


def _apart(above: float) -> str:
    return f"{abs(above):.3f} AUC {'above' if above >= 0 else 'below'}"
