"""The result of a reader (`Source`), and the log's columns as typed Ibis expressions (`typed_columns`).

Typed columns are named `user`, `item`, `time`, `known_at`, `request`, `position`, `target`, `task_<name>`,
`censored_<name>`, `feedback_<name>`, `feature_<name>` and `oracle_<name>`. Nothing is run here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genrank.config import nearest, override
from genrank.data.manifest import DataWarning
from genrank.errors import LogError, SchemaError
from genrank.preparation.category_columns import identity, intended_numbers, texts
from genrank.preparation.engine import Column, Engine, Expression, own_columns
from genrank.preparation.times import seconds
from genrank.preparation.value_functions import float32_of, int32_of
from genrank.preparation.weighted import weighted_texts
from genrank.schema import Feature, LogSchema, Task


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Tables of one engine: the exposures, and one row per item and per user where there are side tables.

    `derived`: role in `columns` → the column that reading made for it, where the schema names none.
    """

    exposures: Expression
    items: Expression = None
    users: Expression = None
    derived: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[DataWarning, ...] = ()

    def schema_of(self, schema: LogSchema) -> LogSchema:
        """The schema with the derived columns in their roles."""
        return replace(schema, columns=replace(schema.columns, **self.derived))

    def of(self, owner: str) -> Expression:
        """The side table of "item" or "user", or None."""
        return self.items if owner == "item" else self.users


@dataclass(frozen=True, kw_only=True)
class Source:
    """An exposure log that can be read. `folder`: side files (embeddings) are relative to it.

    `description` goes to the manifest unchanged. `optional_tasks`: binary tasks that are left out with a warning,
    instead of an error, if the training part has one class only. `period`: (begin, end) in epoch seconds; times outside
    it are known to be wrong.
    """

    schema: LogSchema
    read: Callable[[Engine, LogSchema], Relations]
    folder: Path
    description: dict[str, Any] = field(default_factory=dict)
    optional_tasks: tuple[str, ...] = ()
    period: tuple[int, int] | None = None

    def with_settings(self, assignments: Sequence[str]) -> "Source":
        """The source with `path=value` settings of its schema changed, as in `split.test_fraction=0.2`."""
        return replace(self, schema=override(self.schema, assignments))


def typed_columns(exposures: Expression, schema: LogSchema) -> dict[str, Column]:
    """The log's columns by role, as expressions on `exposures`.

    Raises LogError for a column that is missing or of a type its role can't have.
    """
    columns = schema.columns
    typed = {
        "user": _identity(exposures, columns.user, "columns.user"),
        "item": _identity(exposures, columns.item, "columns.item"),
        "time": seconds(_column(exposures, columns.time, "columns.time"), schema.time),
    }
    typed |= _optional_columns(exposures, schema, typed["time"])
    for task in schema.tasks:
        typed |= _task(exposures, task)
    for part in schema.feedback:
        typed[f"feedback_{part.name}"] = _identity(exposures, part.column, f"feedback {part.name!r}")
    for feature in schema.features:
        if feature.owner == "exposure":
            typed[f"feature_{feature.name}"] = feature_column(exposures, feature)
    for name, column in schema.oracle.items():
        number = finite_or_null(number_column(exposures, column, f"oracle {name!r}"))
        typed[f"oracle_{name}"] = float32_of(number).fill_null(float("nan")).cast("float32")
    return typed


def _optional_columns(exposures: Expression, schema: LogSchema, time: Column) -> dict[str, Column]:
    columns, typed = schema.columns, {}
    if columns.request is not None:
        typed["request"] = _identity(exposures, columns.request, "columns.request")
    if columns.position is not None:
        typed["position"] = _position(number_column(exposures, columns.position, "columns.position"))
    if schema.known_later:
        typed["known_at"] = _known_at(exposures, schema, time)
    if schema.weighted:
        typed["weight"] = _weight(exposures, schema)
    if columns.target is not None:
        flag = number_column(exposures, columns.target, "columns.target")
        typed["target"] = (flag != 0).fill_null(True)
    return typed


def feature_column(table: Expression, feature: Feature, *, place: str = "log") -> Column:
    """A feature's column: categories as `identity`, numbers as float64, lists as array<string>, or text to split.

    `place` names the table in messages. Raises SchemaError if there is no such column, LogError for its type.
    """
    role = f"feature {feature.name!r}"
    column = _column(table, str(feature.column), role, place)
    if feature.kind == "categorical":
        return identity(column, role)
    if feature.kind == "numeric":
        return intended_numbers(number_column(table, str(feature.column), role))
    if feature.kind == "embedding":
        if not column.type().is_array():
            raise LogError(f"{role}: expected lists of numbers in column {feature.column!r}, found {column.type()}")
        return column
    if feature.weights is not None:
        weights = _column(table, feature.weights, f"{role}: weights", place)
        return weighted_texts(column, weights, feature)
    return _multi(column, feature)


def check_side_tables(relations: Relations, schema: LogSchema) -> None:
    """Raises SchemaError or LogError for features whose side table has no such column, or one of another type."""
    for feature in schema.features:
        side = relations.of(feature.owner) if feature.owner != "exposure" else None
        if side is not None and feature.file is None:
            feature_column(side, feature, place=f"{feature.owner} table")


def _column(table: Expression, name: str, role: str, place: str = "log") -> Column:
    if name not in table.columns:
        raise SchemaError(f"{role}: there is no column {name!r} in the {place}; {nearest(name, own_columns(table))}")
    return table[name]


def _identity(table: Expression, name: str, role: str) -> Column:
    return identity(_column(table, name, role), role)


def number_column(table: Expression, name: str, role: str) -> Column:
    """A column of numbers, booleans as 0 and 1. Raises LogError for other types."""
    column = _column(table, name, role)
    kind = column.type()
    if kind.is_numeric() or kind.is_boolean():
        return column.cast("int8") if kind.is_boolean() else column
    raise WrongTypeError(table, name, role)


class WrongTypeError(LogError):
    """A column that must have numbers has other values. `prepare` adds an example."""

    def __init__(self, table: Expression, column: str, role: str) -> None:
        self.table, self.column, self.role = table, column, role
        super().__init__(self.explain(None))

    def explain(self, example: Any) -> str:
        """The message, with an example of a value that is no number."""
        found = f"{self.table[self.column].type()}" + (f" such as {example!r}" if example is not None else "")
        return (
            f"{self.role}: expected numbers in column {self.column!r}, found {found}; cast it, or name another column"
        )


def is_finite(column: Column) -> Column:
    """Whether a number is neither NaN nor infinite; null for null.

    Written as arithmetic because DuckDB drops `isnan` on a Parquet column: its statistics leave NaN out.
    """
    return (column - column) == 0


def finite_or_null(column: Column) -> Column:
    """The column with null for NaN and infinities."""
    return is_finite(column).ifelse(column, None) if column.type().is_floating() else column


def action_times(exposures: Expression, schema: LogSchema) -> dict[str, tuple[Column, Column]]:
    """Setting → the column of the times at which actions were known, unchanged and in seconds since the epoch."""
    named = {"columns.known_at": schema.columns.known_at}
    named |= {f"task {task.name!r}: time": task.time for task in schema.tasks}
    found = {}
    for role, name in named.items():
        if name is not None:
            column = _column(exposures, name, role)
            found[role] = (column, seconds(column, schema.time, role))
    return found


def _known_at(exposures: Expression, schema: LogSchema, time: Column) -> Column:
    """When an exposure's actions are known: see History. A null time, or one before the exposure's, is ignored."""
    known = time + schema.history.settle_seconds
    for _, own in action_times(exposures, schema).values():
        known = (own > known).fill_null(False).ifelse(own, known)
    return known


def weight_columns(exposures: Expression, schema: LogSchema) -> dict[str, Column]:
    """Setting → the column of numbers from which weights are computed."""
    named = {"columns.weight": schema.columns.weight, "sampling.rate_column": schema.sampling.rate_column}
    return {role: number_column(exposures, name, role) for role, name in named.items() if name is not None}


def _weight(exposures: Expression, schema: LogSchema) -> Column:
    found = weight_columns(exposures, schema)
    weight = found.get("columns.weight", 1.0)
    rate = found.get("sampling.rate_column", 1.0)
    return (weight / rate).cast("float32")


def _position(column: Column) -> Column:
    return int32_of(column).fill_null(-1)


def _task(exposures: Expression, task: Task) -> dict[str, Column]:
    role = f"task {task.name!r}"
    value = number_column(exposures, task.column, role)
    if task.kind == "binary":
        return {f"task_{task.name}": _label(value, task.threshold)}
    duration = value / 1000 if task.unit == "ms" else value
    known = (duration >= 0) & is_finite(duration)
    typed = {}
    if task.censored is not None or task.maximum is not None:
        censored = duration > (float("inf") if task.maximum is None else task.maximum)
        if task.censored is not None:
            censored = censored | (number_column(exposures, task.censored, f"{role}, censored") != 0).fill_null(False)
        typed[f"censored_{task.name}"] = (censored & known).fill_null(False)
    if task.maximum is not None:
        duration = (duration > task.maximum).ifelse(task.maximum, duration)
    typed[f"task_{task.name}"] = known.ifelse(float32_of(duration), None).fill_null(float("nan")).cast("float32")
    return typed


def _label(value: Column, threshold: float | None) -> Column:
    """0, 1, or -1 for unknown. Without a threshold the survey has seen that the values are 0, 1, null or NaN."""
    value = finite_or_null(value)
    label = value if threshold is None else value >= threshold
    return label.cast("int8").fill_null(-1)


def _multi(column: Column, feature: Feature) -> Column:
    kind = column.type()
    if feature.separator is None and kind.is_array():
        return texts(column, f"feature {feature.name!r}")
    if feature.separator is not None and not kind.is_array():
        return identity(column, f"feature {feature.name!r}").cast("string")
    expected = "lists" if feature.separator is None else f"text separated by {feature.separator!r}"
    found = f"found {kind} in column {feature.column!r}; set or remove its separator"
    raise LogError(f"feature {feature.name!r}: expected {expected}, {found}")
