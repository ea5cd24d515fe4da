"""The results that the repository publishes are what its page says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from amounts import mostly_slow
from genrank.schema import fingerprint
from genrank.studies.again import judge_again
from genrank.studies.cell_archive import CELLS, read_archive
from genrank.studies.overview import EARLIER, write_overview

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SETS = sorted(path.parent for path in RESULTS.glob("*/notes.md"))


def test_the_pages_are_those_of_the_results(tmp_path: Path) -> None:
    """But for what was earlier code when they were made: code changes more often than figures."""
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.gz"))
    made = {path.relative_to(tmp_path): path for path in write_overview(tmp_path / "results")}
    assert len(made) == len(SETS) + 1
    for name, page in made.items():
        published = RESULTS.parent / name
        assert without_age(page) == without_age(published), f"run genrank results {RESULTS} --pages"


def test_every_data_set_is_linked_from_the_page_of_verdicts() -> None:
    page = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+\.md)\)", page):
        assert (RESULTS.parent / link).is_file(), link
    assert all(f"](results/{place.name}.md)" in page for place in SETS)


def test_published_cells_are_packed() -> None:
    assert not list(RESULTS.glob("*/cells/*.json")), f"run genrank results {RESULTS} --pack"


def without_age(page: Path) -> list[str]:
    """The page's lines without the marks of earlier code."""
    said = [line.replace(EARLIER, "") for line in page.read_text(encoding="utf-8").splitlines()]
    return [line for line in said if line and not line.startswith((EARLIER.strip(), "**Of earlier code"))]


@pytest.mark.parametrize("place", SETS, ids=lambda place: place.name)
def test_cells_are_as_they_were_computed(place: Path) -> None:
    cells = read_archive(place / CELLS)
    assert cells
    for name, text in cells.items():
        content = json.loads(text)
        assert content.pop("digest") == fingerprint(content), name
        if not name.startswith("throughput"):
            assert name.endswith(f"-{fingerprint(content['question'])[:16]}.json")


STUDIES = sorted(RESULTS.glob("*/*.json"))
QUICK = [path for path in STUDIES if path.stem != "scaling"]  # a curve is fitted to each of its bootstrap samples


@pytest.mark.parametrize("path", mostly_slow(STUDIES, often=QUICK), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_verdict_follows_from_the_cells_under_the_rules_of_this_code(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    again = judge_again(result, path.parent / CELLS)
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
    cells = [json.loads(text) for text in read_archive(path.parent / CELLS).values()]
    found = {cell["figures"]["test"]["all"][main] for cell in cells if "test" in cell.get("figures", {})}
    for row in result["rows"]:
        assert set(row["parts"]["all"][main]["values"]) <= found, row["variant"]
