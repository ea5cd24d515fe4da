"""Placeholders among times, gaps of years, and times without a zone. Days are whole ones since the epoch."""

from datetime import UTC, datetime
from itertools import pairwise

from genrank.data.manifest import DataWarning
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.times import lacks_zone
from genrank.schema import LogSchema

DAY = 86_400
FIRST_DAY, YEAR = 365, 365  # 1971-01-01: what is earlier are counters and zeros in most logs
Days = list[tuple[int, int]]  # day and its number of exposures, in order


def days_of(engine: Engine, exposures: Expression, time: Column) -> Days:
    """The log's days; rows without a time have none."""
    times = exposures.select(day=(time / DAY).floor().cast("int64"))
    days = times.group_by("day").aggregate(number=times.count())
    found = engine.fetch(days.filter(days.day.notnull()).order_by("day")).to_pydict()
    return list(zip(found["day"], found["number"], strict=True))


def has_placeholders(days: Days) -> bool:
    """Whether some times are of 1970, but not most of them: then those are no times."""
    early = sum(number for day, number in days if 0 <= day < FIRST_DAY)
    return 0 < 2 * early <= sum(number for _, number in days)


def time_warnings(engine: Engine, exposures: Expression, schema: LogSchema, days: Days, now: int) -> list[DataWarning]:
    """Warns of gaps of years between exposures that are kept, and of times without a zone."""
    first = FIRST_DAY if has_placeholders(days) else 0
    kept = [(day, number) for day, number in days if first <= day <= now // DAY + 1]
    total = sum(number for _, number in kept)
    warnings, before = [], 0
    for (day, number), (following, _) in pairwise(kept):
        before += number
        if following - day > YEAR:
            fewer, where = (
                (before, "up to " + _date(day)) if 2 * before <= total else (total - before, "from " + _date(following))
            )
            warnings.append(
                f"{schema.columns.time!r}: no exposure between {_date(day)} and {_date(following)}; are the "
                f"{fewer:,} {where} placeholders? Leave them out if so"
            )
    found = [DataWarning(kind="times", message=message) for message in warnings]
    return found + zone_warnings(engine, exposures, schema)


def zone_warnings(engine: Engine, exposures: Expression, schema: LogSchema) -> list[DataWarning]:
    """Warns of times without a zone that are read as UTC."""
    naive = lacks_zone(exposures[schema.columns.time], schema.time)
    if schema.time.zone is not None or naive is None:
        return []
    number = int(engine.row(exposures.aggregate(number=naive.sum()))["number"] or 0)
    message = (
        f"{schema.columns.time!r}: {number:,} times have no zone; UTC was assumed; set [time] zone, such as "
        "Europe/Berlin, or UTC"
    )
    return [DataWarning(kind="times", message=message)] if number else []


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")
