"""The command line: `genrank COMMAND …`. Exit codes: 0 success, 1 a failure of genrank, 2 wrong input, 130 interrupted.

Progress and logs go to stderr; with --json stdout holds one JSON document and nothing else.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from genrank.cli import data_commands, run_commands, serving_commands, study_commands, walk_command
from genrank.errors import LONGEST_SHOWN, ConfigError, GenRankError, InputError, Interrupted, shown

HELP_OPTIONS = ("--help", "-h")
FAULT = "an internal error of genrank"
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Begin": (data_commands.doctor, data_commands.demo),
    "From logs to data": (data_commands.simulate, data_commands.schema, data_commands.prepare, data_commands.expire),
    "Train and evaluate": (data_commands.recipes, run_commands.train, run_commands.evaluate, walk_command.walk),
    "Rank and retrieve": (run_commands.rank, run_commands.score, run_commands.index, run_commands.retrieve),
    "Serve": (serving_commands.publish, serving_commands.serve, serving_commands.store, serving_commands.replay),
    "Measure": (study_commands.study, study_commands.results, study_commands.bench),
}

# Idle OpenMP threads that spin take cores from other programs; threads that sleep at once halve the speed of a small
# model. So they spin for some microseconds, then sleep. OpenMP reads these variables when torch is imported, later on.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}


class _CheckedCommand(TyperCommand):
    """A command that refuses arguments with NUL or invalid UTF-8, and paths that are too long."""

    def invoke(self, ctx: Any) -> Any:
        for name, value in ctx.params.items():
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str | Path):
                    _check_text(name, text)
        return super().invoke(ctx)


def _check_text(name: str, text: str | Path) -> None:
    try:
        whole = "\0" not in os.fsdecode(text).encode().decode()
    except UnicodeError:
        whole = False
    if not whole:
        raise ConfigError(f"{name}: expected text in UTF-8 without NUL, found {shown(str(text))}")
    if isinstance(text, Path) and _too_long(text):
        raise ConfigError(
            f"{name}: expected a path of at most 4,000 bytes, each name in it at most 255, found {shown(str(text))}"
        )


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > 4000 or any(len(os.fsencode(part)) > 255 for part in path.parts)


def _print_version(wanted: bool) -> None:
    if wanted:
        from genrank import __version__  # reading the version takes a fifth of the start-up time

        sys.stdout.write(f"genrank {__version__}\n")
        raise typer.Exit


def _program(
    _version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="print more on stderr")] = False,
    _traceback: Annotated[bool, typer.Option("--traceback", help="show the traceback of an internal error")] = False,
) -> None:
    """Generative ranking for recommender systems."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")


def program() -> Any:
    """The command `genrank` with all of its commands, as Typer builds it."""
    app = typer.Typer(
        callback=_program,
        rich_markup_mode=None if _plain() else "rich",
        context_settings={"help_option_names": list(HELP_OPTIONS)},
    )
    for panel, functions in PANELS.items():
        for function in functions:
            app.command(cls=_CheckedCommand, rich_help_panel=panel)(function)
    return typer.main.get_command(app)


def _plain() -> bool:
    """Whether help is printed without frames and colours: where stdout is no terminal."""
    return not sys.stdout.isatty()


def with_optional_values(arguments: Sequence[str]) -> list[str]:
    """The arguments, with its default put behind a `--trust-proxy` without a value: Typer has no optional values."""
    found = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        bare = argument == "--trust-proxy" and following.startswith("-")
        found.append(f"{argument}={serving_commands.LOCALHOST}" if bare else argument)
    return found


def _help_page(commands: Any, arguments: Sequence[str]) -> typer.Context | None:
    """The context whose help the arguments ask for and nothing else: `--help` or `COMMAND --help`.

    Typer would give the same page after it had read the options, for which it imports Pydantic: half of the time.
    """
    *names, last = arguments or [""]
    if last not in HELP_OPTIONS or len(names) > 1 or not set(names) <= set(commands.commands):
        return None
    page = typer.Context(commands, info_name="genrank", **commands.context_settings)
    for name in names:
        page = typer.Context(commands.commands[name], info_name=name, parent=page)
    return page


def _run(arguments: Sequence[str]) -> int | None:
    commands = program()
    page = _help_page(commands, arguments)
    if page is None:
        code: int | None = commands.main(with_optional_values(arguments), prog_name="genrank", standalone_mode=False)
        return code
    typer.echo(page.get_help())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
    except typer.TyperException as problem:
        return _fail(ConfigError(f"{_said(problem)}; see genrank {_command(given)}--help"), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(GenRankError("interrupted"), 130)
    except InputError as problem:
        return _fail(problem, 2)
    except Interrupted as problem:
        return _fail(problem, 130)
    except GenRankError as problem:
        return _fail(problem, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reading program, such as head, has ended
        return 0
    except OSError as problem:
        if problem.filename is None:
            return _fault(problem, given)
        reason = f"{problem.strerror}; free some space, give another path, or change the path's owner or permissions"
        return _fail(InputError(f"{os.fsdecode(problem.filename)[-1000:]}: {reason}"), 2)
    except Exception as problem:  # noqa: BLE001 - reported in one line; --traceback shows more
        return _fault(problem, given)
    return code or 0


def _said(problem: typer.TyperException) -> str:
    """Typer's message on wrong arguments, without its capitals and full stop."""
    return problem.format_message().replace("Value error, ", "").replace("Input should be", "it should be").rstrip(".")


def _command(arguments: Sequence[str]) -> str:
    """The name of the called command and a space; empty if there is no such command."""
    names = [function.__name__ for functions in PANELS.values() for function in functions]
    return next((f"{argument} " for argument in arguments if argument in names), "")


def _fail(problem: Exception, code: int) -> int:
    text = "".join(letter if letter.isprintable() else " " for letter in str(problem))
    print(f"genrank: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return code


def _fault(problem: Exception, arguments: Sequence[str]) -> int:
    """Report an exception that nothing has foreseen: a bug, or wrong input that lacks its check."""
    if "--traceback" in arguments:
        raise problem
    reason = f"{type(problem).__name__}: {str(problem)[:LONGEST_SHOWN]}"
    return _fail(GenRankError(f"{FAULT} ({reason}); report it with what genrank --traceback … shows"), 1)
