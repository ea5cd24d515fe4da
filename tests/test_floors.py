"""The floors of docs/architecture.md, enforced on every import statement of the package."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "genrank"
FLOORS = {
    "errors": 0, "ids": 0, "schema": 0, "reading": 0, "config": 0, "batch": 0, "folders": 0, "documents": 0, "locks": 0,
    "finite_json": 0,
    "data": 1, "nn": 1, "client": 1,
    "models": 2, "retrieval": 2,
    "training": 3, "evaluation": 3, "serving": 3,
    "runs": 4,
    "recipes": 5, "simulation": 5, "service": 5,
    "bench": 6, "demo": 6, "doctor": 6,
    "studies": 7,
    "commands": 8,
    "cli": 9,
}  # fmt: skip
# data/ is read on GPU machines that have torch only; preparation, which needs Ibis, is imported when it is called.
LIGHT = {"torch", "triton", "numpy", "pyarrow", "safetensors", "rich", "genrank"}
LIGHT_ROOMS = ("nn", "models", "training")


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            assert node.level == 0, f"{path}: relative import"
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only_and_rooms_of_one_floor_stay_apart(path: Path) -> None:
    room = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "genrank" and len(parts) > 1 and parts[1] not in (room, "__version__"):
            assert FLOORS[parts[1]] < FLOORS[room] or (FLOORS[room] == FLOORS[parts[1]] == 0), f"{path}: imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if room_of(p) in LIGHT_ROOMS], ids=lambda p: p.name)
def test_rooms_that_run_in_any_torch_image_import_nothing_else(path: Path) -> None:
    import sys

    foreign = {name.split(".")[0] for name in imported(path)} - LIGHT - set(sys.stdlib_module_names) - {"__future__"}
    assert not foreign


def test_importing_genrank_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, genrank; sys.exit('torch' in sys.modules or 'ibis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
