"""Which code computed a figure: versions, and a digest of the modules that the figure depends on.

These are the modules that computing a cell imports, found by their import statements, without those that only draw,
phrase or store figures. Comments, docstrings and blank lines are not part of the digest.
"""

import ast
import io
import platform
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genrank
from genrank.schema import fingerprint

ROOT = Path(genrank.__file__).parent
CELL = "genrank.studies.running"
DECIDES_NOTHING = {
    "genrank",
    *("genrank.evaluation.report_charts", "genrank.evaluation.page", "genrank.evaluation.report", "genrank.errors"),
    *("genrank.studies.cells", "genrank.studies.cell_archive", "genrank.studies.code", "genrank.studies.study"),
}
NATIVE = (".cpp", ".h")


def made_with() -> dict[str, Any]:
    """What a cell records of the code that computed it: the digest, and versions."""
    return {
        "code": code_digest(),
        "versions": {
            "genrank": genrank.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


@cache
def code_digest(module: str = CELL) -> str:
    """Digest of `module` and all that it imports; the same for code that differs in comments and docstrings only."""
    texts = {}
    for name, path in sorted(modules(module).items()):
        texts[name] = significant(path.read_text(encoding="utf-8"))
        for native in path.parent.iterdir():
            if native.suffix in NATIVE:
                texts[native.name] = native.read_text(encoding="utf-8")
    return fingerprint(texts)[:16]


def modules(name: str) -> dict[str, Path]:
    """`name` and every module of genrank that it imports, directly or indirectly, except DECIDES_NOTHING."""
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in found or name in DECIDES_NOTHING or path is None:
            continue
        found[name] = path
        waiting += _imported(ast.parse(path.read_text(encoding="utf-8")))
    return found


def significant(source: str) -> str:
    """The source without comments, docstrings and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                assert first.end_lineno is not None
                lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _path(name: str) -> Path | None:
    room, *rest = name.split(".")
    if room != ROOT.name:
        return None
    path = ROOT.joinpath(*rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
