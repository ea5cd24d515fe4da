"""README's install commands are ones that pip takes, and SECURITY.md names tests that there are."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def test_what_is_said_to_be_installed_can_be() -> None:
    found = 0
    for path in PROSE:
        for argument in re.findall(r"pip install '([^']+)'", path.read_text(encoding="utf-8")):
            found += 1
            folder = re.fullmatch(r"\.\[(\w+)\]", argument)
            extras = {folder[1]} if folder else Requirement(argument.replace("{extra}", "all")).extras
            assert "@" not in argument, f"{path}: pip takes no local folder in {argument!r}; write '.[all]'"
            assert extras <= EXTRAS, f"{path}: {argument}"
    assert found > 5


def test_the_tests_that_security_rests_on_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).is_file()]
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
