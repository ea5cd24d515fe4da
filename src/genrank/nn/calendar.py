"""Hour and weekday of a moment in a time zone, from seconds since the epoch: one function for training and serving.

A zone's offsets from UTC are read once (zoneinfo) as a table of the moments at which they change, so that a batch's
times are converted on its device, and hours near a clock change are those that clocks in the zone showed.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import torch
from torch import Tensor, nn

NUM_HOURS, NUM_WEEKDAYS = 25, 8  # index 0: unknown
FIRST_YEAR, LAST_YEAR = 1970, 2100  # outside of these years the nearest offset is used
DAY, HOUR = 86400, 3600


class Calendar(nn.Module):
    """Hour and weekday in one time zone."""

    changes: Tensor
    offsets: Tensor

    def __init__(self, zone: str):
        """ValueError where there is no such zone."""
        super().__init__()
        changes, offsets = clock_changes(zone)
        self.register_buffer("changes", torch.tensor(changes), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    def hour(self, time_N: Tensor) -> Tensor:
        """(N) int64, from 1, the hour that begins at midnight, to 24."""
        return self._local(time_N) % DAY // HOUR + 1

    def weekday(self, time_N: Tensor) -> Tensor:
        """(N) int64, from 1, Monday, to 7, Sunday."""
        return (self._local(time_N) // DAY + 3) % 7 + 1  # the epoch was a Thursday

    def _local(self, time_N: Tensor) -> Tensor:
        """(N) seconds since the epoch as if the zone's clocks were UTC's."""
        return time_N + self.offsets[torch.searchsorted(self.changes, time_N, right=True)]


@cache
def clock_changes(zone: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Seconds at which the zone's offset changes, and the offsets: before the first change, and after each change."""
    try:
        clock = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"the time zone {zone!r} is not known here; name one as in Europe/Berlin, or install tzdata"
        ) from None

    def offset(time: int) -> int:
        return int((datetime.fromtimestamp(time, UTC).astimezone(clock).utcoffset() or timedelta()).total_seconds())

    time = int(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(LAST_YEAR, 1, 1, tzinfo=UTC).timestamp())
    changes, offsets = [], [offset(time)]
    while time < end:
        following = time + DAY
        if offset(following) != offsets[-1]:
            before, after = time, following
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if offset(middle) == offsets[-1] else (before, middle)
            changes.append(after)
            offsets.append(offset(after))
            following = after
        time = following
    return tuple(changes), tuple(offsets)
