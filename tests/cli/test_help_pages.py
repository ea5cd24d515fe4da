"""Help that is asked for and nothing else: Typer's page, without reading options, for which Typer imports Pydantic."""

import subprocess
import sys

import pytest

from genrank.cli import command_line
from genrank.cli.command_line import PANELS, main, program

NAMES = [function.__name__ for functions in PANELS.values() for function in functions]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_page_is_the_one_that_typer_prints(
    terminal: bool, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "_plain", lambda: not terminal)
    for arguments in ([flag], *([name, flag] for name in NAMES)):
        program().main(arguments, prog_name="genrank", standalone_mode=False)
        expected = capsys.readouterr().out
        assert main(arguments) == 0
        assert capsys.readouterr().out == expected
        assert "genrank" in expected


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["serve", "-h"]])
def test_a_page_is_printed_without_pydantic(arguments: list[str]) -> None:
    code = f"import sys; from genrank.cli import main; main({arguments}); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_an_unknown_command_has_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "--help"]) == 2
    assert "train" in capsys.readouterr().err
