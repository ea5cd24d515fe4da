"""One scan of the whole log before any work: unusable rows are an error, or are dropped and counted."""

import functools
import operator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from genrank.data.manifest import DataWarning
from genrank.data.weights import LARGEST_WEIGHT
from genrank.errors import LogError
from genrank.ids import MAX_ID
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.logs import (
    WrongTypeError,
    action_times,
    finite_or_null,
    is_finite,
    number_column,
    weight_columns,
)
from genrank.preparation.times import SCALE
from genrank.preparation.value_functions import number_of
from genrank.schema import LogSchema, Task

DAY = 86_400
YEAR = YEAR_1971 = 31_536_000
YEAR_2200 = 7_258_118_400
Period = tuple[int, int] | None  # begin and end, see `Source`
SAID_OF_TIMES = {
    "unreadable": "can't be read; their actions count as known with the exposure",
    "before": "are before their exposure's; their actions count as known with the exposure",
    "year": "are more than a year after their exposure, whose actions hardly any request will see",
}
NO_ROWS = "the log has no rows; expected one row per exposure; check the paths and the files' contents"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """`rows` of the log, how many of them are `dropped` for which reason, and `warnings` for the manifest."""

    rows: int
    dropped: dict[str, int]
    warnings: tuple[DataWarning, ...]


def drop_reasons(
    exposures: Expression,
    typed: dict[str, Column],
    schema: LogSchema,
    now: int,
    period: Period = None,
    placeholders: bool = False,
) -> dict[str, Column]:
    """Reason → the rows dropped for it; the reasons exclude each other. `now`, `period`: epoch seconds.

    `placeholders`: whether times of 1970 are placeholders.
    """
    time = typed["time"]
    raw_time = exposures[schema.columns.time]
    reasons = {"no user": typed["user"].isnull(), "no item": typed["item"].isnull()}
    texts = [typed[name] for name in ("user", "item") if typed[name].type().is_string()]
    if texts:
        too_long = [text.length() > MAX_ID for text in texts]
        reasons[f"a user or item of over {MAX_ID} characters"] = functools.reduce(operator.or_, too_long)
    reasons |= {
        "no time": raw_time.isnull(),
        "unreadable time": time.isnull(),
        "time before 1970": time < 0,
        "time in the future": time > now + DAY,
    }
    if period is not None:
        reasons["time outside of the data set's days"] = (time < period[0]) | (time >= period[1])
    elif placeholders:
        reasons["placeholder time in 1970"] = (time >= 0) & (time < YEAR_1971)
    exclusive: dict[str, Column] = {}
    earlier: Column = None
    for reason, here in reasons.items():
        here = here.fill_null(False)
        exclusive[reason] = here if earlier is None else here & ~earlier
        earlier = here if earlier is None else earlier | here
    return exclusive


def survey(
    engine: Engine, exposures: Expression, typed: dict[str, Column], schema: LogSchema, reasons: dict[str, Column]
) -> Findings:
    """Checks every row once; `reasons` to drop one are those of `drop_reasons`.

    Raises LogError if a problem affects the whole log.
    """
    counts = engine.row(exposures.aggregate(**_questions(exposures, typed, schema, reasons)))
    counts = {name: int(value or 0) for name, value in counts.items()}
    rows = counts["rows"]
    if rows == 0:
        raise LogError(NO_ROWS)
    _check_times(engine, exposures, typed["time"], schema, counts)
    _check_action_times(engine, exposures, schema, counts)
    _check_weights(engine, exposures, schema, counts)
    _check_binary(engine, exposures, schema, counts)
    dropped = {reason: counts[_key(reason)] for reason in reasons if counts[_key(reason)]}
    if sum(dropped.values()) == rows:
        found = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise LogError(f"no row of the log can be used: {found}; check [columns] of the schema")
    return Findings(rows=rows, dropped=dropped, warnings=tuple(_warnings(schema, counts)))


def _questions(
    exposures: Expression, typed: dict[str, Column], schema: LogSchema, reasons: dict[str, Column]
) -> dict[str, Any]:
    time = typed["time"]
    questions = {"rows": exposures.count(), "late": (time > YEAR_2200).sum(), "early": (time < YEAR_1971).sum()}
    questions |= {_key(reason): where.sum() for reason, where in reasons.items()}
    for task in schema.tasks:
        if task.kind == "binary" and task.threshold is None:
            questions[f"invalid_{task.name}"] = _not_binary(exposures, task).sum()
        elif task.kind == "duration":
            questions[f"negative_{task.name}"] = (number_column(exposures, task.column, task.name) < 0).sum()
    for feature in schema.features:
        if feature.owner == "exposure" and feature.kind == "numeric":
            number = typed[f"feature_{feature.name}"]
            questions[f"odd_{feature.name}"] = (~is_finite(number)).sum()
    for role, column in weight_columns(exposures, schema).items():
        questions[f"odd {role}"] = _odd_weight(role, column).sum()
    for role, (raw, known) in action_times(exposures, schema).items():
        questions[f"given {role}"] = raw.notnull().sum()
        questions[f"unreadable {role}"] = (raw.notnull() & known.isnull()).sum()
        questions[f"before {role}"] = (known < time).sum()
        questions[f"year {role}"] = (known > time + YEAR).sum()
    return questions


def _key(reason: str) -> str:
    return "drop_" + reason.replace(" ", "_")


def _check_times(
    engine: Engine, exposures: Expression, time: Column, schema: LogSchema, counts: dict[str, int]
) -> None:
    rows, unit, name = counts["rows"], schema.time.unit, schema.columns.time
    kind = exposures[name].type()
    numeric = kind.is_numeric() or (kind.is_string() and _is_number(example_of(engine, exposures, name)))
    if 2 * counts["late"] > rows and numeric:
        guess = _finer_unit(float(example_of(engine, exposures, name) or 0.0))
        raise LogError(
            f"columns.time: most times in {name!r}, read as {_words(unit)}, are after the year 2200; "
            f"it looks like {_words(guess)}; set [time] unit = {guess!r}"
        )
    if 2 * counts["early"] > rows and SCALE[unit] > 1 and numeric:
        raise LogError(
            f"columns.time: most times in {name!r}, read as {_words(unit)}, are in 1970; "
            "it looks like seconds; set [time] unit = 's'"
        )
    if 2 * counts["drop_unreadable_time"] > rows:
        example = example_of(engine, exposures, name)
        raise LogError(
            f"columns.time: expected timestamps, ISO text or numbers in {name!r}, found such as {example!r}; "
            "convert them, or set [time] unit or format"
        )
    if 2 * counts["drop_time_in_the_future"] > rows:
        latest = engine.row(exposures.aggregate(last=time.max()))["last"]
        raise LogError(
            f"columns.time: most times in {name!r} are in the future (latest: {_date(latest)}); "
            "expected seconds of the past; check the column and [time] unit"
        )


def _check_action_times(engine: Engine, exposures: Expression, schema: LogSchema, counts: dict[str, int]) -> None:
    for role, (raw, _) in action_times(exposures, schema).items():
        given, name = counts[f"given {role}"], raw.get_name()
        for what, said in (
            ("unreadable", "can't be read as times"),
            ("year", "are more than a year after the exposure"),
        ):
            if 2 * counts[f"{what} {role}"] > given:
                raise LogError(
                    f"{role}: {counts[f'{what} {role}']:,} of {given:,} values in {name!r} {said}, such as "
                    f"{example_of(engine, exposures, name)!r}; they are read as columns.time is, see [time] unit"
                )


def _odd_weight(role: str, column: Column) -> Column:
    odd = column.isnull() | ~is_finite(column) | (column < 0) | (column > LARGEST_WEIGHT)
    return (odd | (column < 1 / LARGEST_WEIGHT) | (column > 1) if role == "sampling.rate_column" else odd).fill_null(
        True
    )


def _check_weights(engine: Engine, exposures: Expression, schema: LogSchema, counts: dict[str, int]) -> None:
    for role, column in weight_columns(exposures, schema).items():
        if counts[f"odd {role}"]:
            odd = engine.fetch(exposures.filter(_odd_weight(role, column)).select(value=column).limit(1))["value"]
            wanted = "above 0 and at most 1" if role == "sampling.rate_column" else "0 or more, at most 1e18"
            raise LogError(
                f"{role}: expected numbers that are {wanted} in {column.get_name()!r}, found "
                f"{counts[f'odd {role}']:,} others such as {odd[0].as_py()!r}; leave these rows out, or correct them"
            )


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and float(text) != 0
    except ValueError:
        return False


def _finer_unit(value: float) -> str:
    """The unit in which `value` lies between 1971 and 2200."""
    return next((unit for unit in ("ms", "us", "ns") if value / SCALE[unit] < YEAR_2200), "ns")


def _words(unit: str) -> str:
    return {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}.get(unit, "seconds")


def _date(time: int) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "beyond the year 9999"


def _check_binary(engine: Engine, exposures: Expression, schema: LogSchema, counts: dict[str, int]) -> None:
    for task in schema.tasks:
        invalid = counts.get(f"invalid_{task.name}", 0)
        if invalid:
            bad = exposures.filter(_not_binary(exposures, task))
            raise LogError(
                f"task {task.name!r}: expected 0 and 1 in column {task.column!r}, found {invalid} other values such as "
                f"{example_of(engine, bad, task.column)!r}; set its threshold, or another column"
            )


def _not_binary(exposures: Expression, task: Task) -> Column:
    column = finite_or_null(number_column(exposures, task.column, task.name))
    return (column != 0) & (column != 1)


def example_of(engine: Engine, table: Expression, column: str) -> Any:
    """One value of a column that is not null, or None."""
    values = engine.fetch(table.filter(table[column].notnull()).select(value=table[column]).limit(1))["value"]
    return values[0].as_py() if len(values) else None


def explain_wrong_type(engine: Engine, problem: WrongTypeError) -> LogError:
    """The error with an example of a value that is no number. A text file without rows has no types at all."""
    if engine.row(problem.table.aggregate(rows=problem.table.count()))["rows"] == 0:
        return LogError(NO_ROWS)
    column = problem.table[problem.column]
    texts = problem.table.filter(number_of(column).isnull()) if column.type().is_string() else problem.table
    example = example_of(engine, texts, problem.column)
    if example is None:
        example = example_of(engine, problem.table, problem.column)
    return LogError(problem.explain(example))


def _warnings(schema: LogSchema, counts: dict[str, int]) -> list[DataWarning]:
    warnings = []
    if 2 * counts["early"] > counts["rows"]:
        message = "most times are in 1970: are they seconds since the epoch?"
        warnings.append(DataWarning(kind="times", message=message))
    odd = [(f"task {task.name!r}", "negative durations", "unknown", f"negative_{task.name}") for task in schema.tasks]
    odd += [(f"feature {f.name!r}", "values NaN or infinite", "missing", f"odd_{f.name}") for f in schema.features]
    found = [(part, counts.get(key, 0), what, treatment) for part, what, treatment, key in odd]
    for key, count in counts.items():
        what, _, role = key.partition(" ")
        if what in SAID_OF_TIMES and role and count:
            message = f"{role}: {count:,} times {SAID_OF_TIMES[what]}"
            warnings.append(DataWarning(kind="times", message=message))
    return warnings + [
        DataWarning(kind="values", message=f"{part}: {count} {what} are treated as {treatment}")
        for part, count, what, treatment in found
        if count
    ]
