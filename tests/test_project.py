"""The files around the package say what the package is."""

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
