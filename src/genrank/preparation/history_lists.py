"""Histories given as lists: one row per user of what that user did before the log begins.

The lists are columns of the log (MIND), of which those in a user's first request count, the longest where several rows
have its time; or columns of a table with one row per user (EB-NeRD). `preparation/history_events.py` makes exposures
of them.
"""

from dataclasses import replace

from genrank.config import nearest
from genrank.errors import LogError, SchemaError
from genrank.log_settings import HistoryLists
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Column, Engine, Expression, own_columns
from genrank.preparation.lists import as_list
from genrank.preparation.tidying import history_roles, roles, tidy
from genrank.preparation.times import seconds
from genrank.schema import LogSchema

USER, TIME = "genrank_user", "genrank_time"
ITEMS, TIMES, VALUES = "items", "times", "values"  # settings of HistoryLists, and columns of histories


def histories_of_log(engine: Engine, rows: Expression, schema: LogSchema) -> tuple[Expression, Expression]:
    """The log without its lists of histories, and one row per user with those of the first request.

    That row has `genrank_user` (the id as text), `items`, and, where the schema names them, `times` and
    `values.<name>`: lists of equal length.

    Raises SchemaError for columns that aren't there, LogError for what is no list, or lists of unequal length.
    """
    columns = schema.columns
    for role, name in (("user", columns.user), ("time", columns.time)):
        if name not in rows.columns:
            raise SchemaError(
                f"columns.{role}: there is no column {name!r} in the log; {nearest(name, own_columns(rows))}"
            )
    tidied, _ = tidy(engine, rows, history_roles(schema), schema)
    found = _lists(tidied, settings_of(schema), "the log")
    user = identity(tidied[columns.user], "columns.user").cast("string")
    keyed = tidied.select(
        **{USER: user, TIME: seconds(tidied[columns.time], schema.time)}, genrank_row=engine.place(), **found
    )
    keyed = keyed.filter(keyed[USER].notnull() & (keyed[TIME] > 0))
    order = [keyed[TIME], engine.ibis.desc(keyed[ITEMS].length().fill_null(0)), keyed.genrank_row]
    keyed = keyed.mutate(genrank_number=engine.ibis.row_number().over(group_by=keyed[USER], order_by=order))
    first = keyed.filter(keyed.genrank_number == 0).select(USER, *found)
    taken = {role.name for role in history_roles(schema)} - _other_columns(schema)
    return rows.select(*(name for name in rows.columns if name not in taken)), _stored(engine, first, schema)


def histories_of_table(engine: Engine, table: Expression, schema: LogSchema) -> Expression:
    """One row per user of the table, as `histories_of_log` has them.

    Raises SchemaError and LogError as that does, and LogError for a user with several rows.
    """
    lists = settings_of(schema)
    user = str(lists.user)
    if user not in table.columns:
        raise SchemaError(
            f"history.lists.user: there is no column {user!r} in {lists.path}; {nearest(user, table.columns)}"
        )
    tidied, _ = tidy(engine, table, history_roles(schema), schema)
    found = _lists(tidied, lists, str(lists.path))
    rows = tidied.select(**{USER: identity(tidied[user], "history.lists.user").cast("string")}, **found)
    rows = _stored(engine, rows.filter(rows[USER].notnull()), schema)
    repeated = rows.group_by(USER).aggregate(count=rows.count())
    repeated = engine.fetch(repeated.filter(repeated["count"] > 1).order_by(USER))
    if repeated.num_rows:
        raise LogError(
            f"{lists.path}: expected one row per {user}, found {repeated.num_rows} of them several times, such as "
            f"{repeated[USER][0].as_py()!r}; keep one row of each, with all that the user did"
        )
    return rows


def _other_columns(schema: LogSchema) -> set[str]:
    """The columns that have a role besides those of histories."""
    return {role.name for role in roles(replace(schema, history=replace(schema.history, lists=None)))}


def settings_of(schema: LogSchema) -> HistoryLists:
    """The schema's `history.lists`, which must be there."""
    assert schema.history.lists is not None
    return schema.history.lists


def _lists(rows: Expression, lists: HistoryLists, where: str) -> dict[str, Column]:
    """The lists by their setting: items, times, values.<name>."""
    named = {ITEMS: lists.items} | ({} if lists.times is None else {TIMES: lists.times})
    named |= {f"{VALUES}.{name}": column for name, column in lists.values.items()}
    for setting, column in named.items():
        if column not in rows.columns:
            near = nearest(column, own_columns(rows))
            raise SchemaError(f"history.lists.{setting}: there is no column {column!r} in {where}; {near}")
    return {setting: as_list(rows[column], lists.separator, "history.lists") for setting, column in named.items()}


def _stored(engine: Engine, rows: Expression, schema: LogSchema) -> Expression:
    """The rows, stored. LogError where a list is longer or shorter than that of the items."""
    rows = engine.store(rows)
    length = {name: rows[name].length().fill_null(0) for name in rows.columns if name != USER}
    unequal = {name: (length[name] != length[ITEMS]).sum() for name in length if name != ITEMS}
    counts = engine.row(rows.aggregate(**unequal)) if unequal else {}
    columns = {role.role: role.name for role in history_roles(schema)}
    for name, count in counts.items():
        if count:
            raise LogError(
                f"history.lists: {int(count):,} users have lists of unequal length in "
                f"{columns[f'history.lists.{name}']!r} and {columns[f'history.lists.{ITEMS}']!r}; write one value for "
                "each item, or leave these rows out"
            )
    return rows
