"""The results that the repository publishes are what its page says."""

import json
from pathlib import Path
from typing import Any

import pytest

from genrank.schema import fingerprint
from genrank.studies.again import judge_again
from genrank.studies.overview import EARLIER, overview

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
CELLS = sorted(RESULTS.glob("*/cells/*.json"))


def test_the_page_is_that_of_the_results() -> None:
    """But for what was earlier code when it was made: code changes more often than figures."""
    assert without_age(overview(RESULTS)) == without_age(RESULTS.with_suffix(".md").read_text(encoding="utf-8"))


def without_age(page: str) -> list[str]:
    """The page's lines without the marks of earlier code."""
    said = [line.replace(EARLIER, "") for line in page.splitlines()]
    return [line for line in said if line and not line.startswith((EARLIER.strip(), "**Of earlier code"))]


@pytest.mark.parametrize("folder", sorted({path.parent.parent.name for path in CELLS}))
def test_cells_are_as_they_were_computed(folder: str) -> None:
    for path in (path for path in CELLS if path.parent.parent.name == folder):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content.pop("digest") == fingerprint(content), path
        if not path.name.startswith("throughput"):
            assert path.stem.endswith(fingerprint(content["question"])[:16])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_verdict_follows_from_the_cells_under_the_rules_of_this_code(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    again = judge_again(result, path.parent / "cells")
    assert [finding["verdict"] for finding in again["findings"]] == [f["verdict"] for f in result["findings"]]
    assert again["rows"] == result["rows"]
    # An optimiser's steps round otherwise on another processor.
    assert again.get("fits") == nearly(result.get("fits"))


def nearly(value: Any) -> Any:
    """A nest of dictionaries and lists that equals one whose numbers are close."""
    if isinstance(value, dict):
        return {name: nearly(part) for name, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_figure_of_a_table_is_of_a_cell(path: Path) -> None:
    """The main figure over seeds, variant by variant, is found in the cells beside the table."""
    result = json.loads(path.read_text(encoding="utf-8"))
    main = result.get("metrics", ["auc"])[0]
    cells = [json.loads(cell.read_text(encoding="utf-8")) for cell in (path.parent / "cells").glob("*.json")]
    found = {cell["figures"]["test"]["all"][main] for cell in cells if "test" in cell.get("figures", {})}
    for row in result["rows"]:
        assert set(row["parts"]["all"][main]["values"]) <= found, row["variant"]
