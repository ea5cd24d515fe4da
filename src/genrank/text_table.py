"""A table of text as one value, and the four forms it is shown in: terminal, Markdown, HTML, CSV."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table

NO_CLASSES: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Rows of formatted cells below the names of their columns. ValueError for a row of another length than `head`."""

    head: Sequence[str]  # all empty: the columns have no names, and a terminal shows none
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    numeric: Collection[int] = field(default=())  # numbers of the columns that are aligned right
    unbroken: Collection[int] = field(default=())  # numbers of the columns that a terminal doesn't wrap
    main_row: int | None = None  # the row that the others are compared with: bold, the others dim

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.head):
                raise ValueError(f"row {number} of a table has {len(row)} cells, its head {len(self.head)}: {row}")

    def only(self, columns: Sequence[int]) -> "TextTable":
        """The same table with these columns in this order; negative numbers count from the right."""
        places = [column % len(self.head) for column in columns]
        return replace(
            self,
            head=[self.head[place] for place in places],
            rows=[[row[place] for place in places] for row in self.rows],
            numeric=[number for number, place in enumerate(places) if place in self.numeric],
            unbroken=[number for number, place in enumerate(places) if place in self.unbroken],
        )


def to_rich(table: TextTable, *, framed: bool = True) -> "rich.table.Table":
    """For a terminal; brackets in cells are no markup. framed: lines around every cell, else one below the head."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(table.title) if table.title else None,
        title_justify="left",
        title_style="bold",
        caption=Text(table.caption) if table.caption else None,
        caption_justify="left",
        show_header=any(table.head),
        box=box.HEAVY_HEAD if framed else box.SIMPLE_HEAD,
    )
    for number, name in enumerate(table.head):
        justify = "right" if number in table.numeric else "left"
        drawn.add_column(Text(name), justify=justify, no_wrap=number in table.unbroken)  # type: ignore[arg-type]
    for number, row in enumerate(table.rows):
        style = None if table.main_row is None else "bold" if number == table.main_row else "dim"
        drawn.add_row(*map(Text, row), style=style)
    return drawn


def to_markdown(table: TextTable) -> list[str]:
    """The lines of a Markdown table, without title and caption. Cells show "/" for "|", which would end them."""
    head, *body = [[cell.replace("|", "/") for cell in row] for row in (table.head, *table.rows)]
    rule = "".join("---:|" if number in table.numeric else "---|" for number in range(len(head)))
    return [f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in body)]


def to_html(table: TextTable, *, classes: Mapping[str, str] = NO_CLASSES) -> str:
    """The element `table`, without title and caption. The main row has the CSS class `main`.

    classes: column name → CSS class of its cells, where {} stands for the cell.
    """
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in table.head) + "</tr>"] if any(table.head) else []
    for number, row in enumerate(table.rows):
        cells = []
        for name, cell in zip(table.head, row, strict=True):
            of = f' class="{escape(classes[name].format(cell))}"' if name in classes else ""
            cells.append(f"<td{of}>{escape(cell)}</td>")
        main = ' class="main"' if number == table.main_row else ""
        lines.append(f"<tr{main}>{''.join(cells)}</tr>")
    return "\n".join(["<table>", *lines, "</table>"])


def to_csv(table: TextTable) -> str:
    """Delimited text with a head, without title and caption; lines end in a line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.head, *table.rows])
    return text.getvalue()
