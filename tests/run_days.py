"""A log of several days, in which something new is shown each day."""

from genrank.data.learned_days import date_of

MIDNIGHT = 1_600_041_600  # 2020-09-14 in UTC
NOON = 43_200
DAYS = [date_of(MIDNIGHT + day * 86_400, "UTC") for day in range(8)]


def days_log(num_days: int = 6) -> dict[str, list[object]]:
    """Twelve exposures a day at 12:00 UTC from 2020-09-14 on; on each day a new item is shown for the first time."""
    rows = [(day, n) for day in range(num_days) for n in range(12)]
    return {
        "user": [f"u{n % 4}" for _, n in rows],
        "item": [f"new{day}" if n % 5 == 0 else f"i{n}" for day, n in rows],
        "time": [MIDNIGHT + day * 86_400 + NOON + n for day, n in rows],
        "click": [int((n * 7 + day) % 3 == 0) for day, n in rows],
    }
