"""TOML as lines with comments, for files that people are to read and change."""

import json
import textwrap
from collections.abc import Iterator, Sequence


def quoted(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def setting(name: str, value: str | float | bool | Sequence[str]) -> str:
    """`name = value`."""
    return f"{name} = {quoted(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def comment(text: str) -> Iterator[str]:
    """Lines of a comment, in one paragraph; letters that don't print are left out."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    yield from textwrap.wrap(plain, 118, initial_indent="# ", subsequent_indent="# ")


def block(title: str, lines: Sequence[str], *, why: str = "", active: bool = True) -> Iterator[str]:
    """A table under its title with the reason above it, or, where it isn't `active`, the same commented out."""
    yield from comment(why)
    for line in (title, *lines):
        yield line if active else f"# {line}"
    yield ""
