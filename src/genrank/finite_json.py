"""Answers and reports as JSON, which has no NaN and no Infinity: they become null, a figure that is not known."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(values: Any, *, indent: int | None = None) -> str:
    """The values as JSON with a line end. Raises TypeError for what JSON has no form for."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
