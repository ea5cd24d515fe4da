"""The command line itself: what it refuses, what it explains, and what its flags mean."""

import subprocess
import sys

import pytest

from genrank import __version__
from genrank.cli import main
from genrank.cli.command_line import PANELS, program, with_optional_values

COMMANDS = [function.__name__ for functions in PANELS.values() for function in functions]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "genrank: No such command 'trian'. Did you mean 'train', 'rank'?; see genrank --help"),
        (["train"], "genrank: Missing argument 'DATA'; see genrank train --help"),
        (["train", "DATA"], "genrank: Missing option '--out'; see genrank train --help"),
        (["train", "DATA", "--recip", "x"], "genrank: No such option: --recip"),
        (["evaluate", "RUN", "--part", "tset"], "genrank: Invalid value for '--part': 'tset' is not one of"),
        (
            ["bench", "attention", "--minutes", "ten"],
            "genrank: Invalid value for '--minutes': it should be a valid number",
        ),
        ([], "genrank: "),
    ],
)
def test_arguments_that_a_command_does_not_know_are_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    group = program()
    command = group.get_command(group.make_context("genrank", [name, "--help"], resilient_parsing=True), name)
    flags = [flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")]
    assert flags
    assert all(flag in out for flag in flags)


@pytest.mark.parametrize("command", [[], ["train"]], ids=["genrank", "train"])
def test_help_has_a_short_flag(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    whole = capsys.readouterr().out
    assert main([*command, "-h"]) == 0
    assert capsys.readouterr().out == whole != ""


def test_the_version_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genrank {__version__}\n"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["serve", "RUN", "--trust-proxy"], ["serve", "RUN", "--trust-proxy=127.0.0.1"]),
        (["serve", "--trust-proxy", "--port", "1"], ["serve", "--trust-proxy=127.0.0.1", "--port", "1"]),
        (["serve", "--trust-proxy", "10.0.0.0/8"], ["serve", "--trust-proxy", "10.0.0.0/8"]),
        (["serve", "--trust-proxy=10.0.0.0/8", "RUN"], ["serve", "--trust-proxy=10.0.0.0/8", "RUN"]),
    ],
)
def test_a_proxy_is_trusted_on_this_machine_where_no_address_is_given(given: list[str], read: list[str]) -> None:
    assert with_optional_values(given) == read


def test_the_command_line_starts_without_what_only_its_commands_need() -> None:
    """Torch alone takes longer to import than all that a start may take."""
    heavy = ("torch", "numpy", "pyarrow", "ibis", "duckdb", "rich", "pydantic", "matplotlib", "starlette")
    code = (
        "import sys\nfrom genrank.cli import main\nassert main(['--version']) == 0\n"
        f"print(*(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"genrank {__version__}\n\n"
