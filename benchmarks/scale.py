"""What preparing a log costs by its size: a model fitted to measured points, its errors at them, and what it predicts.

python benchmarks/prepare.py --exposures 5000000 --json >> points.jsonl      # and more sizes
python benchmarks/scale.py points.jsonl [--exposures N --users U] [--json]

Points with and without statistics have a model each. CPU seconds and bytes on disk are each a constant, a part per
exposure and a part per user. The parts are not negative, and are fitted to relative errors. Seconds by the clock are
CPU seconds by the cores that were busy at the largest point. `scale_points.jsonl` has the points of docs/scale.md.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = dict[str, Any]
PARTS = ("constant", "per exposure", "per user")
FITTED = ("cpu_seconds", "prepared_mib")


def sizes(point: Point) -> NDArray[np.float64]:
    """What a cost is proportional to."""
    return np.array([1.0, point["exposures"], point["users"]])


def fit(points: list[Point], what: str) -> NDArray[np.float64]:
    """The cost per unit of each of `PARTS`: of all subsets of them that fit without a negative one, the best."""
    x = np.stack([sizes(point) for point in points])
    y = np.array([point[what] for point in points], np.float64)
    best, error = np.zeros(len(PARTS)), np.inf
    for kept in itertools.product((False, True), repeat=len(PARTS)):
        columns = np.flatnonzero(kept)
        if not 0 < len(columns) <= len(points):
            continue
        scaled = x[:, columns] / y[:, None]
        scale = np.abs(scaled).max(axis=0)
        found = np.linalg.lstsq(scaled / scale, np.ones(len(y)), rcond=None)[0] / scale
        rest = float(np.square(scaled @ found - 1).sum())
        if np.all(found >= 0) and rest < error - 1e-12:
            best, error = np.zeros(len(PARTS)), rest
            best[columns] = found
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points", type=Path, help="lines of benchmarks/prepare.py --json")
    parser.add_argument("--exposures", type=float, default=1e9)
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    points = [json.loads(line) for line in arguments.points.read_text().splitlines()]
    wanted = {"exposures": arguments.exposures, "users": arguments.users}
    found: dict[str, Any] = {}
    for statistics in (False, True):
        group = [point for point in points if point["statistics"] == statistics]
        if not group:
            continue
        name = "with statistics" if statistics else "without statistics"
        largest = max(group, key=lambda point: point["exposures"])
        found[name] = {"cores busy": round(largest["cpu_seconds"] / largest["seconds"], 2)}
        for what in FITTED:
            costs = fit(group, what)
            errors = {
                f"{point['exposures']:,} of {point['users']:,}": round(float(sizes(point) @ costs) / point[what], 3)
                for point in group
            }
            found[name][what] = {
                **{part: float(f"{cost:.3g}") for part, cost in zip(PARTS, costs, strict=True)},
                "predicted": round(float(sizes(wanted) @ costs), 1),
                "modelled / measured": errors,
            }
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"predicted: {wanted['exposures']:,.0f} exposures of {wanted['users']:,.0f} users")
    for name, costs_of in found.items():
        print(f"\n{name}: {costs_of.pop('cores busy')} cores busy")
        for what, values in costs_of.items():
            errors = values.pop("modelled / measured")
            print(f"  {what}: " + ", ".join(f"{part} {value:,}" for part, value in values.items()))
            for point, error in errors.items():
                print(f"    {point:40s} modelled / measured {error}")


if __name__ == "__main__":
    main()
