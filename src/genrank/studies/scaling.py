"""Scaling: AUC and log loss against parameters, exposures and history length, with a fitted power law."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.studies.bases import Bases
from genrank.studies.study import Finding, Study, Variant

WIDTHS = (16, 32, 64, 128)
SHARES = (0.125, 0.25, 0.5, 1.0)
WINDOWS = (16, 32, 64, 128, 256)
NUM_RESAMPLES = 200


def scaling(bases: Bases) -> Study:
    """One axis at a time, the others as the recipe has them."""
    base = bases.recipe("genrank")
    variants, axes = [Variant(name="genrank", config=base)], {}
    by_width = {
        f"width {w}": [f"model.width={w}", f"model.feedforward={4 * w}", f"model.embedding_dim={max(w // 2, 8)}"]
        for w in WIDTHS
    }
    by_share = {f"{share:g} of the users": [f"train_share={share}"] for share in SHARES if share < 1}
    by_window = {f"window {n}": [f"sequence.max_history={n}"] for n in WINDOWS if n != base.sequence.max_history}
    for settings in (by_width, by_share, by_window):
        variants += [
            Variant(name=name, config=bases.recipe("genrank", *changes), tuned_as="genrank")
            for name, changes in settings.items()
        ]
    axes["parameters"] = dict.fromkeys(by_width, 0.0)  # taken from the cells
    axes["share of the users' exposures"] = dict(zip(by_share, SHARES, strict=False)) | {"genrank": 1.0}
    axes["history window"] = {f"window {n}": float(n) for n in WINDOWS if f"window {n}" in by_window} | {
        "genrank": float(base.sequence.max_history)
    }
    return Study(
        name="scaling",
        title="Scaling: parameters, exposures, history",
        question="Does a larger ranker, more data or a longer history still pay at this size?",
        variants=tuple(variants),
        baseline="genrank",
        findings=(
            Finding(
                claim="More exposures help (all users against a half)",
                contrast={"genrank": 1, "0.5 of the users": -1},
                paper=False,
            ),
            Finding(
                claim=f"A wider model helps ({WIDTHS[-1]} against {WIDTHS[0]})",
                contrast={f"width {WIDTHS[-1]}": 1, f"width {WIDTHS[0]}": -1},
                paper=False,
            ),
            Finding(
                claim=f"A longer history helps (window {base.sequence.max_history} against {WINDOWS[0]})",
                contrast={"genrank": 1, f"window {WINDOWS[0]}": -1},
                paper=False,
            ),
        ),
        axes=axes,
        notes=("The paper publishes no scaling curve of its own; the claims are ours.",),
    )


def power_law(x: Sequence[float], loss_SX: NDArray[np.float64], *, seed: int = 0) -> dict[str, Any] | None:
    """Fit of loss = floor + scale · x^(-exponent), and the 95 % interval of the exponent; None below four points.

    loss_SX: (seeds, points). The interval resamples seeds at every point.
    """
    points = np.asarray(x, np.float64)
    if len(points) < 4:
        return None
    whole = _fit(points, loss_SX.mean(0))
    if whole is None:
        return None
    random = np.random.default_rng(seed)
    exponents = []
    for _ in range(NUM_RESAMPLES if len(loss_SX) > 1 else 0):
        drawn = random.integers(0, len(loss_SX), loss_SX.shape)
        found = _fit(points, np.take_along_axis(loss_SX, drawn, 0).mean(0))
        if found is not None:
            exponents.append(found[2])
    bounds = [float(v) for v in np.quantile(exponents, [0.025, 0.975])] if len(exponents) >= 20 else None
    floor, scale, exponent = whole
    return {"floor": floor, "scale": scale, "exponent": exponent, "exponent_interval": bounds}


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
                bounds=([0.0, 0.0, 0.0], [np.inf, np.inf, 5.0]),
                maxfev=20000,
            )
        except RuntimeError:
            return None
    return float(floor), float(scale * x.max() ** exponent), float(exponent)
