"""The floors of docs/architecture.md, read from there and enforced on every import statement of the package."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "genrank"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FLOORS = {
    room: int(floor)
    for floor, rooms in re.findall(r"^\| (\d+) \| ([^|]*) \|", PAGE, re.M)
    for room in re.findall(r"`(\w+)(?:/|\.py)`", rooms)
}
LIGHT_ROOMS = re.findall(r"`(\w+)/`", re.findall(r"^Light rooms: ([^.]*)\.", PAGE, re.M)[0])
LIGHT = {"torch", "triton", "numpy", "pyarrow", "safetensors", "rich", "genrank", *sys.stdlib_module_names}
ONLY_WHERE_ASKED_FOR = {"retrieval/faiss_search.py": {"faiss"}}
ENTRANCES = ("__init__", "__main__")  # what a user imports or runs: they may reach every floor


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if room_of(path) not in ENTRANCES)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Dotted names, `from genrank import x` as genrank.x."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            named = [f"genrank.{alias.name}" for alias in node.names] if node.module == "genrank" else [node.module]
            names |= {name for name in named if name and name != "genrank.__version__"}
    return names


def upward(room: str, source: str) -> list[str]:
    """Imports of rooms that don't stand below."""
    rooms = {name.split(".")[1] for name in imported(source) if name.startswith("genrank.")} - {room}
    return sorted(r for r in rooms if not (FLOORS[r] < FLOORS[room] or FLOORS[r] == FLOORS[room] == 0))


def test_the_page_names_every_room_and_no_other() -> None:
    there = {room_of(path) for path in modules()}
    assert there == set(FLOORS)
    assert set(LIGHT_ROOMS) == {"nn", "models", "retrieval", "data", "training"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only_and_rooms_of_one_floor_stay_apart(path: Path) -> None:
    assert not upward(room_of(path), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    ["from genrank import recipes", "import genrank.cli.options", "from genrank.models import ranker"],
)
def test_an_import_upwards_or_beside_is_found_however_it_is_written(line: str) -> None:
    assert upward("retrieval", f"def inside():\n    {line}\n")
    assert not upward("retrieval", "from genrank import nn, errors, __version__\nimport genrank.data.timelines\n")


@pytest.mark.parametrize("path", [p for p in modules() if room_of(p) in LIGHT_ROOMS], ids=lambda p: p.name)
def test_rooms_that_run_in_any_torch_image_import_nothing_else(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))} - LIGHT
    assert foreign <= ONLY_WHERE_ASKED_FOR.get(str(path.relative_to(SOURCE)), set())


def test_only_preparation_imports_the_engine() -> None:
    users = {room_of(path) for path in modules() if imported(path.read_text("utf-8")) & {"ibis", "duckdb"}}
    assert users == {"preparation"}


def test_importing_genrank_imports_no_torch() -> None:
    import subprocess

    code = "import sys, genrank; sys.exit('torch' in sys.modules or 'ibis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_a_run_import_no_file_formats() -> None:
    """A GPU machine that has nothing but torch, triton, numpy and safetensors trains on drawn data."""
    import subprocess

    others = {"pyarrow", "rich", "ibis", "duckdb", "msgspec"}
    code = f"import sys, genrank.recipes; sys.exit(bool({others} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
