"""Values that don't fit the role of their column: ids that floats may have merged, flags other than 0 and 1."""

from genrank.data.manifest import DataWarning
from genrank.errors import LogError, shown
from genrank.preparation.category_columns import merging
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.logs import finite_or_null, number_column
from genrank.schema import LogSchema


def refuse_merged(engine: Engine, table: Expression, names: dict[str, str]) -> None:
    """LogError where ids are floats so large that several ids are one. `names`: role → column of the table."""
    for role, name, count, example in _found(engine, table, {r: (n, merging(table[n])) for r, n in names.items()}):
        raise LogError(
            f"{role}: {name!r} holds floats ({table[name].type()}), {count:,} of them so large, as {shown(example)}, "
            "that neighbouring ids are one; write ids as integers or text"
        )


def check_values(engine: Engine, exposures: Expression, schema: LogSchema) -> list[DataWarning]:
    """Warns of categories that may have become one another. Raises LogError for such ids, and for flags that are none.

    Flags say whether a row is a target, or a duration censored: 0, 1, true, false, or nothing.
    """
    columns = schema.columns
    ids = {"columns.user": columns.user, "columns.item": columns.item, "columns.request": columns.request}
    refuse_merged(engine, exposures, {role: name for role, name in ids.items() if name is not None})
    flags = {"columns.target": columns.target}
    flags |= {f"task {task.name!r}, censored": task.censored for task in schema.tasks}
    asked = {role: (name, _no_flag(exposures, name, role)) for role, name in flags.items() if name is not None}
    for role, name, count, example in _found(engine, exposures, asked):
        raise LogError(
            f"{role}: expected 0, 1, true, false or nothing in column {name!r}, found {count:,} other values such as "
            f"{shown(example)}; write one of these, or name another column"
        )
    categories = {f"feedback {part.name!r}": part.column for part in schema.feedback}
    categories |= {
        f"feature {feature.name!r}": str(feature.column)
        for feature in schema.features
        if feature.owner == "exposure" and feature.kind == "categorical"
    }
    merged = {role: (name, merging(exposures[name])) for role, name in categories.items()}
    return [
        DataWarning(
            kind="values",
            message=f"{role}: {count:,} floats in {name!r} are so large, as {shown(example)}, that neighbouring whole "
            "numbers are one category; write ids as integers or text",
        )
        for role, name, count, example in _found(engine, exposures, merged)
    ]


def _no_flag(exposures: Expression, name: str, role: str) -> Column:
    flag = finite_or_null(number_column(exposures, name, role))
    return (flag != 0) & (flag != 1)


def _found(
    engine: Engine, table: Expression, asked: dict[str, tuple[str, Column | None]]
) -> list[tuple[str, str, int, object]]:
    """(role, column, rows where it holds, one of their values), of questions that hold anywhere."""
    questions = {role: (name, where) for role, (name, where) in asked.items() if where is not None}
    if not questions:
        return []
    counts = engine.row(table.aggregate(**{role: where.sum() for role, (_, where) in questions.items()}))
    found = []
    for role, (name, where) in questions.items():
        if counts[role]:
            example = engine.fetch(table.filter(where).select(value=table[name]).limit(1))["value"][0].as_py()
            found.append((role, name, int(counts[role]), example))
    return found
