"""Tables of text: each form holds every cell, as it is."""

import csv
import io
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from genrank.text_table import TextTable, to_csv, to_html, to_markdown, to_rich

TABLE = TextTable(
    head=["item", "AUC"],
    rows=[["[red]a|b[/red]", "0.5"], ["<b>&", "0.7123"]],
    title="items [all]",
    caption="of [one] run",
    numeric=[1],
)
CELLS = st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=2, max_size=2), max_size=4)


class Cells(HTMLParser):
    """The rows of an HTML table, and the classes of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.classes: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.classes.append(dict(attrs).get("class"))

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data != "\n":
            self.rows[-1][-1] += data


def read_html(text: str) -> Cells:
    cells = Cells()
    cells.feed(text)
    cells.close()
    return cells


def printed(table: TextTable, **options: bool) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(to_rich(table, **options))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("framed", [True, False])
def test_a_terminal_shows_brackets_of_ids_and_titles_as_they_are(framed: bool) -> None:
    shown = printed(TABLE, framed=framed)
    for text in (TABLE.title, TABLE.caption, *TABLE.head, *(cell for row in TABLE.rows for cell in row)):
        assert text in shown
    assert ("┃" in shown) == framed


def test_numbers_end_in_line_in_a_terminal() -> None:
    ends = [
        line.index(cell) + len(cell)
        for line in printed(TABLE).splitlines()
        for cell in ("0.5", "0.7123")
        if cell in line
    ]
    assert len(ends) == 2
    assert len(set(ends)) == 1


def test_columns_without_names_have_no_head() -> None:
    bare = TextTable(head=["", ""], rows=[["processor", "x86_64"]])
    assert "━" not in printed(bare)
    assert "<th>" not in to_html(bare)


def test_markdown_has_a_line_a_row_and_no_cell_that_ends_early() -> None:
    assert to_markdown(TABLE) == [
        "| item | AUC |",
        "|---|---:|",
        "| [red]a/b[/red] | 0.5 |",
        "| <b>& | 0.7123 |",
    ]


@given(rows=CELLS)
def test_csv_and_html_give_every_cell_back(rows: list[list[str]]) -> None:
    table = TextTable(head=["name", "value"], rows=rows)
    assert list(csv.reader(io.StringIO(to_csv(table), newline=""))) == [["name", "value"], *rows]
    assert read_html(to_html(table)).rows == [["name", "value"], *rows]


def test_classes_of_html_cells_come_from_their_column_and_their_text() -> None:
    table = TextTable(head=["claim", "n", "verdict"], rows=[["a", "1", 'not "confirmed"']])
    found = read_html(to_html(table, classes={"claim": "claim", "verdict": "verdict {}"})).classes
    assert found == [None, None, None, "claim", None, 'verdict not "confirmed"']


def test_the_main_row_is_marked() -> None:
    marked = TextTable(head=["", "AUC"], rows=[["baseline", "0.6"], ["model", "0.7"]], main_row=1)
    assert '<tr class="main"><td>model</td>' in to_html(marked)
    assert to_html(marked).count("class=") == 1


def test_chosen_columns_keep_how_they_are_set() -> None:
    chosen = TextTable(head=["a", "b", "c"], rows=[["1", "2", "3"]], numeric=[2], unbroken=[0]).only([-1, 0])
    assert (chosen.head, chosen.rows) == (["c", "a"], [["3", "1"]])
    assert (chosen.numeric, chosen.unbroken) == ([0], [1])


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of a table has 1 cells, its head 2"):
        TextTable(head=["a", "b"], rows=[["1", "2"], ["1"]])
