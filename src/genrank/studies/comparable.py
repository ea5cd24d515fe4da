"""May a variant be compared at all? Has it learnt enough, and were both sides given their best?

A model on its plateau loses to anything, which says nothing about its design. So a contrast is *not comparable* where
one of its variants is within `NEAR` of the count-based baseline's AUC, or was still rising when its training ended. And
a win over a side that was not tuned to an interior optimum, or lacks its strongest inputs, is not confirmed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrank.studies.cells import CellResult
from genrank.studies.judging import ALL
from genrank.studies.study import COUNTING, MARGIN, RANKING, Finding, Study, Variant
from genrank.studies.tuning import Choice

NEAR = 0.03  # AUC
LAST = 0.1  # of the exposures that were trained on


@dataclass(frozen=True, kw_only=True)
class Comparability:
    """Whether a variant may be compared: `why` not, empty where it may; what its cells are too poor to tell."""

    why: str = ""
    unchecked: tuple[str, ...] = ()


def counted(cells: Mapping[str, CellResult]) -> float | None:
    """AUC of the best count-based baseline, from its cells by name; None where there is none."""
    figures = [cell.figures["test"][ALL]["auc"] for cell in cells.values() if not cell.failed]
    return max((value for value in figures if value is not None), default=None)


def standing(variant: Variant, cells: Mapping[int, CellResult], counting: float | None) -> Comparability:
    """Of a ranker, from its finished cells."""
    figures = [cell.figures for cell in cells.values() if not cell.failed]
    if variant.classical in COUNTING or not figures:
        return Comparability()
    aucs = [found["test"][ALL].get("auc") for found in figures]
    if None in aucs:
        return Comparability()
    unchecked = []
    if counting is None:
        unchecked.append("no count-based baseline")
    elif (above := float(np.mean(aucs)) - counting) < NEAR:
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
    """How much the figure rose over the last tenth of the run, between validations linearly; None without a curve."""
    points = [(point["exposures"], point[metric]) for point in curve if point[metric] is not None]
    if len(points) < 2:
        return None
    exposures, values = np.array(points, np.float64).T
    return float(values[-1] - np.interp((1 - LAST) * exposures[-1], exposures, values))


def standings(
    study: Study, results: Mapping[str, Mapping[int, CellResult]], counting: float | None
) -> dict[str, Comparability]:
    """Of every variant; retrievers are not held against counting."""
    if study.metrics != RANKING:
        return {variant.name: Comparability() for variant in study.variants}
    return {variant.name: standing(variant, results[variant.name], counting) for variant in study.variants}


def doubts(study: Study, finding: Finding, choices: Mapping[str, Choice]) -> list[str]:
    """Why the finding can't be confirmed whatever its figures: its losing side was not given its best."""
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
    """The variants that the claim has lose to variants of another tuning; contrasts within one tuning have none."""
    by_tuner: dict[str, float] = {}
    for name, weight in finding.contrast.items():
        by_tuner[study.tuner(name)] = by_tuner.get(study.tuner(name), 0.0) + weight
    signs = {"above": (-1,), "not_below": (-1,), "at_most": (1,), "parity": (-1, 1)}[finding.kind]
    lost = {tuner for tuner, weight in by_tuner.items() if abs(weight) > 1e-9 and np.sign(weight) in signs}
    return [name for name in finding.contrast if study.tuner(name) in lost]


def _apart(above: float) -> str:
    return f"{abs(above):.3f} AUC {'above' if above >= 0 else 'below'}"
