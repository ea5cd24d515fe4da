"""The package as `pip install` lays it down: whole, and the command with it."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "src")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("pip") and importlib.util.find_spec("setuptools")),
        reason="building the package without a network needs pip and setuptools here",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project installed into an empty folder, without a network and without what it depends on."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return site


def test_everything_of_the_package_is_installed_and_nothing_else(site: Path) -> None:
    package = ROOT / "src" / "genrank"
    written = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    laid_down = {path.relative_to(site / "genrank") for path in (site / "genrank").rglob("*") if path.is_file()}
    assert {path for path in laid_down if "__pycache__" not in path.parts} == {
        path for path in written if "__pycache__" not in path.parts
    }
    assert [path.name for path in site.glob("*/__init__.py")] == ["__init__.py"]  # no tests, no benchmarks


def test_the_installed_command_works_away_from_the_source(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run(sys.executable, "-c", "import genrank; print(genrank.__file__)").strip()).is_relative_to(site)
    assert "genrank" in run(str(site / "bin" / "genrank"), "--version")
    assert "genrank-small" in run(str(site / "bin" / "genrank"), "recipes")


def test_what_is_declared_is_what_this_environment_has(site: Path) -> None:
    """The bounds of pyproject.toml admit the versions that the tests run with."""
    (about,) = importlib.metadata.distributions(name="genrank", path=[str(site)])
    checked = 0
    for text in about.requires or ():
        wanted = Requirement(text)
        if wanted.name != "genrank" and importlib.util.find_spec(wanted.name.replace("-", "_")):
            have = Version(Version(importlib.metadata.version(wanted.name)).public)
            assert have in wanted.specifier, f"{text}: found {have}"
            checked += 1
    assert checked >= 5
