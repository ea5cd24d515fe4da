"""Times of any way of writing as seconds since the epoch, UTC. Nothing is run here."""

from genrank.data.engine import Column, from_zone, parsed_time, with_offset
from genrank.errors import LogError
from genrank.schema import Time

SCALE = {"auto": 1, "s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
LARGEST = 9e18  # what int64 holds
OFFSET = r":\d\d(\.\d+)?\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)$"  # a text's own zone, behind a time of day


def seconds(column: Column, time: Time) -> Column:
    """Times as int64 seconds since the epoch, rounded down; null where they can't be read."""
    kind = column.type()
    if kind.is_timestamp():
        return _epoch(column if kind.timezone else from_zone(column, time.zone))
    if kind.is_date():
        return _epoch(from_zone(column.cast("timestamp"), time.zone))
    scale = SCALE[time.unit]
    if kind.is_integer():
        return (column if scale == 1 else column // scale).try_cast("int64")
    if kind.is_string() or kind.is_floating() or kind.is_decimal():
        number = column.try_cast("float64") / scale
        number = number.between(-LARGEST, LARGEST).ifelse(number, None).floor().cast("int64")  # else infinite, or NaN
        return number if time.unit != "auto" or not kind.is_string() else number.coalesce(_of_text(column, time))
    raise LogError(f"columns.time: expected numbers, timestamps or ISO text in {column.get_name()!r}, found {kind}")


def lacks_zone(column: Column, time: Time) -> Column | None:
    """Where a time says no zone, so that the schema's holds, or UTC; None where no row can."""
    kind = column.type()
    if kind.is_timestamp():
        return None if kind.timezone else column.notnull()
    if kind.is_date():
        return column.notnull()
    if kind.is_string() and time.unit == "auto":
        return column.try_cast("float64").isnull() & ~column.re_search(OFFSET) & _of_text(column, time).notnull()
    return None


def _of_text(column: Column, time: Time) -> Column:
    if time.format is not None:
        return _epoch(from_zone(parsed_time(column, time.format), time.zone))
    local = _epoch(from_zone(column.try_cast("timestamp"), time.zone))
    return column.re_search(OFFSET).ifelse(_epoch(with_offset(column)), local)


def _epoch(moment: Column) -> Column:
    return moment.truncate("s").epoch_seconds().cast("int64")
