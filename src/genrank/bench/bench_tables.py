"""A bench's figures for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def as_tables(result: Mapping[str, Any]) -> RenderableType:
    """The single figures with their quartiles, a table per group of cells (medians), and the machine in a line."""
    figures = {k: v for k, v in result.items() if _is_figure(v) and k not in ("bench", "size", "seed")}
    groups = {k: v for k, v in result.items() if k != "machine" and not _is_figure(v)}
    title = f"genrank bench {result['bench']}, size {result['size']}, seed {result['seed']}"
    parts: list[RenderableType] = [_figures(title, figures) if figures else Text(title, style="bold")]
    for name, group in groups.items():
        if isinstance(group, list):
            parts += [Text("• not measured: " + ", ".join(str(part) for part in row.values())) for row in group]
        elif all(_is_figure(value) for value in group.values()):
            parts.append(_figures(_words(name), group))
        else:
            parts.append(_cells(_words(name), group))
    return Group(*parts, Text(machine_line(result["machine"]), style="dim"))


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    line = (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, torch {machine['torch']}"
    )
    return line + (f", {machine['gpu']}" if machine["gpu"] else "")


def _figures(title: str, figures: Mapping[str, Any]) -> Table:
    table = _table(title)
    table.add_column("median", justify="right")
    table.add_column("quartiles", justify="right")
    for name, value in figures.items():
        spread = f"{_number(value['low'])} – {_number(value['high'])}" if isinstance(value, Mapping) else ""
        table.add_row(_words(name), _middle(value), spread)
    return table


def _cells(title: str, group: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table(title)
    columns = dict.fromkeys(column for cell in group.values() for column in cell if not column.endswith("_gflops"))
    for column in columns:
        table.add_column(_words(column), justify="right")
    for name, cell in group.items():
        table.add_row(name, *(_middle(cell[column]) if column in cell else "–" for column in columns))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    return table


def _is_figure(value: Any) -> bool:
    return set(value) == {"value", "low", "high"} if isinstance(value, Mapping) else not isinstance(value, list)


def _middle(value: Any) -> str:
    return _number(value["value"] if isinstance(value, Mapping) else value)


def _number(value: Any) -> str:
    """Three digits that say something."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
