"""Exposures and actions that are rows of their own: joined into one exposure each, or found and warned of."""

from functools import reduce
from operator import or_

from genrank.data.manifest import DataWarning
from genrank.errors import LogError, SchemaError
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Column, Engine, Expression, own_columns
from genrank.preparation.logs import number_column
from genrank.preparation.times import seconds
from genrank.preparation.value_functions import sampled, text_of
from genrank.schema import LogSchema

ACTED_AT = "genrank_acted_at"
SOON = 1800  # seconds after an exposure in which an action on it comes; ours
EXAMINED = 1_000_000  # rows looked at in search of repeated exposures, by whole users


def join_actions(
    engine: Engine, rows: Expression, schema: LogSchema
) -> tuple[Expression, dict[str, str], list[DataWarning]]:
    """One row per exposure with the actions that came within `join.within`, its columns by role, and warnings.

    An exposure keeps its own columns; labels are the largest ones of exposure and actions. The time of the latest
    action becomes the time at which the exposure's actions are known, or the largest `known_at` of all if it is later.
    """
    if schema.join.within is None:
        return rows, {}, []
    user, item = rows[schema.columns.user], rows[schema.columns.item]
    rows = rows.mutate(
        genrank_user=identity(user, "columns.user").cast("string"),
        genrank_item=identity(item, "columns.item").cast("string"),
        genrank_time=seconds(rows[schema.columns.time], schema.time),
        genrank_row=engine.place(),
        **_event_columns(engine, rows, schema),
    )
    rows = rows.mutate(genrank_action=_is_action(rows, schema))
    rows = engine.store(_numbered(engine, rows, schema.join.seconds))
    labels = [task.column for task in schema.tasks] + [task.censored for task in schema.tasks if task.censored]
    later = [part.column for part in schema.feedback]
    later += [task.time for task in schema.tasks if task.time is not None]
    _check_own_columns(schema, later)
    labels += [schema.columns.known_at] if schema.columns.known_at is not None else []
    actions = rows.filter(rows.genrank_joined)
    largest = {f"genrank_of_{name}": actions[name].max() for name in dict.fromkeys([*labels, *later])}
    keys = ["genrank_user", "genrank_item", "genrank_number"]
    latest = actions[schema.columns.time].argmax(actions.genrank_time)  # as written: it is read as other times are
    actions = actions.group_by(keys).aggregate(**{ACTED_AT: latest}, **largest)
    alone = ~rows.genrank_joined if schema.join.event is None else ~rows.genrank_action
    shown = rows.filter(alone)
    shown = shown.mutate(genrank_number=shown.genrank_action.ifelse(None, shown.genrank_number))
    both = shown.left_join(actions, keys)
    merged = {name: engine.ibis.greatest(both[name], both[f"genrank_of_{name}"]) for name in labels}
    merged |= {name: both[f"genrank_of_{name}"].coalesce(both[name]) for name in later if name not in labels}
    known_at = schema.columns.known_at
    if known_at is not None and both[known_at].type() == both[ACTED_AT].type():
        merged[known_at] = engine.ibis.greatest(merged[known_at], both[ACTED_AT])
    kept = [name for name in both.columns if not name.startswith("genrank_") or name in (ACTED_AT, "genrank_position")]
    joined = engine.store(both.mutate(**merged).order_by("genrank_row").select(*kept))
    roles = {} if known_at is not None else {"known_at": ACTED_AT}
    return joined, roles, _lost(engine, rows, schema)


def _check_own_columns(schema: LogSchema, taken: list[str]) -> None:
    """SchemaError where a column that actions give to their exposure is one that tells exposures apart."""
    columns = schema.columns
    for name in (columns.user, columns.item, columns.time, columns.request):
        if name is not None and name in taken:
            raise SchemaError(
                f"join: {name!r} identifies exposures, so no task's time or feedback can be read from it; leave "
                "that out: the rows of actions give the times at which they were known"
            )


def _event_columns(engine: Engine, rows: Expression, schema: LogSchema) -> dict[str, Column]:
    """Tasks' columns that the log hasn't: 1 on rows whose event has that name, 0 on others."""
    name = schema.join.event
    missing = [task.column for task in schema.tasks if task.column not in rows.columns]
    if name is None or not missing:
        return {}
    if name not in rows.columns:
        raise SchemaError(
            f"join.event: there is no column {name!r} in the log; there is: {', '.join(own_columns(rows))}"
        )
    event = text_of(rows[name])
    found = engine.fetch(rows.select(event=event).distinct().limit(1000))["event"].to_pylist()
    for wanted in (schema.join.exposure, *missing):
        if wanted not in found:
            there = ", ".join(sorted(str(value) for value in found[:20]))
            raise LogError(
                f"join: expected rows with {wanted!r} in column {name!r}, found {there}; correct join.exposure, or "
                "the tasks' columns, which name events"
            )
    return {column: (event == column).fill_null(False).cast("int8") for column in missing}


def _is_action(rows: Expression, schema: LogSchema) -> Column:
    there = rows.genrank_user.notnull() & rows.genrank_item.notnull() & rows.genrank_time.notnull()
    if schema.join.event is not None:
        return there & (text_of(rows[schema.join.event]) != schema.join.exposure).fill_null(False)
    binary = [task for task in schema.tasks if task.kind == "binary"]
    positive = [
        (number_column(rows, task.column, task.name) >= (1 if task.threshold is None else task.threshold))
        for task in binary
    ] or [number_column(rows, task.column, task.name) > 0 for task in schema.tasks]
    if not positive:
        raise LogError("join: a log without tasks has no actions to join; add [[tasks]], or leave join.within out")
    return there & reduce(or_, (column.fill_null(False) for column in positive))


def _numbered(engine: Engine, rows: Expression, within: int) -> Expression:
    """Rows with the number of their user's and item's last exposure, and whether they are actions joined to it."""
    window = engine.ibis.cumulative_window(
        group_by=["genrank_user", "genrank_item"], order_by=["genrank_time", "genrank_action"]
    )
    exposure = ~rows.genrank_action
    rows = rows.mutate(
        genrank_number=exposure.cast("int64").sum().over(window),
        genrank_shown=exposure.ifelse(rows.genrank_time, None).max().over(window),
    )
    soon = (rows.genrank_time - rows.genrank_shown <= within).fill_null(False)
    return rows.mutate(genrank_joined=rows.genrank_action & (rows.genrank_number > 0) & soon)


def _lost(engine: Engine, rows: Expression, schema: LogSchema) -> list[DataWarning]:
    lost = engine.row(rows.aggregate(lost=(rows.genrank_action & ~rows.genrank_joined).sum()))["lost"]
    if not lost:
        return []
    fate = "count as separate exposures" if schema.join.event is None else "are left out"
    message = (
        f"join: {int(lost):,} actions have no exposure of their user and item in the {schema.join.within} before "
        f"them; they {fate}"
    )
    return [DataWarning(kind="values", message=message)]


def repeated_exposures(
    engine: Engine, exposures: Expression, typed: dict[str, Column], schema: LogSchema, num_rows: int
) -> list[DataWarning]:
    """Warns of positives that repeat an earlier negative of their user and item within SOON: half an exposure each.

    A feed that shows items again does so equally often with and without a click; so there is a warning only if the
    share among positives is far above that among negatives.
    """
    tasks = [task.name for task in schema.tasks if task.kind == "binary"]
    if not tasks:
        return []
    rows = exposures.select(**{name: typed[name] for name in ("user", "item", "time", *(f"task_{n}" for n in tasks))})
    every = -(-num_rows // EXAMINED)
    if every > 1:
        rows = rows.filter(sampled(rows.user, every))
    window = engine.ibis.window(group_by=["user", "item"], order_by=["time", *(f"task_{name}" for name in tasks)])
    before = {f"before_{name}": rows[f"task_{name}"].lag().over(window) for name in tasks}
    rows = rows.mutate(since=rows.time - rows.time.lag().over(window), **before)
    soon = (rows.since <= SOON).fill_null(False)
    questions = {}
    for name in tasks:
        repeats = soon & (rows[f"before_{name}"] == 0)
        for label, count in (("positive", rows[f"task_{name}"] == 1), ("negative", rows[f"task_{name}"] == 0)):
            questions[f"{label}_{name}"] = count.sum()
            questions[f"repeated_{label}_{name}"] = (count & repeats).sum()
    counts = {name: int(value or 0) for name, value in engine.row(rows.aggregate(**questions)).items()}
    warnings = []
    for name in tasks:
        positive, repeated = counts[f"positive_{name}"], counts[f"repeated_positive_{name}"]
        usual = counts[f"repeated_negative_{name}"] / max(1, counts[f"negative_{name}"])
        if repeated >= 10 and repeated / positive > max(0.1, 3 * usual):
            message = (
                f"task {name!r}: {repeated:,} of {positive:,} positives ({repeated / positive:.0%}) repeat an exposure "
                f"of the same user and item that came up to {SOON // 60} minutes before, {usual:.0%} of the negatives "
                'do; if exposures and actions are rows of their own, join them: [join] within = "30m"'
            )
            warnings.append(DataWarning(kind="leakage", message=message))
    return warnings
