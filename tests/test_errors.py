"""What messages show of a caller's value."""

import tracemalloc
from datetime import date
from typing import Any

import pytest

from genrank.errors import shown


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [1, 1.5, True, None, "abc", "it's", ["a", 1], {"a": {"b": [1]}}, date(2024, 1, 2)])
def test_small_values_are_shown_as_python_writes_them(value: object) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        "\n" * 10**6,
        "\ud800" * 1000,
        10**10_000,
        -(10**10_000),
        nested(100_000),
        [{}] * 10**6,
        list("ab") * 999,
        {str(number): {} for number in range(10**5)},
        {"k" * 10**6: "v" * 10**6},
        b"x" * 1000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_in_one_line_of_at_most_200_characters_at_no_cost(value: object) -> None:
    tracemalloc.start()
    text = shown(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < len(text) <= 200
    assert "\n" not in text
    text.encode()
    assert peak < 100_000
