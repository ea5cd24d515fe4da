"""From one row per request, with lists of shown items and items acted on, to one row per exposure."""

import re
from typing import Any

from genrank.config import nearest
from genrank.data.manifest import DataWarning
from genrank.errors import LogError, SchemaError
from genrank.preparation.engine import READ_ORDER, Column, Engine, Expression, own_columns
from genrank.preparation.value_functions import listed, text_of
from genrank.schema import LogSchema

POSITION, REQUEST, ITEMS = "genrank_position", "genrank_request", "genrank_items"


def one_row_per_exposure(
    engine: Engine, rows: Expression, schema: LogSchema
) -> tuple[Expression, dict[str, str], list[DataWarning]]:
    """The exposures of `rows`, the resulting columns by role, and warnings.

    Rows with a single item are already exposures. Raises SchemaError for columns that aren't there, LogError for
    lists of other lengths than those they follow.
    """
    name, settings = schema.columns.item, schema.lists
    if name not in rows.columns:
        return rows, {}, []
    if settings.separator is None and not rows[name].type().is_array():
        if settings.acted or settings.follows or settings.label:
            raise LogError(
                f"lists: expected lists in column {name!r}, found {rows[name].type()}; set lists.separator where "
                "lists are text, or leave lists out"
            )
        return rows, {}, []
    for column in (*settings.acted, *settings.follows):
        if column not in rows.columns:
            raise SchemaError(f"lists: there is no column {column!r} in the log; {nearest(column, own_columns(rows))}")
    lists = {column: as_list(rows[column], settings.separator) for column in (name, *settings.acted)}
    if settings.label is not None:
        rows, lists = _with_labels(rows, lists, schema)
    values = _lists_of_values(rows, schema)
    lists |= {column: as_list(rows[column], settings.separator) for column, whole in values.items() if whole}
    request = engine.place() if schema.columns.request is None else None
    rows = rows.mutate(**lists, **({} if request is None else {REQUEST: request}))
    rows = engine.store(rows.mutate(**{ITEMS: rows[name]}))
    warnings = _check(engine, rows, schema, [column for column, whole in values.items() if whole])
    exploded = rows.mutate(**{POSITION: engine.ibis.range(0, rows[ITEMS].length().fill_null(0)).unnest()})
    slot, item = exploded[POSITION], exploded[ITEMS][exploded[POSITION]]
    columns: dict[str, Column] = {name: item}
    columns |= {acted: exploded[acted].contains(item).fill_null(False).cast("int8") for acted in settings.acted}
    for column, whole in values.items():
        leader = settings.follows.get(column, name)
        if leader == name:
            columns[column] = exploded[column][slot]
        else:
            columns[column] = _of_acted(exploded, column, leader, item, whole)
    of_rows = [column for column in (ITEMS, READ_ORDER) if column in exploded.columns]
    exposures = exploded.mutate(**columns).drop(*of_rows)
    roles = {"position": POSITION, "request": REQUEST}
    return (
        exposures,
        {role: column for role, column in roles.items() if getattr(schema.columns, role) is None},
        warnings,
    )


def as_list(column: Column, separator: str | None, setting: str = "lists") -> Column:
    """A column of lists; text is split, brackets around it and spaces and quotes around its parts left out.

    Raises LogError, which names the settings' group, for a column of single values where no separator is given.
    """
    if column.type().is_array():
        return column
    if separator is None:
        raise LogError(
            f"{setting}: expected lists in column {column.get_name()!r}, found {column.type()}; set "
            f"{setting}.separator where lists are text"
        )
    return listed(text_of(column), separator)


def _with_labels(rows: Expression, lists: dict[str, Column], schema: LogSchema) -> tuple[Expression, dict[str, Column]]:
    """The items' labels as a list of their own in `lists.label`, null where an item has none."""
    name, label = schema.columns.item, str(schema.lists.label)
    if label in rows.columns:
        raise SchemaError(f"lists.label: there is a column {label!r} in the log already; choose another name")
    if not lists[name].type().value_type.is_string():
        raise LogError(
            f"lists.label: expected items with labels, as in i3{schema.lists.label_separator}1, in column {name!r}, "
            f"found {lists[name].type()}; leave lists.label out"
        )
    mark = re.escape(schema.lists.label_separator)
    pairs, pattern = lists[name], f"^(.*){mark}(.*?)$"  # the first group takes as much as it can
    items = pairs.map(lambda pair: pair.re_search(pattern).ifelse(pair.re_extract(pattern, 1), pair))
    labels = pairs.map(lambda pair: pair.re_search(pattern).ifelse(pair.re_extract(pattern, 2), None))
    return rows.mutate(**{label: labels}), lists | {name: items}


def _lists_of_values(rows: Expression, schema: LogSchema) -> dict[str, bool]:
    """Columns with values for each item of another list → whether they hold lists; else one value per row."""
    of_items = {feature.column for feature in schema.features if feature.kind in ("multi", "embedding")}
    of_items |= {feature.weights for feature in schema.features} | {schema.columns.item, *schema.lists.acted}
    found = {column: rows[column].type().is_array() for column in schema.lists.follows}
    if schema.lists.separator is not None:
        found = dict.fromkeys(found, True)
    return found | {
        column: True for column in rows.columns if rows[column].type().is_array() and column not in of_items
    }


def _of_acted(exploded: Expression, column: str, leader: str, item: Column, whole: bool) -> Column:
    """The value of an item acted on; null for the others, and where one value stands for several items."""
    if whole:
        place = exploded[leader].index(item)
        return (place >= 0).ifelse(exploded[column][place], None)
    only = (exploded[leader].length() == 1) & exploded[leader].contains(item)
    return only.ifelse(exploded[column], None)


def _check(engine: Engine, rows: Expression, schema: LogSchema, whole: list[str]) -> list[DataWarning]:
    settings, name = schema.lists, schema.columns.item
    questions: dict[str, Any] = {}
    for column in whole:
        leader = settings.follows.get(column, name)
        questions[f"unequal_{column}"] = (rows[column].length() != rows[leader].length()).sum()
    for acted in settings.acted:
        distinct = rows[acted].unique()
        questions[f"foreign_{acted}"] = (distinct.length() - distinct.intersect(rows[ITEMS].unique()).length()).sum()
        questions[f"doubled_{acted}"] = (rows[acted].length() - distinct.length()).sum()
    for column, leader in settings.follows.items():
        if column not in whole:
            questions[f"shared_{column}"] = ((rows[leader].length() > 1) & rows[column].notnull()).sum()
    counts = engine.row(rows.aggregate(**questions)) if questions else {}
    for column in whole:
        leader = settings.follows.get(column, name)
        if counts[f"unequal_{column}"]:
            raise LogError(
                f"lists: {counts[f'unequal_{column}']:,} rows have lists of unequal length in {column!r} and "
                f"{leader!r}; if {column!r} lists the items acted on, name it in lists.acted, if it follows such a "
                "list, in lists.follows"
            )
    told = {
        "foreign": "items in {!r} are not among those shown in their row; they are left out",
        "doubled": "items in {!r} are named before in their row; the first one counts",
        "shared": "rows have one value in {!r} for several items acted on; it is unknown for them",
    }
    return [
        DataWarning(kind="values", message=f"lists: {int(count):,} " + told[question].format(column))
        for question, _, column, count in ((*key.partition("_"), count) for key, count in counts.items())
        if question in told and count
    ]
