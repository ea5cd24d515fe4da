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

Part = Literal["valid", "test"]
RunFolder = Annotated[Path, Argument(metavar="RUN", help="a run's folder", show_default=False)]
PreparedFolder = Annotated[Path, Argument(metavar="DATA", help="a prepared folder", show_default=False)]
OutFolder = Annotated[Path, Option("--out", help="folder to write; it must be new", show_default=False)]
Histories = Annotated[
    Path | None, Option("--data", help="prepared data with the histories (default: the run's data)", show_default=False)
]
DEVICES = "where the model computes: cpu, cuda, cuda:1 …"
Device = Annotated[
    str, Option("--device", help=f"{DEVICES} (default: auto, a GPU where there is one)", show_default=False)
]
Json = Annotated[bool, Option("--json", help="print one JSON document on stdout and nothing else")]
Value = Annotated[
    str,
    Option("--value", metavar="TASK=WEIGHT,…", help="value to order by, as in click=1,like=5", show_default=False),
]
Moment = Annotated[
    int | None, Option("--time", help="seconds since the epoch (default: just after the log's end)", show_default=False)
]
Seed = Annotated[int, Option("--seed")]
RecipeOrBegin = Annotated[
    str | None,
    Option(
        "--recipe",
        metavar="NAME",
        help="a named run; genrank recipes lists them (default: genrank, or that of --from)",
        show_default=False,
    ),
]
Begin = Annotated[
    Path | None,
    Option("--from", metavar="RUN", help="warm start: begin from this finished run", show_default=False),
]
A_DAY = "a date by the clocks of the schema's zone, or seconds since the epoch"


def settings_of(help_text: str) -> Any:
    """The option --set of a command, with its help."""
    return Option("--set", metavar="PATH=VALUE", help=help_text, show_default=False)


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
