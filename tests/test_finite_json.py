import json
from typing import Any

import numpy as np
import pytest

from genrank.finite_json import json_text


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_figures_that_are_no_numbers_are_null(odd: float) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(word)

    text = json_text({"a": [odd, (1.5, {"b": odd})], "c": "NaN", "d": True, "e": None})
    assert json.loads(text, parse_constant=refuse) == {
        "a": [None, [1.5, {"b": None}]],
        "c": "NaN",
        "d": True,
        "e": None,
    }


def test_other_values_are_written_as_json_writes_them() -> None:
    values = {"a": 1, "b": [0.1, 1e300, "é"], "c": {"d": False}}
    assert json_text(values) == json.dumps(values) + "\n"
    assert json_text(values, indent=1) == json.dumps(values, indent=1) + "\n"
