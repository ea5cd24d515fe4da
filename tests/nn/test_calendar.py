"""Hour and weekday in a zone are those of zoneinfo, at every change of the clocks too."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrank.nn.calendar import Calendar, clock_changes

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca")
LAST = 4102444800  # 2100-01-01


@given(zone=st.sampled_from(ZONES), times=st.lists(st.integers(0, LAST - 1), min_size=1, max_size=20))
def test_any_time_is_what_its_zones_clock_shows(zone: str, times: list[int]) -> None:
    assert_shown(zone, times)


@pytest.mark.parametrize("zone", ZONES)
def test_the_seconds_around_every_change_of_the_clocks_are_right(zone: str) -> None:
    changes, offsets = clock_changes(zone)
    assert len(offsets) == len(changes) + 1
    assert_shown(zone, [time + second for time in changes for second in (-3600, -1, 0, 1, 3600)] or [0])


def test_an_hour_that_clocks_show_twice_and_one_that_they_leave_out() -> None:
    berlin = Calendar("Europe/Berlin")
    autumn = torch.tensor([1698537600 + 3600 * hour for hour in range(4)])  # 2023-10-29 from 02:00 summer time on
    assert (berlin.hour(autumn) - 1).tolist() == [2, 2, 3, 4]
    spring = torch.tensor([1679788800 + 3600 * hour for hour in range(3)])  # 2023-03-26 from 01:00 on
    assert (berlin.hour(spring) - 1).tolist() == [1, 3, 4]
    assert berlin.weekday(spring).tolist() == [7, 7, 7]


def test_a_zone_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="'Mars/Olympus' is not known here"):
        Calendar("Mars/Olympus")


def assert_shown(zone: str, times: list[int]) -> None:
    calendar, tensor = Calendar(zone), torch.tensor(times)
    clocks = [datetime.fromtimestamp(time, ZoneInfo(zone)) for time in times]
    assert calendar.hour(tensor).tolist() == [clock.hour + 1 for clock in clocks]
    assert calendar.weekday(tensor).tolist() == [clock.isoweekday() for clock in clocks]
