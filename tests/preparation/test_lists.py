"""Lists per request: what they name twice, and what was not shown."""

from dataclasses import replace
from pathlib import Path

from exposure_logs import CLICK, SCHEMA, START, prepare_log
from genrank.log_settings import ListSettings


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
