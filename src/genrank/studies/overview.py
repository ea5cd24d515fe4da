"""One page of all studies in a folder: verdicts side by side, then every table with the command that made it."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genrank.documents import read_json
from genrank.errors import DataError
from genrank.studies.again import as_written
from genrank.studies.all_studies import STUDIES
from genrank.studies.code import code_digest
from genrank.studies.pages import markdown
from genrank.studies.study_tables import as_markdown, findings, is_older
from genrank.studies.tuning import DEFAULT_GRID

NOTES = "notes.md"  # in the folder and beside the results of a data set: what a person adds to them
EARLIER = " †"
MARKS = {"confirmed": "yes", "not confirmed": "no"}


def overview(folder: Path) -> str:
    """Markdown of the results in `folder` or in its subfolders. DataError where there is none."""
    places = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    by_set = {place: found for place in places if (found := list(_results(place)))}
    if not by_set:
        raise DataError(f"{folder}: no study's NAME.json, here or one folder below; run genrank study first")
    with as_written(folder):
        return _page(folder, by_set)


def _page(folder: Path, by_set: dict[Path, list[dict[str, Any]]]) -> str:
    lines = [] if folder in by_set else _notes(folder)
    lines += ["# Verdicts", ""]
    if any(is_older(result) for results in by_set.values() for result in results):
        lines += [
            f"{EARLIER.strip()}: of earlier code than {code_digest()}, which was current when this page was made.",
            "",
        ]
    lines += _verdicts(by_set)
    for place, results in by_set.items():
        lines += [f"# {place.name}", "", *_notes(place)]
        for result in results:
            page = markdown(result, level=2).splitlines()
            lines += [page[0], "", f"    {command(result, place)}", *page[1:], ""]
    return "\n".join(lines)


def _notes(place: Path) -> list[str]:
    path = place / NOTES
    return [path.read_text(encoding="utf-8", errors="replace").strip("\n"), ""] if path.is_file() else []


def command(result: dict[str, Any], place: Path) -> str:
    """What made the result, with DATA for the prepared folder."""
    options = result["options"]
    words = ["genrank", "study", result["study"], "DATA", "--out", place.name, "--seeds", str(options["seeds"])]
    if options["size"] != "small":
        words += ["--size", options["size"]]
    if options["only"]:
        words += ["--only", ";".join(options["only"])]
    if tuple(options["grid"]) != DEFAULT_GRID:
        words += [word for text in options["grid"] for word in ("--grid", text)]
    words += [word for text in options["settings"] for word in ("--set", text)]
    return shlex.join(words)


def _results(place: Path) -> Iterable[dict[str, Any]]:
    for name in STUDIES:
        path = place / f"{name}.json"
        if path.is_file():
            yield read_json(path, error=DataError, remedy="run the study again, its cells are kept")


def _verdicts(by_set: dict[Path, list[dict[str, Any]]]) -> list[str]:
    """A table per study: a row per claim, a column per data set that has it."""
    lines = []
    for study in STUDIES:
        found = {place: r for place, results in by_set.items() for r in results if r["study"] == study}
        if any(result["findings"] for result in found.values()):
            lines += [f"## {study}", "", *as_markdown(_claims(found)), ""]
    return lines


def _claims(found: dict[Path, dict[str, Any]]) -> list[list[str]]:
    cells: dict[tuple[str, str], dict[Path, str]] = {}
    for place, result in found.items():
        for finding, row in zip(result["findings"], findings(result)[1:], strict=True):
            measured = "; ".join(part for part in row[3:5] if part != "–").replace(" to ", ", ")
            verdict = MARKS.get(finding["verdict"], finding["verdict"])
            said = "–" if finding["verdict"] == "not measured" else f"{verdict}: {measured}"
            cells.setdefault((row[0], row[1]), {})[place] = said
    rows = [["claim", "paper", *(place.name + EARLIER * is_older(result) for place, result in found.items())]]
    return rows + [[*claim, *(said.get(place, "") for place in found)] for claim, said in cells.items()]
