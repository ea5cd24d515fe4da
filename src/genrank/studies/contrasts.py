"""From cells to contrasts: how large is a difference, how certain is it, and does it confirm a claim?

Two things vary from one comparison to the next: the seeds of training, and the users that happen to be in the test
part. The deviation over seeds gives a paired t-test (do these recipes differ on these users?); the bootstrap over users
gives an interval for these trained models (would other users give the same result?). A verdict needs both, so it uses
an interval whose variance is the sum of the two, with Satterthwaite's degrees of freedom.

Shapes: S seeds, R bootstrap replicates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genrank.studies.cells import CellResult
from genrank.studies.study import Finding

Verdict = Literal["confirmed", "not confirmed", "undecided", "not comparable", "not measured"]
CHANCE = {"auc": 0.5, "gauc": 0.5}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class VariantFigure:
    """One variant's figure: `value_S`, and its replicates over users, `users_SR`; R is 0 where none are kept."""

    value_S: NDArray[np.float64]
    users_SR: NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of variants' figures."""

    mean: float
    per_seed: tuple[float, ...]
    interval: tuple[float, float] | None  # 95 %, seeds and users together
    user_interval: tuple[float, float] | None  # 95 %, users resampled, the trained models fixed
    p_value: float | None  # paired t-test over seeds, of a difference of 0

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else None


def measured(cells: Mapping[int, CellResult], seeds: Sequence[int], *, metric: str, part: str) -> VariantFigure | None:
    """A variant's figure under the seeds in one slice; None where undefined. cells: by seed, -1: without a seed."""
    values, replicates = [], []
    for seed in seeds:
        row = cells[seed if seed in cells else -1].figures["test"].get(part)
        if row is None or row[metric] is None:
            return None
        values.append(row[metric])
        replicates.append(row["replicates"].get(metric, []))
    return VariantFigure(np.array(values, np.float64), np.array(replicates, np.float64))


def contrast(weights: Mapping[str, float], figures: Mapping[str, VariantFigure]) -> Contrast:
    """Σ weight · figure, seed by seed and replicate by replicate."""
    per_seed_S = sum(weight * figures[name].value_S for name, weight in weights.items())
    users_R = sum(weight * figures[name].users_SR.mean(0) for name, weight in weights.items())
    assert isinstance(per_seed_S, np.ndarray)
    assert isinstance(users_R, np.ndarray)
    user_interval = None
    if len(users_R) >= 20:
        low, high = np.quantile(users_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        user_interval = (float(low), float(high))
    return Contrast(
        mean=float(per_seed_S.mean()),
        per_seed=tuple(float(value) for value in per_seed_S),
        interval=both_intervals(per_seed_S, users_R),
        user_interval=user_interval,
        p_value=paired_test(per_seed_S),
    )


def paired_test(differences_S: NDArray[np.float64]) -> float | None:
    """The two-sided p-value of a paired t-test; None with fewer than two seeds or without any spread."""
    if len(differences_S) < 2 or np.ptp(differences_S) <= 1e-9 * np.abs(differences_S).max():
        return None
    from scipy import stats

    return float(stats.ttest_1samp(differences_S, 0.0).pvalue)


def both_intervals(differences_S: NDArray[np.float64], users_R: NDArray[np.float64]) -> tuple[float, float] | None:
    """Mean ± t · √(s²/S + v), s² over seeds and v over users; None with fewer than two seeds or 20 replicates."""
    if len(differences_S) < 2 or len(users_R) < 20:
        return None
    from scipy import stats

    seeds, users = float(differences_S.var(ddof=1)) / len(differences_S), float(users_R.var(ddof=1))
    variance = seeds + users
    if variance == 0:
        return float(differences_S.mean()), float(differences_S.mean())
    freedom = (len(differences_S) - 1) * (variance / seeds) ** 2 if seeds > 0 else math.inf
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, min(freedom, 1e6))) * math.sqrt(variance)
    mean = float(differences_S.mean())
    return mean - reach, mean + reach


def relative(found: VariantFigure, metric: str) -> VariantFigure | None:
    """log(figure - chance), so that differences are relative; None where a figure is no better than chance."""
    chance = CHANCE.get(metric, 0.0)
    if (found.value_S <= chance).any() or (found.users_SR <= chance).any():
        return None
    return VariantFigure(np.log(found.value_S - chance), np.log(found.users_SR - chance))


def less(found: VariantFigure, other: VariantFigure) -> VariantFigure:
    """The figure minus that of another slice. Replicates are not paired: the interval treats both as independent."""
    users = found.users_SR - other.users_SR if found.users_SR.shape == other.users_SR.shape else found.users_SR[:, :0]
    return VariantFigure(found.value_S - other.value_S, users)


def joint(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim from its verdicts per figure, the main one first: confirmed where all are confirmed."""
    if verdicts[0] == "not measured" or "not confirmed" in verdicts:
        return "not confirmed" if "not confirmed" in verdicts else "not measured"
    return "confirmed" if set(verdicts) == {"confirmed"} else "undecided"


def verdict(finding: Finding, found: Contrast | None, *, size: float | None = None) -> Verdict:
    """The verdict by one figure's interval. Finding explains the kinds of claims; size: the effect in the paper."""
    if found is None or found.interval is None:
        return "not measured"
    low, high = found.interval
    if finding.kind == "above":
        if low > 0:
            return "confirmed"
        return "not confirmed" if high < (size or 0) / 2 or high <= 0 else "undecided"
    if finding.kind == "parity":
        if -finding.margin < low and high < finding.margin:
            return "confirmed"
        return "not confirmed" if low > finding.margin or high < -finding.margin else "undecided"
    if finding.kind == "not_below":
        return "confirmed" if low > -finding.margin else ("not confirmed" if high < -finding.margin else "undecided")
    assert finding.kind == "at_most", finding.kind
    return "confirmed" if high < finding.margin else ("not confirmed" if low > finding.margin else "undecided")


def speed_verdict(ratio: Mapping[str, Any] | None) -> Verdict:
    """The verdict of a throughput ratio, by its quartiles over interleaved rounds."""
    if ratio is None:
        return "not measured"
    if ratio["low"] > 1:
        return "confirmed"
    return "not confirmed" if ratio["high"] < 1 else "undecided"


def power(effect: float, deviation: float, num_seeds: int) -> float:
    """Chance that the paired t-test at 5 % finds `effect`, with that deviation of the paired differences."""
    if num_seeds < 2 or deviation <= 0:
        return math.nan
    from scipy import stats

    shift, freedom = effect / (deviation / math.sqrt(num_seeds)), num_seeds - 1
    bound = stats.t.ppf(0.975, freedom)
    return float(stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift))
