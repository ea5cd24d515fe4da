"""Values in the names of a log's folders, such as day=2023-11-15/part-0.parquet."""

from datetime import date
from pathlib import Path
from urllib.parse import unquote

NULL = "__HIVE_DEFAULT_PARTITION__"
Value = str | int | date | None


def partition_values(path: Path, paths: list[Path]) -> dict[str, Value]:
    """Name → value of the path's partitions, where all `paths` have the same names; whole numbers and dates where all
    values are."""
    found = [_of(each) for each in paths]
    if any(list(each) != list(found[0]) for each in found):
        return {}
    mine = _of(path)
    return {name: _typed(mine[name], [each[name] for each in found]) for name in mine}


def _of(path: Path) -> dict[str, str]:
    parts = (part.partition("=") for part in path.parent.parts)
    return {name: unquote(value) for name, mark, value in parts if name and mark}


def _typed(value: str, values: list[str]) -> Value:
    if value == NULL:
        return None
    known = [each for each in values if each != NULL]
    for kind in (date.fromisoformat, int):
        try:
            typed = {each: kind(each) for each in known}
        except ValueError:
            continue
        return typed[value]
    return value
