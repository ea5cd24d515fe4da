"""The user's columns by role: null words become null, and text in the place of numbers becomes numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from genrank.data.manifest import DataWarning
from genrank.errors import LogError
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.value_functions import matches, number_of
from genrank.schema import Feature, LogSchema, Owner

# Words that can be no number, so that they are null where one is expected, whatever `null_values` says of ids.
NO_NUMBER = ("", "na", "nan", "null", "none", "n/a", "\\n", "-")
GROUPED = {".": r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$", ",": r"^[+-]?\d{1,3}(\.\d{3})+(,\d+)?$"}  # 1,234,567.8


TableName = Owner | Literal["history"]  # tables beside the log


@dataclass(frozen=True, kw_only=True)
class Role:
    """The role of the column `name`, as in error messages."""

    name: str
    role: str
    numeric: bool = False


def roles(schema: LogSchema, owner: TableName | None = None) -> list[Role]:
    """The columns that the schema names: of the log (owner None), of an owner's side table, or of the history's."""
    if owner == "history":
        return history_roles(schema)
    if owner is not None:
        table = schema.tables.item if owner == "item" else schema.tables.user
        key = [] if table is None else [Role(name=table.key, role=f"tables.{owner}.key")]
        mine = [feature for feature in schema.features if feature.owner == owner]
        return [*key, *(role for feature in mine for role in _of_feature(feature))]
    of_history = history_roles(schema) if schema.history.lists is not None and schema.history.lists.path is None else []
    return [*_of_columns(schema), *_of_tasks(schema), *_of_features(schema), *of_history]


def history_roles(schema: LogSchema) -> list[Role]:
    """The columns of `history.lists`, be they the log's or a table's."""
    lists = schema.history.lists
    if lists is None:
        return []
    named = {"user": lists.user, "items": lists.items, "times": lists.times}
    named |= {f"values.{name}": column for name, column in lists.values.items()}
    return [Role(name=name, role=f"history.lists.{key}") for key, name in named.items() if name is not None]


def _of_columns(schema: LogSchema) -> Iterator[Role]:
    named = vars(schema.columns)
    for field in named:
        if isinstance(named[field], str):
            numeric = field in ("position", "target", "weight")
            yield Role(name=named[field], role=f"columns.{field}", numeric=numeric)
    for name in schema.lists.acted:
        yield Role(name=name, role="lists.acted")
    if schema.sampling.rate_column is not None:
        yield Role(name=schema.sampling.rate_column, role="sampling.rate_column", numeric=True)
    if schema.join.event is not None:
        yield Role(name=schema.join.event, role="join.event")


def _of_tasks(schema: LogSchema) -> Iterator[Role]:
    for task in schema.tasks:
        role = f"task {task.name!r}"
        yield Role(name=task.column, role=role, numeric=True)
        if task.censored is not None:
            yield Role(name=task.censored, role=f"{role}, censored", numeric=True)
        if task.time is not None:
            yield Role(name=task.time, role=f"{role}, time")
    for name, column in schema.oracle.items():
        yield Role(name=column, role=f"oracle {name!r}", numeric=True)


def _of_features(schema: LogSchema) -> Iterator[Role]:
    for part in schema.feedback:
        yield Role(name=part.column, role=f"feedback {part.name!r}")
    tables = {"item": schema.tables.item, "user": schema.tables.user, "exposure": None}
    for feature in schema.features:
        if tables[feature.owner] is None:
            yield from _of_feature(feature)


def _of_feature(feature: Feature) -> Iterator[Role]:
    role = f"feature {feature.name!r}"
    if feature.column is not None and feature.file is None:
        yield Role(name=feature.column, role=role, numeric=feature.kind == "numeric")
    if feature.weights is not None:
        yield Role(name=feature.weights, role=f"{role}, weights")


def tidy(
    engine: Engine, table: Expression, found: list[Role], schema: LogSchema
) -> tuple[Expression, list[DataWarning]]:
    """The table with null words and numbers resolved in the roles' columns, and warnings.

    A column with several roles, one of them numeric, is a number. Raises LogError for text that is no number.
    """
    numeric = {role.name: role for role in found if role.numeric}
    changed = {}
    questions = {}
    for name in dict.fromkeys(role.name for role in found):
        if name not in table.columns or not table[name].type().is_string():
            continue
        text = _known(table[name], schema.null_values)
        if name not in numeric:
            changed[name] = text
            continue
        changed[name] = _number(text, schema.csv.decimal)
        questions[f"bad_{name}"] = (_needs_number(text) & changed[name].isnull()).sum()
        questions[f"grouped_{name}"] = matches(text, GROUPED[schema.csv.decimal]).sum()
    tidied = table.mutate(**changed) if changed else table
    if not questions:
        return tidied, []
    counts = engine.row(table.aggregate(**questions))
    for name, role in numeric.items():
        if counts.get(f"bad_{name}"):
            bad = _known(table[name], schema.null_values)
            bad = table.filter(_needs_number(bad) & _number(bad, schema.csv.decimal).isnull())
            _refuse(engine, bad, role, int(counts[f"bad_{name}"]), schema.csv.decimal)
    grouped = [name for name in numeric if counts.get(f"grouped_{name}")]
    return tidied, [_grouped(name, int(counts[f"grouped_{name}"]), schema.csv.decimal) for name in grouped]


def _grouped(name: str, count: int, decimal: str) -> DataWarning:
    other = "," if decimal == "." else "."
    return DataWarning(
        kind="values",
        message=f"column {name!r}: {count:,} numbers such as 1{other}200 were read as one thousand two hundred; if "
        f"that marks decimals, set csv.decimal = {other!r}",
    )


def _known(text: Column, null_values: tuple[str, ...]) -> Column:
    return text.isin(null_values).ifelse(None, text) if null_values else text


def _needs_number(text: Column) -> Column:
    return text.notnull() & ~text.strip().lower().isin(NO_NUMBER)


def _number(text: Column, decimal: str) -> Column:
    """Numbers, and true and false as 1 and 0; null for the rest."""
    plain = text.strip()
    grouping = "," if decimal == "." else "."
    plain = matches(plain, GROUPED[decimal]).ifelse(plain.replace(grouping, ""), plain)
    if decimal == ",":
        plain = plain.replace(",", ".")
    truth = plain.lower()
    flag = truth.isin(("true", "t")).ifelse(1.0, truth.isin(("false", "f")).ifelse(0.0, None))
    return number_of(plain).coalesce(flag)


def _refuse(engine: Engine, bad: Expression, role: Role, count: int, decimal: str) -> None:
    example = engine.fetch(bad.select(value=bad[role.name]).limit(1))["value"][0].as_py()
    comma = ", set csv.decimal = ','" if decimal == "." and "," in example else ""
    raise LogError(
        f"{role.role}: expected numbers in column {role.name!r}, found {count:,} others such as {example!r}; cast "
        f"them{comma}, add the word to null_values if it means unknown, or name another column"
    )
