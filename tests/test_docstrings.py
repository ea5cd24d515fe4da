"""What docstrings and comments point to exists: module paths, and names in backticks or after "see"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "src" / "genrank").rglob("*.py"))}
# Words of others, and keys that are put together from parts.
FOREIGN = {
    "dev",
    "appendonly",
    "click_time",
    "like_time",
    "follow_time",
    "time_ratio",
    "memory_ratio",
    "int8_over_hnsw",
}


def names() -> set[str]:
    """Every identifier of the package, and every word of its short strings."""
    found: set[str] = set()
    for text in FILES.values():
        for node in ast.walk(ast.parse(text)):
            for attribute in ("name", "id", "attr", "arg"):
                value = getattr(node, attribute, None)
                found |= {value} if isinstance(value, str) else set()
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
                found |= set(re.findall(r"\w+", node.value))
    return found


def prose(text: str) -> list[str]:
    """Docstrings and comments."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    comments = [line.split("#", 1)[1] for line in text.splitlines() if "#" in line]
    return [part for part in (*docs, *comments) if part]


def pointers(text: str, known: set[str]) -> list[str]:
    """What a text points to and isn't there."""
    missing = []
    for path in re.findall(r"\b([a-z_]+(?:/[a-z_]+)*\.py)\b", text):
        there = any(file.as_posix().endswith(f"/{path}") for file in FILES)
        if not there and not any((ROOT / folder / path).exists() for folder in ("", "benchmarks", "tests")):
            missing.append(path)
    named = re.findall(r"\b[Ss]ee ([A-Z]\w+)", text) + re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", text)
    return missing + [name for name in named if name.split(".")[-1] not in known | FOREIGN]


KNOWN = names()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "src" / "genrank").as_posix())
def test_what_prose_points_to_exists(path: Path) -> None:
    assert [missing for part in prose(FILES[path]) for missing in pointers(part, KNOWN)] == []


def test_a_pointer_to_nothing_is_found() -> None:
    text = "see data/no_such.py, See NoSuchClass, and `no_such_name`; but data/sequence.py and `Timelines` are there"
    assert pointers(text, KNOWN - {"NoSuchClass", "no_such_name"}) == ["data/no_such.py", "NoSuchClass", "no_such_name"]
