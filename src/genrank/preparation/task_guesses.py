"""Guesses which columns are actions to predict: flags, ratings and durations, by name and values."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrank.preparation import column_names as hints
from genrank.preparation.column_facts import ColumnFacts
from genrank.preparation.toml_lines import block, setting

LONG = 1000.0  # a median watching time above it is in milliseconds: in seconds it would be a quarter of an hour


@dataclass
class TaskGuesses:
    """lines: of TOML. found: names of tasks. labels: (N) 0, 1 or NaN of the binary ones. used: columns already
    assigned, also in comments. taken: names that features can't have."""

    lines: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    labels: list[NDArray[np.float64]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def add(self, column: ColumnFacts, kind: str, why: str, *settings: str, active: bool = True) -> None:
        """A task of a column."""
        name = hints.identifier(column.name, self.taken)
        lines = [setting("name", name), setting("kind", kind), setting("column", column.name), *settings]
        self.lines += block("[[tasks]]", lines, why=why, active=active)
        self.used.add(column.name)
        if active:
            self.found.append(name)


def guess_tasks(columns: list[ColumnFacts], lists: tuple[ColumnFacts, ...], *, item: ColumnFacts | None) -> TaskGuesses:
    """Tasks among the columns that have no role; `lists` are those of items acted on."""
    tasks = TaskGuesses()
    for column in lists:
        tasks.add(column, "binary", f"{column.name!r} lists the items acted on, by its name")
    flags = [column for column in columns if column.kind == "truth"]
    acted = [column for column in flags if set(hints.words(column.name)) & hints.ACTIONS]
    if not acted and not lists:
        label = hints.named(flags, hints.LABEL) or (flags[0] if len(flags) == 1 else None)
        acted = [label] if label is not None else []
    for column in acted:
        _add_flag(tasks, column)
    for column in columns:
        if column.kind == "text" and 2 <= column.num_distinct <= 12:
            _add_events(tasks, column)
    _add_ratings(tasks, [column for column in columns if column.name not in tasks.used])
    for column in columns:
        if column.name not in tasks.used and _is_duration(column, item):
            _add_duration(tasks, column, flags, in_lists=bool(lists))
    return tasks


def _add_flag(tasks: TaskGuesses, column: ColumnFacts) -> None:
    assert column.numbers is not None
    known = column.numbers[np.isfinite(column.numbers)]
    if known.min() == known.max():
        why = f"{column.name!r} is {column.example} in every row of the sample; a task needs both 0 and 1"
        tasks.add(column, "binary", why, active=False)
        return
    why = f"0/1 or true/false, {known.mean():.1%} of the rows; is it what the user did after the item was shown?"
    tasks.add(column, "binary", why)
    tasks.labels.append(column.numbers)


def _add_events(tasks: TaskGuesses, column: ColumnFacts) -> None:
    """If a column has the kind of each row, such as view or click: how its rows are joined, commented out."""
    exposure = next((name for name in hints.EXPOSURES if name in map(str.lower, column.texts)), None)
    actions = [text for text in column.texts if set(hints.words(text)) & hints.ACTIONS and text.lower() != exposure]
    if exposure is None or not actions:
        return
    shown = next(text for text in column.texts if text.lower() == exposure)
    why = (
        f"{column.name!r} says what a row is ({', '.join(column.texts)}). Where exposures and actions are rows of "
        "their own, uncomment this, and add a task for every action to be predicted, with the value as its column"
    )
    lines = [setting("within", "30m"), setting("event", column.name), setting("exposure", shown)]
    tasks.lines += block("[join]", lines, why=why, active=False)
    lines = [setting("name", hints.identifier(actions[0], set())), setting("kind", "binary")]
    tasks.lines += block("[[tasks]]", [*lines, setting("column", actions[0])], active=False)
    tasks.used.add(column.name)


def _add_ratings(tasks: TaskGuesses, columns: list[ColumnFacts]) -> None:
    numeric = [c for c in columns if c.kind in ("integer", "number") and 2 <= c.num_distinct <= 21]
    column = hints.named(numeric, hints.RATING)
    if column is None or column.numbers is None:
        return
    known = np.unique(column.numbers[np.isfinite(column.numbers)])
    threshold = float(known[known >= 0.8 * known.max()].min()) if known.max() > 0 else float(known.max())
    why = f"a rating from {known.min():g} to {known.max():g}; counted as positive from {threshold:g}: check this"
    tasks.add(column, "binary", why, setting("threshold", threshold), active=bool(known.min() < threshold))
    tasks.labels.append(np.where(np.isnan(column.numbers), np.nan, column.numbers >= threshold))


def _is_duration(column: ColumnFacts, item: ColumnFacts | None) -> bool:
    named = set(hints.words(column.name))
    if column.kind not in ("integer", "number") or column.numbers is None or column.unit:
        return False
    if not (named & hints.WATCHING and named & hints.LASTING) or np.nanmin(column.numbers) < 0:
        return False
    return item is None or not column.belongs_to(item)


def _add_duration(tasks: TaskGuesses, column: ColumnFacts, flags: list[ColumnFacts], *, in_lists: bool) -> None:
    assert column.numbers is not None
    named = set(hints.words(column.name))
    positive = column.numbers[np.isfinite(column.numbers) & (column.numbers > 0)]
    median = float(np.median(positive)) if len(positive) else 0.0
    if named & {"ms", "millis", "milliseconds"}:
        unit, why = "ms", "milliseconds, by its name"
    elif named & {"s", "sec", "secs", "second", "seconds"}:
        unit, why = "s", "seconds, by its name"
    else:
        unit = "ms" if median > LONG else "s"
        why = f"the unit is guessed by the size of the values (median {median:,.0f})"
    settings = [setting("unit", unit)]
    mark = hints.named(flags, [f"{'_'.join(hints.words(column.name))}_censored", _stem(column) + "_censored"])
    if mark is not None and mark.name not in tasks.used:
        settings.append(setting("censored", mark.name))
        tasks.used.add(mark.name)
    why = f"how long, by its name; {why}; median {median / (1000 if unit == 'ms' else 1):,.1f} seconds"
    if in_lists:
        why += '; whose is it? If of the items acted on, add to [lists] follows = { column = "list of those items" }'
    tasks.add(column, "duration", why, *settings, active=not in_lists and len(np.unique(positive)) > 1)


def _stem(column: ColumnFacts) -> str:
    return "_".join(word for word in hints.words(column.name) if word not in hints.LASTING - {"dwell"})
