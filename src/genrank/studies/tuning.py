"""Tuning: the settings of every ranker of a study are searched on the same axes, with the same number of trials, by the
validation part under one seed.

A search begins at the recipe's values and tries the neighbours of the best point so far, one axis at a time. A grid
whose best point is at an edge is extended there by the same factor, until the best point has worse neighbours on both
sides of every axis. All rankers take trials in turn until every search is finished or the trials are used up; a search
that finishes early tries points further away. Variants that change one thing about a ranker use its tuned settings.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genrank.config import override, to_dict
from genrank.errors import ConfigError
from genrank.runs.run_config import RunConfig

SEED = 0  # of the runs that are compared
Point = tuple[str, ...]  # settings, PATH=VALUE
LARGEST_STEP = 4.0  # largest factor between an edge and the next value of an extended grid
PAIR = 2  # points that a search tries at a time: both sides of an axis


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings and the values to begin with. Empty: nothing is tuned."""

    values: Mapping[str, Sequence[str]]

    def of(self, config: RunConfig, more: Mapping[str, Sequence[str]]) -> "Grid":
        """The grid with a variant's `more` axes, each with the value of `config` first. Empty stays empty."""
        if not self.values:
            return self
        axes = {**more, **self.values}
        return Grid(values={path: _current_first(config, path, values) for path, values in axes.items()})

    @property
    def start(self) -> Point:
        """The first value of every axis."""
        return tuple(f"{path}={values[0]}" for path, values in self.values.items())

    @property
    def is_tuned(self) -> bool:
        """Whether there is anything to choose."""
        return any(len(values) > 1 for values in self.values.values())


DEFAULT_GRID = (
    "training.learning_rate=1e-3,2e-3,4e-3",
    "training.sparse_learning_rate=0.025,0.05,0.1",
    "loader.batch_tokens=1024,2048,4096",
)


def parse_grid(texts: Sequence[str], fixed: Sequence[str] = ()) -> Grid:
    """The grid of PATH=A,B,C texts; `none` alone is the empty grid. ConfigError for a text of another form.

    fixed: settings that the user gives; the default grid leaves out their axes.
    """
    values: dict[str, list[str]] = {}
    given = {setting.partition("=")[0].strip() for setting in fixed} if tuple(texts) == DEFAULT_GRID else set()
    for text in texts:
        if text == "none" and len(texts) == 1:
            break
        path, separator, rest = text.partition("=")
        found = [value.strip() for value in rest.split(",") if value.strip()]
        if not separator or not found:
            raise ConfigError(
                f"--grid {text}: expected PATH=VALUE,VALUE as in training.learning_rate=1e-3,2e-3, or none"
            )
        if path.strip() not in given:
            values[path.strip()] = found
    return Grid(values=values)


def tuned(config: RunConfig, point: Point) -> RunConfig:
    """The configuration at a point of the grid. ConfigError where a setting is wrong."""
    return override(config, point)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The tuning of one variant: each trial's validation figure (None: it failed), and the best settings."""

    variant: str
    tried: Mapping[Point, float | None]
    best: Point
    metric: str = "auc"

    @property
    def edges(self) -> list[str]:
        """The best settings that are at an edge of the values tried."""
        found = []
        for place, setting in enumerate(self.best):
            values = {number for point in self.tried if (number := _number(point[place])) is not None}
            if len(values) > 1 and _number(setting) in (min(values), max(values)):
                found.append(short(setting))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "variant": self.variant,
            "tried": [{"settings": list(point), f"valid_{self.metric}": value} for point, value in self.tried.items()],
            "best": list(self.best),
            "edges": self.edges,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any], metric: str) -> "Choice":
        """The choice that `to_json` wrote."""
        tried = {tuple(trial["settings"]): trial[f"valid_{metric}"] for trial in values["tried"]}
        return cls(variant=values["variant"], tried=tried, best=tuple(values["best"]), metric=metric)


@dataclass(kw_only=True)
class TuningSearch:
    """One variant's search. axes: setting -> its values; numbers are sorted, and values are added at the edges."""

    variant: str
    config: RunConfig
    start: Point
    axes: dict[str, list[str]]
    tried: dict[Point, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, variant: str, config: RunConfig, grid: Grid) -> "TuningSearch":
        """A search that has tried nothing yet."""
        axes = {path: _ordered(values) for path, values in grid.values.items()}
        return cls(variant=variant, config=config, start=grid.start, axes=axes)

    @property
    def best(self) -> Point | None:
        """The point with the highest figure; None where all failed."""
        reached = {point: value for point, value in self.tried.items() if value is not None}
        return max(reached, key=lambda point: reached[point]) if reached else None

    @property
    def is_interior(self) -> bool:
        """Whether all neighbours of the best point were tried."""
        return self.best is not None and all(point in self.tried for point in self._neighbours(self.best))

    def next(self, count: int) -> list[Point]:
        """The next points to try: neighbours of the best one, then points further and further away."""
        if not self.tried:
            return [self.start]
        ring = [self.best or self.start]
        seen, found = set(ring), list[Point]()
        while ring and len(found) < count:
            ring = list(dict.fromkeys(p for middle in ring for p in self._neighbours(middle) if p not in seen))
            seen.update(ring)
            found += [point for point in ring if point not in self.tried]
        return found[:count]

    def choice(self, metric: str) -> Choice | None:
        """The trials and the best settings; None if no trial could be trained."""
        best = self.best
        return None if best is None else Choice(variant=self.variant, tried=self.tried, best=best, metric=metric)

    def _neighbours(self, point: Point) -> Iterator[Point]:
        for place, setting in enumerate(point):
            path, _, value = setting.partition("=")
            for other in self._neighbouring_values(path, value):
                yield (*point[:place], f"{path}={other}", *point[place + 1 :])

    def _neighbouring_values(self, path: str, value: str) -> list[str]:
        values = self.axes[path]
        if len(values) == 1:
            return []
        if any(_number(text) is None for text in values):
            return [other for other in values if other != value]
        if value == values[0] and (lower := _beyond(values[0], values[1])) != value:
            values.insert(0, lower)
        if value == values[-1] and (higher := _beyond(values[-1], values[-2])) != value:
            values.append(higher)
        place = values.index(value)
        return values[max(place - 1, 0) : place] + values[place + 1 : place + 2]


def short(setting: str) -> str:
    """The setting without the first parts of its path: learning_rate=1e-3."""
    path, _, value = setting.partition("=")
    return f"{path.rpartition('.')[2]}={value}"


def _current_first(config: RunConfig, path: str, values: Sequence[str]) -> list[str]:
    """The values with that of `config` first; if it is not among them, the middle one first."""
    current: Any = to_dict(config)
    for name in path.split("."):
        current = current.get(name) if isinstance(current, Mapping) else None
    same = [text for text in values if text == current or _number(text) == current]
    middle = same or [values[(len(values) - 1) // 2]]
    return [middle[0], *(text for text in values if text != middle[0])]


def _ordered(values: Sequence[str]) -> list[str]:
    numbers = [_number(text) for text in values]
    return list(values) if None in numbers else sorted(values, key=lambda text: _number(text) or 0.0)


def _beyond(edge: str, before: str) -> str:
    """The next value beyond the edge of a grid, by the factor between the last two. Whole numbers stay whole."""
    last, previous = float(edge), float(before)
    step = min(max(last / previous if previous else LARGEST_STEP, 1 / LARGEST_STEP), LARGEST_STEP)
    whole = edge.isdigit() and before.isdigit()
    return str(max(round(last * step), 1)) if whole else f"{last * step:.6g}"


def _number(text: str) -> float | None:
    try:
        return float(text.rpartition("=")[2])
    except ValueError:
        return None


def in_turn(searches: Sequence[TuningSearch], trials: int) -> Iterator[list[tuple[TuningSearch, Point]]]:
    """Rounds of points to try, the same number for each search, until all are interior or have had `trials`.

    Between rounds the caller enters the figures in `tried`, or stops.
    """
    for spent in itertools.count():
        had = max((len(search.tried) for search in searches), default=trials)
        if had >= trials or (spent and all(search.is_interior for search in searches)):
            return
        proposed = [search.next(min(PAIR, trials - had)) for search in searches]
        count = min(len(points) for points in proposed)
        if not count:
            return
        yield [(search, point) for search, points in zip(searches, proposed, strict=True) for point in points[:count]]
