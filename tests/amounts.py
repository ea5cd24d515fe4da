"""How much of an exhaustive test runs by default; the rest runs with `make test-all`.

Every test has cases in the default run, and every value of every axis is in one of them.
"""

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any, TypeVar

import pytest
from hypothesis import settings

THOROUGH = "thorough"  # the profile of Hypothesis with all examples
Value = TypeVar("Value")


def mostly_slow(values: Collection[Any], *, often: Collection[Any]) -> list[Any]:
    """The values as parameters: those of `often` in the default run, the others among the slow tests."""
    assert set(often) <= set(values), "a value of the default run is no longer there"
    return [pytest.param(value, marks=() if value in often else pytest.mark.slow) for value in values]


def crossed(*axes: Sequence[Any], ids: Sequence[Sequence[str]] | None = None) -> list[Any]:
    """All combinations of the axes' values; by default as many of them as the longest axis has values."""
    longest = max(len(axis) for axis in axes)
    often = {tuple(turn % len(axis) for axis in axes) for turn in range(longest)}
    names = ids or [[str(value) for value in axis] for axis in axes]
    return [
        pytest.param(
            *(axis[at] for axis, at in zip(axes, place, strict=True)),
            marks=() if place in often else pytest.mark.slow,
            id="-".join(name[at] for name, at in zip(names, place, strict=True)),
        )
        for place in product(*(range(len(axis)) for axis in axes))
    ]


def examples(thorough: int, default: int, **others: Any) -> settings:
    """Settings of a property: its number of examples under the thorough profile and by default."""
    return settings(max_examples=thorough if _thorough() else default, **others)


def sampled(values: Sequence[Value], *, every: int) -> Sequence[Value]:
    """All values under the thorough profile; by default every so many, with the last one among them."""
    return values if _thorough() else values[(len(values) - 1) % every :: every]


def _thorough() -> bool:
    return settings.get_current_profile_name() == THOROUGH
