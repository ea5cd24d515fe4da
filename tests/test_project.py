"""The files around the package say what the package is."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_one_everywhere() -> None:
    assert re.findall(r"^version: (\S+)$", text("CITATION.cff"), re.M) == [PROJECT["version"]]
    headings = re.findall(r"^## \[(\S+)\]$", text("CHANGELOG.md"), re.M)
    assert headings[0] == "Unreleased"
    assert PROJECT["version"] in headings


def test_the_image_installs_extras_that_there_are_and_starts_a_command_that_there_is() -> None:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text("Dockerfile"))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text("Dockerfile"), re.M)
    named = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in named)
    assert {f"!{name}" for name in named} <= set(text(".dockerignore").split())


def test_contributors_are_told_commands_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    assert set(re.findall(r"make ([a-z-]+)", text("CONTRIBUTING.md"))) <= targets
    assert (ROOT / ".ci" / "run").exists()


def test_no_test_ends_early_by_a_return() -> None:
    """What can't be tested here is skipped, with the reason, and never passed over in silence."""
    found, num_tests = [], 0
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
                num_tests += 1
                found += [f"{path.relative_to(ROOT)}:{line}" for line in _returns(test)]
    assert num_tests > 1000
    assert not found, "skip with pytest.skip, or test the other case in a test of its own"


def _returns(function: ast.AST) -> list[int]:
    """Lines of a function's own `return`s, those of functions within it not counted."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
    lines: list[int] = []
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Return):
            lines.append(node.lineno)
        elif not isinstance(node, inner):
            lines += _returns(node)
    return lines


def test_what_always_holds_is_tested_by_default() -> None:
    """Every test that docs/testing.md names for an invariant exists, and is not left to the slow tests as a whole."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text("docs/testing.md"))
    assert len(named) > 15
    for path, name in named:
        tests = [node for node in ast.parse(text(path)).body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert tests, f"{path}::{name} is not there"
        assert not any("slow" in ast.unparse(mark).split("(")[0] for mark in tests[0].decorator_list), name


def test_no_public_class_or_module_has_the_name_of_another() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src" / "genrank").rglob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            found.setdefault(f"module {path.stem}", []).append(str(path))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(f"class {node.name}", []).append(str(path))
    assert len(found) > 500
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
