"""The figures of a benchmark for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from genrank.text_table import TextTable, to_rich


def as_tables(result: Mapping[str, Any]) -> RenderableType:
    """The single figures with their quartiles, a table per group of cells (medians), and the machine in a line."""
    figures = {k: v for k, v in result.items() if _is_figure(v) and k not in ("bench", "size", "seed")}
    groups = {k: v for k, v in result.items() if k != "machine" and not _is_figure(v)}
    title = f"genrank bench {result['bench']}, size {result['size']}, seed {result['seed']}"
    parts: list[RenderableType] = [_drawn(_figures(title, figures)) if figures else Text(title, style="bold")]
    for name, group in groups.items():
        if isinstance(group, list):
            parts += [Text("• not measured: " + ", ".join(str(part) for part in row.values())) for row in group]
        else:
            written = _figures if all(_is_figure(value) for value in group.values()) else _cells
            parts.append(_drawn(written(_words(name), group)))
    return Group(*parts, Text(machine_line(result["machine"]), style="dim"))


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    line = (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, torch {machine['torch']}"
    )
    return line + (f", {machine['gpu']}" if machine["gpu"] else "")


def _drawn(table: TextTable) -> RenderableType:
    return to_rich(table, framed=False)


def _figures(title: str, figures: Mapping[str, Any]) -> TextTable:
    rows = []
    for name, value in figures.items():
        spread = f"{_number(value['low'])} – {_number(value['high'])}" if isinstance(value, Mapping) else ""
        rows.append([_words(name), _middle(value), spread])
    return TextTable(title=title, head=["", "median", "quartiles"], rows=rows, numeric=(1, 2))


def _cells(title: str, group: Mapping[str, Mapping[str, Any]]) -> TextTable:
    columns = dict.fromkeys(column for cell in group.values() for column in cell if not column.endswith("_gflops"))
    return TextTable(
        title=title,
        head=["", *map(_words, columns)],
        rows=[
            [name, *(_middle(cell[column]) if column in cell else "–" for column in columns)]
            for name, cell in group.items()
        ],
        numeric=range(1, len(columns) + 1),
    )


def _is_figure(value: Any) -> bool:
    return set(value) == {"value", "low", "high"} if isinstance(value, Mapping) else not isinstance(value, list)


def _middle(value: Any) -> str:
    return _number(value["value"] if isinstance(value, Mapping) else value)


def _number(value: Any) -> str:
    """The value with three significant digits."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
