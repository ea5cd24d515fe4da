"""Options that several commands share, and the parsing of arguments that hold several values."""

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from genrank.documents import parse_json
from genrank.errors import LONGEST_SHOWN, ConfigError, shown

if TYPE_CHECKING:
    from rich.console import Console


def option(help_text: str, *flags: str, metavar: str | None = None) -> Any:
    """An option whose default isn't shown: there is none, or the help names it. flags: by default the parameter's."""
    return Option(*flags, metavar=metavar, help=help_text, show_default=False)


def argument(metavar: str, help_text: str) -> Any:
    """A positional argument, under the name that the help has for it."""
    return Argument(metavar=metavar, help=help_text, show_default=False)


def settings_of(help_text: str) -> Any:
    """The option --set of a command, with its help."""
    return option(help_text, "--set", metavar="PATH=VALUE")


Part = Literal["valid", "test"]
RunFolder = Annotated[Path, argument("RUN", "a run's folder")]
PreparedFolder = Annotated[Path, argument("DATA", "a prepared folder")]
OutFolder = Annotated[Path, option("folder to write; it must be new", "--out")]
Histories = Annotated[Path | None, option("prepared data with the histories (default: the run's data)", "--data")]
DEVICES = "where the model computes: cpu, cuda, cuda:1 …"
Device = Annotated[str, option(f"{DEVICES} (default: auto, a GPU where there is one)", "--device")]
Json = Annotated[bool, Option("--json", help="print one JSON document on stdout and nothing else")]
Value = Annotated[str, option("value to order by, as in click=1,like=5", "--value", metavar="TASK=WEIGHT,…")]
Moment = Annotated[int | None, option("seconds since the epoch (default: just after the log's end)", "--time")]
Seed = Annotated[int, Option("--seed")]
RecipeOrBegin = Annotated[
    str | None,
    option("a named run; genrank recipes lists them (default: genrank, or that of --from)", "--recipe", metavar="NAME"),
]
Begin = Annotated[Path | None, option("warm start: begin from this finished run", "--from", metavar="RUN")]
A_DAY = "a date by the clocks of the schema's zone, or seconds since the epoch"


def console() -> "Console":
    """Where progress goes: stderr."""
    from rich.console import Console

    return Console(stderr=True)


def seconds_of(flag: str, text: str) -> int:
    """Seconds of a time such as 90s, 30m, 6h or 2d. ConfigError for anything else."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise ConfigError(f"{flag} {text[:LONGEST_SHOWN]}: expected a number and s, m, h or d, as in 2d")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def day_of(flag: str, text: str) -> int:
    """Days since the epoch of a date such as 2026-11-30. ConfigError for anything else."""
    try:
        return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise ConfigError(f"{flag} {text[:LONGEST_SHOWN]}: expected a date, as in 2026-11-30") from None


def ids(flag: str, text: str) -> list[str]:
    """The ids in `text`: separated by commas, or a JSON list, which can hold any id. ConfigError if it is neither."""
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text.strip() else []
    try:
        found = parse_json(text)
    except ValueError as problem:
        found = problem
    if isinstance(found, list) and all(isinstance(item, str | int) and not isinstance(item, bool) for item in found):
        return [str(item) for item in found]
    reason = found if isinstance(found, ValueError) else "expected a list of text"
    raise ConfigError(
        f"{flag} {text[:LONGEST_SHOWN]}: expected a JSON list of ids ({reason}); an id that begins with a bracket "
        """must be in such a list, as in '["[a"]'"""
    )


def pairs(flag: str, text: str) -> dict[str, Any]:
    """Values by name: from NAME=VALUE,… as text, or from a JSON object of any types. ConfigError if it is neither."""
    if text.lstrip().startswith("{"):
        try:
            given = parse_json(text)
        except ValueError as problem:
            raise ConfigError(f"{flag} {text[:LONGEST_SHOWN]}: expected a JSON object ({problem})") from None
        return dict(given)
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ConfigError(f"{flag} {part[:LONGEST_SHOWN]}: expected NAME=VALUE, separated by commas")
        found[name.strip()] = value.strip()
    return found


def weights_of(value: str) -> dict[str, float] | None:
    """The weights in a --value, None if it is empty. ConfigError for a weight that is no number."""
    return {name: _number(name, str(text)) for name, text in pairs("--value", value).items()} or None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--value {shown(name)}={shown(text)}: the weight must be a number") from None
