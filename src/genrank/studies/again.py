"""Verdicts of a finished study computed again, from its cells, by the rules of this code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrank.documents import parse_json, read_json
from genrank.errors import DataError, shown
from genrank.folders import replace_text
from genrank.studies.cell_archive import CELLS, cell_texts
from genrank.studies.cells import CellResult
from genrank.studies.conclusions import Evidence, conclude
from genrank.studies.study import Finding, Study, Variant
from genrank.studies.tuning import Choice

REMEDY = "run the study again, its cells are kept"
CLAIMED = ("claim", "kind", "size", "margin", "slice", "than", "relative", "paper", "regime")


def judge_again(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result with its rows, findings and fits computed again. folder: its cells, as files or packed beside it.

    Raises DataError where a cell is missing or damaged.
    """
    cells = {
        name: {int(seed): _read(folder, identity) for seed, identity in by_seed.items()}
        for name, by_seed in result["cells"].items()
    }
    evidence = Evidence(
        results=cells,
        seeds=range(result["options"]["seeds"]),
        baselines={name: _read(folder, identity) for name, identity in result["counting_cells"].items()},
        choices={values["variant"]: Choice.of(values, result["metrics"][0]) for values in result["tuning"]},
        speed=result["speed"],
        leaks=result["data"].get("leaks", ()),
        slices=result["slices"],
    )
    return {**result, **conclude(read_back(result), evidence)}


def read_back(result: Mapping[str, Any]) -> Study:
    """The study that a result belongs to; its variants have no configurations."""
    findings = [
        Finding(contrast=finding["weights"], **{name: finding[name] for name in CLAIMED})
        for finding in result["findings"]
    ]
    return Study(
        **{name: result[name] for name in ("title", "question", "baseline")},
        name=result["study"],
        variants=tuple(
            Variant(name=row["variant"], classical=row["yardstick"], tuned_as=row["tuned_as"], weakness=row["weakness"])
            for row in result["rows"]
        ),
        metrics=tuple(result["metrics"]),
        findings=tuple(findings),
        slices=result["slices"] != ["all"],
        axes=result.get("axes", {}),
        regimes={finding.regime: () for finding in findings} | dict.fromkeys(result["speed"], ()),
    )


@contextmanager
def as_written(where: Path) -> Iterator[None]:
    """DataError where the results in `where` lack what `genrank study` writes."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as problem:
        reason = f"{type(problem).__name__} {shown(str(problem))}"
        raise DataError(f"{where}: not results as genrank study writes them ({reason}); {REMEDY}") from None


def judge_folder_again(folder: Path) -> list[Path]:
    """Judge all studies in the folder and those below it again, and write their JSON where it changes."""
    written = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        result = read_json(path, error=DataError, remedy=REMEDY, kind=object)
        if not isinstance(result, dict) or "cells" not in result:
            continue
        with as_written(path):
            text = json.dumps(judge_again(result, path.parent / CELLS), indent=1) + "\n"
        if text != path.read_text(encoding="utf-8"):
            replace_text(path, text)
            written.append(path)
    return written


def _read(folder: Path, identity: str) -> CellResult:
    where, text = next(cell_texts(folder, identity), ("", b""))
    if not where:
        raise DataError(f"{folder}: no cell {identity}; run the study again, which computes it")
    try:
        content = parse_json(text)
    except ValueError as problem:
        raise DataError(f"{where}: damaged ({problem}); {REMEDY}") from None
    if not isinstance(content, dict) or not isinstance(content.get("figures"), dict):
        raise DataError(f"{where}: damaged (no figures); {REMEDY}")
    if not isinstance(content.get("error"), str):
        raise DataError(f"{where}: damaged (it doesn't say whether it failed); {REMEDY}")
    return CellResult(figures=content["figures"], error=content["error"])
