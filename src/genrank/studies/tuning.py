"""Tuning: every ranker of a study gets the same grid, judged on the validation part under one seed.

The grid is written down in the study's page with each point's figure; variants that change one thing about a ranker
take over what that ranker chose.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrank.config import override
from genrank.errors import ConfigError
from genrank.runs.config import RunConfig
from genrank.studies.cells import CellResult
from genrank.studies.study import Study, Variant

SEED = 0  # of the runs that are compared
Point = tuple[str, ...]  # settings, PATH=VALUE


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings and the values to try; their product is the grid. Empty: nothing is tuned."""

    values: Mapping[str, Sequence[str]]

    @property
    def points(self) -> list[Point]:
        """Every combination."""
        axes = [[f"{path}={value}" for value in values] for path, values in self.values.items()]
        return [tuple(point) for point in itertools.product(*axes)]


DEFAULT_GRID = ("training.learning_rate=1e-3,2e-3,4e-3",)


def parse_grid(texts: Sequence[str]) -> Grid:
    """From PATH=A,B,C texts; `none` alone is the empty grid. ConfigError where one is not of that form."""
    values: dict[str, list[str]] = {}
    for text in texts:
        if text == "none" and len(texts) == 1:
            break
        path, separator, rest = text.partition("=")
        found = [value.strip() for value in rest.split(",") if value.strip()]
        if not separator or not found:
            raise ConfigError(
                f"--grid {text}: expected PATH=VALUE,VALUE as in training.learning_rate=1e-3,2e-3, or none"
            )
        values[path.strip()] = found
    return Grid(values=values)


def tuner(study: Study, variant: Variant) -> Variant:
    """The variant whose choice this one takes: itself, or another."""
    return study.variant(variant.tuned_as) if variant.tuned_as else variant


def tuned(config: RunConfig, point: Point) -> RunConfig:
    """The configuration at a point of the grid. ConfigError where a setting is wrong."""
    return override(config, point)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the grid gave for one variant: each point's validation figure (None: failed or missing), and the winner."""

    variant: str
    tried: Mapping[Point, float | None]
    best: Point
    metric: str = "auc"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "variant": self.variant,
            "tried": [{"settings": list(point), f"valid_{self.metric}": value} for point, value in self.tried.items()],
            "best": list(self.best),
        }


def choose(variant: str, results: Mapping[Point, CellResult | None], metric: str = "auc") -> Choice | None:
    """The point with the highest validation figure; None while a point is missing or where all have failed."""
    if any(result is None for result in results.values()):
        return None
    tried = {
        point: None if result is None or result.failed else result.figures["valid"][metric]
        for point, result in results.items()
    }
    reached = {point: value for point, value in tried.items() if value is not None}
    if not reached:
        return None
    best = max(reached, key=lambda point: reached[point])
    return Choice(variant=variant, tried=tried, best=best, metric=metric)
