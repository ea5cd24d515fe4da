"""Histories given as lists, as exposures of the log that are history only.

Events that have times keep them. Others are placed before the user's first request in the order of their list, a second
apart, the last one GAP seconds before it; further apart where the schema's request gap would make them one request, and
earlier if the schema waits for actions (`history.settle`). Events that are not before the user's first request are left
out, as the log has them: so no event is there twice, and none is later than a request that sees it.
"""

from genrank.data.manifest import DataWarning
from genrank.errors import LogError
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.history_lists import ITEMS, TIMES, USER, VALUES, settings_of
from genrank.preparation.tidying import Role, roles, tidy
from genrank.preparation.time_checks import zone_warnings
from genrank.preparation.times import SCALE, seconds
from genrank.preparation.value_checks import refuse_merged
from genrank.schema import Feature, Feedback, LogSchema, Task

PLACE, TIME, FIRST, ID = "genrank_place", "genrank_time", "genrank_first", "genrank_id"
TARGET = "genrank_target"
GAP = 3600  # seconds between the last event without a time and the user's first request; ours
Pair = tuple[Column, Column]  # of the log and of the history, of one type


def with_histories(
    engine: Engine, exposures: Expression, histories: Expression, schema: LogSchema, derived: dict[str, str]
) -> tuple[Expression, dict[str, str], list[DataWarning]]:
    """The exposures and those of `histories`, further columns by role, and warnings.

    `histories`: as preparation/history_lists.py makes them; `derived`: role → column of `exposures` that reading made.
    Only columns with a role are kept. Raises LogError where no user of the history is in the log, and for values that
    the log's column can't hold.
    """
    columns = schema.columns
    if not {columns.user, columns.item, columns.time} <= {*exposures.columns}:
        return exposures, {}, []  # which is refused when columns get their types
    user = identity(exposures[columns.user], "columns.user").cast("string")
    keyed = exposures.mutate(**{USER: user, TIME: seconds(exposures[columns.time], schema.time)})
    timed = keyed.filter(keyed[USER].notnull() & (keyed[TIME] > 0))
    first = engine.store(timed.group_by(USER).aggregate(**{FIRST: timed[TIME].min(), ID: timed[columns.user].min()}))
    warnings = _strangers(engine, histories, first, schema)
    events, of_values = tidy(engine, _events(engine, histories, first, schema), _value_roles(schema), schema)
    events = engine.store(events)
    refuse_merged(engine, events, {"history.lists.items": settings_of(schema).items})
    refuse_merged(engine, exposures, {"columns.item": columns.item})
    warnings += of_values + _late(engine, events, keyed, schema)
    events = events.filter((events[TIME] < events[FIRST]) | events[TIME].isnull())
    events = engine.store(events.order_by([USER, PLACE]))
    made = {} if columns.target is not None else {"target": TARGET}
    if made:
        exposures = exposures.mutate(**{TARGET: engine.ibis.literal(True)})
    if not _kept_as_written(exposures, schema):
        warnings += zone_warnings(engine, exposures, schema)
    return _united(engine, exposures, events, schema, derived | made), made, warnings


def _strangers(engine: Engine, histories: Expression, first: Expression, schema: LogSchema) -> list[DataWarning]:
    """Checks whether histories are of the log's users: an error if none is, a warning if some are not."""
    lists = settings_of(schema)
    if lists.path is None:
        return []
    strangers = histories.anti_join(first, USER)
    counts = engine.row(histories.aggregate(all=histories.count())) | engine.row(
        strangers.aggregate(strangers=strangers.count(), example=strangers[USER].min())
    )
    message = (
        f"history.lists: {counts['strangers']:,} of the {counts['all']:,} users in {lists.path} have no row in the log"
    )
    if counts["strangers"] == counts["all"]:
        known = engine.row(first.aggregate(first=first[USER].min()))["first"]
        raise LogError(
            f"{message}, such as {counts['example']!r}, where the log has {known!r}; write {lists.user!r} as in the "
            "log, or name another column or table"
        )
    return [DataWarning(kind="keys", message=message + "; they are left out")] if counts["strangers"] else []


def _events(engine: Engine, histories: Expression, first: Expression, schema: LogSchema) -> Expression:
    """One row per item, in columns of the lists' names, beside its user, place and time, and the user's first time."""
    lists = settings_of(schema)
    rows = histories.inner_join(first, USER)
    rows = rows.mutate(genrank_length=rows[ITEMS].length().fill_null(0).cast("int64"))
    rows = rows.mutate(**{PLACE: engine.ibis.range(0, rows[ITEMS].length().fill_null(0)).unnest()})
    named = {lists.items: ITEMS} | ({} if lists.times is None else {lists.times: TIMES})
    named |= {column: f"{VALUES}.{name}" for name, column in lists.values.items()}
    events = rows.select(
        USER, ID, FIRST, "genrank_length", PLACE, **{name: rows[column][rows[PLACE]] for name, column in named.items()}
    )
    return events.mutate(**{TIME: _time(events, schema)})


def _time(events: Expression, schema: LogSchema) -> Column:
    lists = settings_of(schema)
    if lists.times is not None:
        return seconds(events[lists.times], schema.time, "history.lists.times")
    step = schema.requests.gap_seconds + 1
    gap = max(GAP, step, schema.history.settle_seconds + 1)
    return events[FIRST] - gap - (events.genrank_length - 1 - events[PLACE].cast("int64")) * step


def _late(engine: Engine, events: Expression, exposures: Expression, schema: LogSchema) -> list[DataWarning]:
    """Warns of events at or after their user's first request that the log doesn't show."""
    lists = settings_of(schema)
    if lists.times is None:
        return []
    late = events.filter(events[TIME] >= events[FIRST])
    late = late.mutate(**{ID: identity(late[lists.items], "history.lists.items").cast("string")})
    item = identity(exposures[schema.columns.item], "columns.item").cast("string")
    shown = exposures.select(USER, TIME, **{ID: item})
    lacking = late.anti_join(shown, [USER, TIME, ID])
    counts = engine.row(late.aggregate(late=late.count())) | engine.row(lacking.aggregate(lacking=lacking.count()))
    if not counts["lacking"]:
        return []
    message = (
        f"history.lists: {counts['late']:,} events are not before their user's first request in the log; they are left "
        f"out, {counts['lacking']:,} of them, which the log doesn't show, for good: if they happened, give them as rows"
    )
    return [DataWarning(kind="times", message=message)]


def _valued(schema: LogSchema) -> dict[str, Task | Feedback | Feature]:
    """The columns of the schema for which an event can have a value."""
    parts: list[Task | Feedback | Feature] = [*schema.tasks, *schema.feedback]
    parts += [feature for feature in schema.features if feature.owner == "exposure"]
    return {part.name: part for part in parts}


def _value_roles(schema: LogSchema) -> list[Role]:
    lists, parts = settings_of(schema), _valued(schema)
    numeric = {name for name, part in parts.items() if isinstance(part, Task) or getattr(part, "kind", "") == "numeric"}
    values = lists.values.items()
    return [Role(name=lists.items, role="history.lists.items")] + [
        Role(name=column, role=f"history.lists.values.{name}", numeric=name in numeric) for name, column in values
    ]


def _united(
    engine: Engine, exposures: Expression, events: Expression, schema: LogSchema, derived: dict[str, str]
) -> Expression:
    """The columns with a role of both, stored, those of the log first."""
    names = dict.fromkeys([role.name for role in roles(schema)] + list(derived.values()))
    known = _columns_of_events(engine, exposures, events, schema, derived)
    above, below = {}, {}
    for name in names:
        if name in exposures.columns:
            column = exposures[name]
            above[name], below[name] = known.get(name) or (column, engine.ibis.null(_plain(column)))
    return engine.store(exposures.select(**above).union(events.select(**below)))


def _columns_of_events(
    engine: Engine, exposures: Expression, events: Expression, schema: LogSchema, derived: dict[str, str]
) -> dict[str, Pair]:
    """Column of the log → it and what events have for it; what isn't here is unknown of events."""
    columns, lists, literal = schema.columns, settings_of(schema), engine.ibis.literal
    constants: dict[str | None, float]
    constants = {columns.target or derived["target"]: 0, columns.weight: 1, schema.sampling.rate_column: 1}
    parts = _valued(schema)
    constants |= {parts[name].column: value for name, value in lists.labels.items()}
    found = {
        name: _same_values(exposures[name], literal(value), name)
        for name, value in constants.items()
        if name is not None and name in exposures.columns
    }
    for name, column in {parts[name].column: column for name, column in lists.values.items()}.items():
        if name in exposures.columns:
            found[str(name)] = _same_values(exposures[name], events[column], column)
    found[columns.user] = exposures[columns.user], events[ID]
    found[columns.item] = _same_ids(exposures[columns.item], events[lists.items])
    found[columns.time] = _times(exposures, events, schema)
    return found


def _plain(column: Column) -> object:
    return column.type().copy(nullable=True)


def _same_ids(column: Column, value: Column) -> Pair:
    """Ids of the log and of events, as they are or as text."""
    kinds = column.type(), value.type()
    if _plain(column) == _plain(value):
        return column, value
    if all(kind.is_integer() and not kind.is_uint64() for kind in kinds):
        return column.cast("int64"), value.cast("int64")
    return identity(column).cast("string"), identity(value).cast("string")


def _same_values(column: Column, value: Column, name: str) -> Pair:
    """A column of the log and the events' values for it, cast to a type of both."""
    kinds = column.type(), value.type()
    if _plain(column) == _plain(value):
        return column, value
    if all(kind.is_boolean() or kind.is_numeric() for kind in kinds):
        return column.cast("float64"), value.cast("float64")
    if any(kind.is_nested() for kind in kinds):
        raise LogError(
            f"history.lists: expected values of {kinds[0]} in column {name!r}, as the log has, found {kinds[1]}; cast "
            "them, or name another column"
        )
    return identity(column).cast("string"), identity(value).cast("string")


def _kept_as_written(exposures: Expression, schema: LogSchema) -> bool:
    kind = exposures[schema.columns.time].type()
    return bool(kind.is_string() or kind.is_numeric())


def _times(exposures: Expression, events: Expression, schema: LogSchema) -> Pair:
    """The log's times as they are, where they are numbers or text, and those of events written so; else all as numbers.

    A number counts in every text of times; see preparation/times.py.
    """
    column, scale = exposures[schema.columns.time], SCALE[schema.time.unit]
    written = events[TIME] * scale
    if not _kept_as_written(exposures, schema):
        return seconds(column, schema.time) * scale, written
    return (column, written.cast("string")) if column.type().is_string() else _same_values(column, written, "")
