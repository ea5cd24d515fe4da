"""The one way in which JSON and TOML are read: whatever the bytes are, they are plain values or an error of one line.

Python's own readers let through, or fail in five ways on, what no file of genrank holds: numbers of thousands of
digits, thousands of brackets, halves of a character (a lone `\\ud800`), which break whatever meets them later.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from genrank.errors import LONGEST_SHOWN, InputError

DEEPEST = 64  # brackets within brackets; genrank's own files have fewer than 12


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON document. ValueError, in one line, for all that is none."""
    return _parse(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML document. ValueError, in one line, for all that is none."""
    values: dict[str, Any] = _parse(tomllib.loads, text)
    return values


def _parse(reader: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        values = reader(text)
        _check(values)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except MemoryError:
        raise ValueError("larger than memory") from None
    except UnicodeError:
        raise ValueError("not in UTF-8") from None
    except ValueError as problem:
        if "integer string conversion" in str(problem):  # Python's limit, whose message advises programmers
            raise ValueError("a number of thousands of digits") from None
        raise ValueError(" ".join(str(problem).split())[:LONGEST_SHOWN]) from None
    return values


def read_json(path: Path, *, error: type[InputError], remedy: str, kind: type = dict) -> Any:
    """The document in a file, an object unless `kind` says otherwise.

    Raises `error`, ending in `remedy`, where the file is missing, unreadable, damaged or of another kind than this;
    `object` is any.
    """
    try:
        values = parse_json(path.read_bytes())
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror}); {remedy}") from None
    except ValueError as problem:
        raise error(f"{path}: damaged ({problem}); {remedy}") from None
    if not isinstance(values, kind):
        raise error(f"{path}: damaged (expected {_NAMES[kind]}, found {_NAMES[type(values)]}); {remedy}")
    return values


def read_json_lines(path: Path, *, error: type[InputError], remedy: str) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line. `error` names the line that is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror}); {remedy}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(parse_json(line))
        except ValueError as problem:
            raise error(f"{path}, line {number}: damaged ({problem}); {remedy}") from None
        if not isinstance(rows[-1], dict):
            raise error(f"{path}, line {number}: damaged (not a JSON object); {remedy}")
    return rows


def read_toml(path: Path, *, error: type[InputError], remedy: str) -> dict[str, Any]:
    """The document in a file. Raises `error`, ending in `remedy`, where the file is missing, unreadable or no TOML."""
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror}); {remedy}") from None
    except ValueError as problem:
        raise error(f"{path}: not valid TOML: {problem}; {remedy}") from None


_NAMES: dict[type, str] = {
    dict: "object",
    list: "list",
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    type(None): "null",
}


def _check(values: Any) -> None:
    level = [values]
    for _ in range(DEEPEST):
        level = [each for value in level for each in _within(value)]
        if not level:
            return
    raise ValueError("nested too deep")


def _within(value: Any) -> Iterator[Any]:
    """What an object or list holds; ValueError for text that no file can hold."""
    if isinstance(value, dict):
        for key in value:
            _check_text(key)
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, str):
        _check_text(value)


def _check_text(text: str) -> None:
    if not text.isascii():
        text.encode()
