"""The results of all studies in a folder: verdicts side by side, then every table with the command that made it."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from genrank.documents import read_json
from genrank.errors import DataError
from genrank.folders import replace_text
from genrank.studies.again import as_written
from genrank.studies.all_studies import STUDIES
from genrank.studies.code import code_digest
from genrank.studies.contrasts import Verdict
from genrank.studies.pages import markdown
from genrank.studies.study_tables import findings, is_older
from genrank.studies.tuning import DEFAULT_GRID
from genrank.text_table import TextTable, to_markdown

NOTES = "notes.md"  # in the folder and beside the results of a data set: notes written by hand
EARLIER = " †"
BySet = dict[Path, list[dict[str, Any]]]


def overview(folder: Path) -> str:
    """Markdown of the results in `folder` or in its subfolders, on one page. DataError where there is none."""
    folder, by_set = _found(folder)
    with as_written(folder):
        pages = [_of_set(place, results) for place, results in by_set.items()]
        return "\n".join([_summary(folder, by_set, linked=False), *pages])


def write_overview(folder: Path) -> list[Path]:
    """Write the verdicts to FOLDER.md and each data set's tables to FOLDER/NAME.md. Returns these files.

    Raises DataError if there are no results, or if the folder is that of one data set.
    """
    folder, by_set = _found(folder)
    if folder in by_set:
        raise DataError(f"{folder}: has the studies of one data set; --pages is for the folder above it")
    with as_written(folder):
        pages = {folder / f"{place.name}.md": _of_set(place, results) for place, results in by_set.items()}
        pages = {folder.with_name(f"{folder.name}.md"): _summary(folder, by_set, linked=True)} | pages
    for path, text in pages.items():
        replace_text(path, text)
    return list(pages)


def _found(folder: Path) -> tuple[Path, BySet]:
    """The folder's absolute path, and its results."""
    whole = Path(os.path.abspath(folder))
    places = [whole, *sorted(whole.iterdir())] if whole.is_dir() else []
    by_set = {place: found for place in places if (found := list(_results(place)))}
    if not by_set:
        raise DataError(f"{folder}: no study's NAME.json, here or one folder below; run genrank study first")
    return whole, by_set


def _summary(folder: Path, by_set: BySet, *, linked: bool) -> str:
    """The number of verdicts of each kind, the notes, and all verdicts. linked: with links to the data sets' pages."""
    lines = ["# Results", "", *to_markdown(_counts(folder, by_set, linked=linked)), ""]
    if any(is_older(result) for results in by_set.values() for result in results):
        lines += [
            f"{EARLIER.strip()}: of earlier code than {code_digest()}, which was current when this page was made.",
            "",
        ]
    lines += [] if folder in by_set else _notes(folder)
    return "\n".join([*lines, "## Verdicts", "", *_verdicts(by_set)])


def _counts(folder: Path, by_set: BySet, *, linked: bool) -> TextTable:
    """A row per data set: its studies, and how often each verdict was reached there."""
    verdicts: tuple[str, ...] = get_args(Verdict)
    rows = []
    total = Counter[str]()
    for place, results in by_set.items():
        found = Counter(finding["verdict"] for result in results for finding in result["findings"])
        total += found
        name = f"[{place.name}]({folder.name}/{place.name}.md)" if linked else place.name
        older = EARLIER * any(is_older(result) for result in results)
        studies = ", ".join(result["study"] for result in results)
        rows.append([name + older, studies, *(str(found[verdict]) for verdict in verdicts)])
    rows.append(["all", "", *(str(total[verdict]) for verdict in verdicts)])
    return TextTable(head=["data set", "studies", *verdicts], rows=rows)


def _of_set(place: Path, results: list[dict[str, Any]]) -> str:
    """The tables of a data set's studies."""
    lines = [f"# {place.name}", "", *_notes(place)]
    for result in results:
        page = markdown(result, level=2).splitlines()
        lines += [page[0], "", f"    {command(result, place)}", *page[1:], ""]
    return "\n".join(lines)


def _notes(place: Path) -> list[str]:
    path = place / NOTES
    return [path.read_text(encoding="utf-8", errors="replace").strip("\n"), ""] if path.is_file() else []


def command(result: dict[str, Any], place: Path) -> str:
    """The command that made the result, with DATA for the prepared folder."""
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


def _verdicts(by_set: BySet) -> list[str]:
    """A table per study: a row per claim, a column per data set that has it."""
    lines = []
    for study in STUDIES:
        found = {place: r for place, results in by_set.items() for r in results if r["study"] == study}
        if any(result["findings"] for result in found.values()):
            lines += [f"### {study}", "", *to_markdown(_claims(found)), ""]
    return lines


def _claims(found: dict[Path, dict[str, Any]]) -> TextTable:
    cells: dict[tuple[str, ...], dict[Path, str]] = {}
    for place, result in found.items():
        for finding, row in zip(result["findings"], findings(result).rows, strict=True):
            measured = "; ".join(part for part in row[3:5] if part != "–").replace(" to ", ", ")
            verdict = finding["verdict"]
            said = "–" if verdict == "not measured" else f"{verdict}: {measured}"
            cells.setdefault(tuple(row[:3]), {})[place] = said
    names = [place.name + EARLIER * is_older(result) for place, result in found.items()]
    rows = [[*claim, *(said.get(place, "") for place in found)] for claim, said in cells.items()]
    return TextTable(head=["claim", "paper", "confirmed if", *names], rows=rows)
