"""Lists per request: what they name twice, what was not shown, and labels that are written with the items."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exposure_logs import CLICK, SCHEMA, START, Prepared, prepare_log
from genrank.errors import InputError, LogError
from genrank.log_settings import CsvSettings, ListSettings
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files


def test_items_acted_on_twice_and_items_not_shown_are_counted_apart(tmp_path: Path) -> None:
    rows = {
        "user": [f"u{n % 3}" for n in range(30)],
        "item": [["a", "b", "a" if n % 2 else "c"] for n in range(30)],
        "time": [START + 100 * n for n in range(30)],
        "clicked": [["a", "a", "x"] if n % 3 else ["b"] for n in range(30)],
    }
    schema = replace(SCHEMA, tasks=(replace(CLICK, column="clicked"),), lists=ListSettings(acted=("clicked",)))
    found = [str(each.message) for each in prepare_log(tmp_path, rows, schema).manifest.warnings]
    assert any(each.startswith("lists: 20 items in 'clicked' are not among those shown") for each in found)
    assert any(each.startswith("lists: 20 items in 'clicked' are named before") for each in found)


def labelled(folder: Path, shown: list[str], **settings: Any) -> Prepared:
    """A text log without a line of names, whose items carry their labels, repeated so that it can be split."""
    lines = [f"u{n % 3}\t{START + 100 * n}\t{shown[n % len(shown)]}\n" for n in range(30)]
    (folder / "log.tsv").write_text("".join(lines))
    schema = replace(
        SCHEMA,
        csv=CsvSettings(columns=("user", "time", "item")),
        lists=ListSettings(separator=" ", label="click", **settings),
    )
    out = folder / "prepared"
    return Prepared(out, prepare(files([folder / "log.tsv"], schema=schema, folder=folder), out=out))


def test_labels_of_items_become_the_column_of_a_task(tmp_path: Path) -> None:
    rows = [row for row in labelled(tmp_path, ["a-1 b-x-0 c", "", "a-0"]).rows() if row["user"] == "u0"]
    assert [(row["item"], row["position"], row["task_click"]) for row in rows[:3]] == [
        ("a", 0, 1),
        ("b-x", 1, 0),
        ("c", 2, -1),
    ]


def test_the_separator_of_labels_may_mean_something_in_patterns(tmp_path: Path) -> None:
    rows = labelled(tmp_path, ["a.1 b.0"], label_separator=".").rows()
    assert {(row["item"], row["task_click"]) for row in rows} == {("a", 1), ("b", 0)}


def test_a_label_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"task 'click': expected numbers in column 'click', found 30 .*'yes'"):
        labelled(tmp_path, ["a-yes b-0"])


@pytest.mark.parametrize(
    ("settings", "values", "said"),
    [
        (ListSettings(label="click"), ["a-1"], r"lists: expected lists in column 'item', found string"),
        (ListSettings(label="click"), [[1, 2]], r"lists\.label: expected items with labels, as in i3-1, in column"),
        (ListSettings(label="user"), [["a-1"]], r"lists\.label: there is a column 'user' in the log already"),
    ],
)
def test_labels_that_cannot_be_taken_from_the_items_are_refused(
    tmp_path: Path, settings: ListSettings, values: list[Any], said: str
) -> None:
    rows = {"user": ["u"] * 30, "time": list(range(START, START + 30)), "item": values * 30}
    with pytest.raises(InputError, match=said):
        prepare_log(tmp_path, rows, replace(SCHEMA, lists=settings))
