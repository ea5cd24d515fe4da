"""Scaling: AUC and log loss against parameters, exposures and history length, with a fitted power law."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genrank.models.sequence_config import SequenceRankerConfig
from genrank.studies.bases import Bases
from genrank.studies.study import Finding, Study, Variant

WIDTHS = (0.25, 0.5, 2.0)  # multiples of the recipe's width
SHARES = (0.125, 0.25, 0.5)  # of the users
WINDOWS = (0.0625, 0.125, 0.25, 0.5)  # multiples of the recipe's window
NUM_RESAMPLES = 200
EXPONENTS = (0.0, 5.0)  # bounds of the fitted exponent


def scaling(bases: Bases) -> Study:
    """Variants that change one axis at a time, with the recipe's values on the others."""
    base = bases.recipe("genrank")
    model, window = cast(SequenceRankerConfig, base.model), base.sequence.max_history
    by_width = {
        f"width {round(times * model.width)}": [
            f"model.{name}={max(round(times * getattr(model, name)), 1)}"
            for name in ("width", "feedforward", "embedding_dim")
        ]
        for times in WIDTHS
    }
    by_share = {f"{share:g} of the users": [f"train_share={share}"] for share in SHARES}
    windows = {f"window {size}": size for times in WINDOWS if (size := round(times * window)) > 0}
    by_window = {name: [f"sequence.max_history={size}"] for name, size in windows.items()}
    variants = [
        Variant(name=name, config=bases.recipe("genrank", *changes), tuned_as="genrank")
        for name, changes in (by_width | by_share | by_window).items()
    ]
    widths = {f"width {round(times * model.width)}": times for times in WIDTHS} | {f"width {model.width}": 1.0}
    lengths = {"genrank": window, **windows}
    return Study(
        name="scaling",
        title="Scaling: parameters, exposures, history",
        question="Does a larger ranker, more data or a longer history still improve accuracy at this size?",
        variants=(Variant(name="genrank", config=base), *variants),
        baseline="genrank",
        findings=(
            Finding(
                claim="More exposures help (all users against a half)",
                contrast={"genrank": 1, "0.5 of the users": -1},
                paper=False,
            ),
            *_gains_of_width(widths),
            *_gains_of_history(lengths),
        ),
        axes={
            "parameters": dict.fromkeys(["genrank", *by_width], 0.0),  # taken from the cells
            "share of the users' exposures": {"genrank": 1.0, **dict(zip(by_share, SHARES, strict=True))},
            "history window": lengths,
        },
        notes=("The paper publishes no scaling curve; the claims are ours.",),
    )


def _gains_of_width(widths: Mapping[str, float]) -> Iterator[Finding]:
    """widths: multiples of the recipe's width, by variant; that of the recipe itself, 1, is the variant genrank."""
    for narrower, wider in pairwise(sorted(widths, key=lambda name: widths[name])):
        weights = {"genrank" if widths[name] == 1 else name: weight for name, weight in ((wider, 1), (narrower, -1))}
        claim = f"A wider model helps ({wider} against {narrower.removeprefix('width ')})"
        yield Finding(claim=claim, contrast=weights, paper=False)


def _gains_of_history(lengths: Mapping[str, int]) -> Iterator[Finding]:
    """lengths: the window's exposures, by variant."""
    for shorter, longer in pairwise(sorted(lengths, key=lambda name: lengths[name])):
        claim = f"A longer history helps (window {lengths[longer]} against {lengths[shorter]})"
        yield Finding(claim=claim, contrast={longer: 1, shorter: -1}, paper=False)


def power_law(x: Sequence[float], loss_SX: NDArray[np.float64], *, seed: int = 0) -> dict[str, Any] | None:
    """Fit of loss = floor + scale · x^(-exponent), and the 95 % interval of the exponent.

    None for fewer than four points, where the loss doesn't fall, and where the exponent or its interval lies on a
    bound: such points don't determine it. loss_SX: (seeds, points). The interval resamples seeds at every point.
    """
    points = np.asarray(x, np.float64)
    if len(points) < 4:
        return None
    whole = _fit(points, loss_SX.mean(0))
    if whole is None or _on_bound(whole[2]):
        return None
    random = np.random.default_rng(seed)
    exponents = []
    for _ in range(NUM_RESAMPLES if len(loss_SX) > 1 else 0):
        drawn = random.integers(0, len(loss_SX), loss_SX.shape)
        found = _fit(points, np.take_along_axis(loss_SX, drawn, 0).mean(0))
        if found is not None:
            exponents.append(found[2])
    bounds = [float(v) for v in np.quantile(exponents, [0.025, 0.975])] if len(exponents) >= 20 else None
    if bounds is not None and any(_on_bound(bound) for bound in bounds):
        return None
    floor, scale, exponent = whole
    return {"floor": floor, "scale": scale, "exponent": exponent, "exponent_interval": bounds}


def _on_bound(exponent: float) -> bool:
    low, high = EXPONENTS
    return exponent < low + 1e-3 or exponent > high - 1e-3


def _fit(x: NDArray[np.float64], loss: NDArray[np.float64]) -> tuple[float, float, float] | None:
    from scipy.optimize import OptimizeWarning, curve_fit

    unit = x / x.max()  # so that the scale is the loss above the floor at the largest x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            (floor, scale, exponent), _ = curve_fit(
                lambda u, floor, scale, exponent: floor + scale * u**-exponent,
                unit,
                loss,
                p0=(loss.min() * 0.95, loss.max() - loss.min() + 1e-4, 0.5),
                bounds=([0.0, 0.0, EXPONENTS[0]], [np.inf, np.inf, EXPONENTS[1]]),
                maxfev=20000,
            )
        except RuntimeError:
            return None
    return float(floor), float(scale * x.max() ** exponent), float(exponent)
