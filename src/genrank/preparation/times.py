"""Times in any format as seconds since the epoch, UTC. Nothing is run here."""

from genrank.errors import LogError
from genrank.preparation.engine import Column
from genrank.preparation.value_functions import (
    epoch_by_pattern,
    epoch_in_zone,
    epoch_of_text,
    epoch_of_zoned_text,
    floor_division,
    matches,
    microseconds,
    number_of,
    whole_of,
)
from genrank.schema import Time

SCALE = {"auto": 1, "s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
LARGEST = 9e18  # what int64 holds
NANOSECONDS_OF_A_ZONE = "TIMESTAMPTZ_NS"  # which Ibis has no type for
OFFSET = r":\d\d(\.\d+)?\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)$"  # a text's own zone, behind a time of day


def seconds(column: Column, time: Time, role: str = "columns.time") -> Column:
    """Times as int64 seconds since the epoch, rounded down; null where they can't be read.

    Raises LogError, which names the role, for a column of another type, such as truth values.
    """
    kind = column.type()
    if NANOSECONDS_OF_A_ZONE in str(kind):
        return _epoch(microseconds(column))
    if kind.is_timestamp():
        moment = microseconds(column) if kind.scale is not None and kind.scale > 6 else column
        return _epoch(moment) if kind.timezone else _local_epoch(moment, time.zone)
    if kind.is_date():
        return _local_epoch(column.cast("timestamp"), time.zone)
    scale = SCALE[time.unit]
    if kind.is_integer():
        return _whole(column.try_cast("int64"), scale)
    if kind.is_floating() or kind.is_decimal():
        return _whole(_floor(column), scale)
    if kind.is_string():
        digits = matches(column, r"^\s*[+-]?\d+\s*$")  # a cast to int64 would round what has a fraction
        number = whole_of(digits.ifelse(column, None)).coalesce(_floor(number_of(column)))
        number = _whole(number, scale)
        return number if time.unit != "auto" else number.coalesce(_of_text(column, time))
    raise LogError(
        f"{role}: expected numbers, timestamps or ISO text in {column.get_name()!r}, found {kind}; name another column"
    )


def lacks_zone(column: Column, time: Time) -> Column | None:
    """Whether a time has no zone, so that the schema's applies, or UTC; None if no time of the column can lack one."""
    kind = column.type()
    if kind.is_timestamp():
        return None if kind.timezone else column.notnull()
    if kind.is_date():
        return column.notnull()
    if kind.is_string() and time.unit == "auto":
        return number_of(column).isnull() & ~matches(column, OFFSET) & _of_text(column, time).notnull()
    return None


def _of_text(column: Column, time: Time) -> Column:
    if time.format is not None:
        return epoch_by_pattern(column, time.format, time.zone)
    return matches(column, OFFSET).ifelse(epoch_of_zoned_text(column), epoch_of_text(column, time.zone))


def _floor(number: Column) -> Column:
    """Rounded down to int64; null for what doesn't fit, infinities and NaN."""
    return number.between(-LARGEST, LARGEST).ifelse(number, None).floor().cast("int64")


def _whole(number: Column, scale: int) -> Column:
    return number if scale == 1 else floor_division(number, scale)


def _local_epoch(local: Column, zone: str | None) -> Column:
    """Seconds of timestamps in the local time of `zone` (None: UTC)."""
    return _epoch(local) if zone is None else epoch_in_zone(local, zone)


def _epoch(moment: Column) -> Column:
    return moment.truncate("s").epoch_seconds().cast("int64")
